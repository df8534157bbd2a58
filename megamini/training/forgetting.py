"""Active forgetting (Chen et al. 2023, arXiv 2307.01163): token embeddings start anew every K updates.

The body thereby learns to work with embeddings that are new to it, as it will meet them in a new language.
"""

from dataclasses import dataclass

import torch

from megamini.config import ForgettingSection, duration_in_updates
from megamini.data.hashing import random_bits


@dataclass(frozen=True)
class Forgetting:
    """When the token embeddings are drawn again: after every `every` updates up to `last`."""

    every: int
    last: int

    def is_due(self, updates_done: int) -> bool:
        """Whether to forget after `updates_done` updates."""
        return 0 < updates_done <= self.last and updates_done % self.every == 0


def build_forgetting(section: ForgettingSection | None, tokens_per_update: int, updates: int) -> Forgetting | None:
    """The recipe's forgetting, or None."""
    if section is None:
        return None
    last_stretch = max(1, duration_in_updates(section.none_in_last, tokens_per_update))
    return Forgetting(max(1, duration_in_updates(section.every, tokens_per_update)), updates - last_stretch)


def fresh_token_embeddings(
    shape: tuple[int, int], standard_deviation: float, pad_id: int, seed: int, updates_done: int
) -> torch.Tensor:
    """A new token matrix fp32 [V, d] from N(0, standard_deviation^2), pad row zero: the same on every rank."""
    generator = torch.Generator().manual_seed(int(random_bits(seed, updates_done)) >> 1)
    matrix = torch.randn(shape, generator=generator) * standard_deviation
    matrix[pad_id] = 0
    return matrix
