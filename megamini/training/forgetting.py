"""Active forgetting (Chen et al. 2023, arXiv 2307.01163): token embeddings start anew every K updates.

The body thereby learns to work with embeddings that are new to it, as it will meet them in a new language.
"""

from dataclasses import dataclass

import torch

from megamini.data.hashing import random_bits
from megamini.recipes.objective import ForgettingSection
from megamini.recipes.values import duration_in_updates


@dataclass(frozen=True)
class Forgetting:
    """When the token embeddings are drawn again: after every `every` updates up to `last`; and from what."""

    every: int
    last: int
    seed: int
    pad_id: int | None
    standard_deviation: float

    def is_due(self, updates_done: int) -> bool:
        """Whether to forget after `updates_done` updates."""
        return 0 < updates_done <= self.last and updates_done % self.every == 0

    def draw(self, shape: tuple[int, int], updates_done: int) -> torch.Tensor:
        """The new token matrix fp32 [V, d], the same on every rank."""
        return fresh_token_embeddings(shape, self.standard_deviation, self.pad_id, self.seed, updates_done)

    def draw_all(self, shape: tuple[int, int], updates_done: int, count: int) -> list[torch.Tensor]:
        """The new token matrix and, where there are two, the new output matrix, which has no row of zeros."""
        deviation = self.standard_deviation
        others = [_drawn(shape, deviation, self.seed, updates_done, number) for number in range(1, count)]
        return [self.draw(shape, updates_done), *others]


def build_forgetting(
    section: ForgettingSection | None,
    tokens_per_update: int,
    updates: int,
    seed: int,
    pad_id: int | None,
    standard_deviation: float,
) -> Forgetting | None:
    """The recipe's forgetting, or None."""
    if section is None:
        return None
    last_stretch = max(1, duration_in_updates(section.none_in_last, tokens_per_update))
    every = max(1, duration_in_updates(section.every, tokens_per_update))
    return Forgetting(every, updates - last_stretch, seed, pad_id, standard_deviation)


def fresh_token_embeddings(
    shape: tuple[int, int], standard_deviation: float, pad_id: int | None, seed: int, updates_done: int
) -> torch.Tensor:
    """A new token matrix fp32 [V, d] from N(0, standard_deviation^2), the pad's row zero: the same on every rank."""
    matrix = _drawn(shape, standard_deviation, seed, updates_done)
    if pad_id is not None:
        matrix[pad_id] = 0
    return matrix


def _drawn(shape: tuple[int, int], standard_deviation: float, *keys: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(random_bits(*keys)) >> 1)
    return torch.randn(shape, generator=generator) * standard_deviation
