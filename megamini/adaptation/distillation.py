"""`initialise: distil`: the rows of `combined`, learned on until hidden states match those of what the source can read.

Token distillation (Dobler, Elliott and de Melo 2025, arXiv 2505.20133) matches the states of the source tokenizer's own
segmentation, which say what the source knows of the language. Where there is parallel text, those of lines and of
their aligned pieces are matched instead; else, with a word list, those of the training text translated word by word.
Only the body is run, no head; only rows of new pieces move.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from megamini.adaptation.hidden_states import hidden_states, means_over
from megamini.adaptation.matched_text import MatchedText, Vocabulary, matched_texts
from megamini.adaptation.relearning.setup import RelearningSetup
from megamini.adaptation.starting_points.initialise import StartingPoint
from megamini.adaptation.starting_points.lexicon import Lexicon
from megamini.adaptation.starting_points.piece_forms import piece_forms, shared_pieces
from megamini.costs.flops import BodyShape, body_forward_flops, training_flops
from megamini.errors import UserError
from megamini.machine import best_device

UPDATES = 100
TEXTS = 32  # of an update
HELD_OUT = 256  # texts, at most a tenth: how far their states match is told
LEAST = 10  # texts: of fewer, none can be held out


def distilled(
    setup: RelearningSetup,
    language: str,
    start: StartingPoint,
    lexicon: Lexicon | None,
    pairs: Sequence[tuple[str, str]] | None,
    most_flops: int | None = None,
) -> StartingPoint:
    """`start` with the rows of new pieces learned. lexicon, pairs: translations into the source's language, if any.
    most_flops: for a trial, which learns from fewer texts where all would cost more.

    The facts say from what, how far the states of texts that are held out match, before and after, and what it cost.
    Raises `UserError` where there is nothing to match: no translation, and no text that the source can spell.
    """
    begun = time.perf_counter()
    text, source, device = setup.texts[language], setup.source.vocabulary, best_device()
    ours, theirs = (
        Vocabulary(tokenizer, piece_forms(tokenizer), setup.block_length)
        for tokenizer in (text.tokenizer, source.tokenizer)
    )
    told = matched_texts(text.train, UPDATES * TEXTS, ours, theirs, lexicon, pairs)
    seen, held = _split([one for some in told.values() for one in some])
    if not held:
        raise UserError(_too_little(setup, text.path, sum(map(len, told.values()))))
    new = np.array([form is not None for form in ours.forms]) & (shared_pieces(theirs.forms, ours.forms) < 0)
    body = copy.deepcopy(setup.source.body).to(device).eval().requires_grad_(False)
    rows = _Rows(body, start.matrix.to(device), source.matrix.to(device), torch.from_numpy(new).to(device))
    batch = setup.batches.micro_batch
    rows.measure_spread(held, batch)
    before = rows.unmatched(held, batch)
    shape = BodyShape.from_config(body.config)
    updates = _affordable(_in_updates(seen, setup.recipe.training.seed), shape, most_flops)
    learned = rows.learn(updates, batch, setup.recipe.optimizer.learning_rate)
    facts: dict[str, Any] = {
        "texts": {name: len(some) for name, some in told.items()},
        "rows": int(new[sorted({number for one in learned for number in one.ours})].sum()),
        "unmatched_before": round(before, 4),
        "unmatched_after": round(rows.unmatched(held, batch), 4),
        "tokens": sum(len(one.ours) for one in learned),
        "flops": _flops(learned, shape),
        "seconds": round(time.perf_counter() - begun, 3),
    }
    facts = {**start.facts, "kind": "distil", "distillation": facts}
    return replace(start, matrix=rows.matrix.detach().cpu(), facts=facts)


class _Rows:
    """A token matrix whose rows of some pieces learn to give hidden states over a frozen body."""

    def __init__(self, body: PreTrainedModel, matrix: torch.Tensor, theirs: torch.Tensor, moving: torch.Tensor) -> None:
        self._body, self._theirs, self._spread = body, theirs, 1.0
        self.matrix = torch.nn.Parameter(matrix.clone())
        # Adam leaves a row whose gradients are all 0 where it is, to the bit.
        self.matrix.register_hook(lambda gradient: gradient * moving[:, None])

    @torch.no_grad()
    def measure_spread(self, texts: Sequence[MatchedText], batch: int) -> None:
        """What differences count against: how far the states to match lie from their mean, squared."""
        wanted = torch.cat([self._wanted(some) for some in _batches(texts, batch)])
        self._spread = float((wanted - wanted.mean(0)).square().sum(1).mean())

    @torch.no_grad()
    def unmatched(self, texts: Sequence[MatchedText], batch: int) -> float:
        """Mean squared difference over spans, in spreads: 1 for states that are all the mean of those to match."""
        return sum(float(self._difference(some)) for some in _batches(texts, batch)) / _spans(texts)

    def learn(self, updates: Sequence[Sequence[MatchedText]], batch: int, learning_rate: float) -> list[MatchedText]:
        """One step for the texts of each update, at a rate that rises for a fifth of them and then falls to 0; the
        texts that were learned from."""
        optimizer = torch.optim.Adam([self.matrix], betas=(0.9, 0.98))
        for number, texts in enumerate(updates):
            for some in _batches(texts, batch):
                (self._difference(some) / _spans(texts)).backward()
            rising, falling = 5 * (number + 1) / len(updates), 1 - number / len(updates)
            optimizer.param_groups[0]["lr"] = learning_rate * min(1, rising, falling)
            optimizer.step()
            optimizer.zero_grad()
        return [text for texts in updates for text in texts]

    def _difference(self, texts: Sequence[MatchedText]) -> torch.Tensor:
        with torch.no_grad():
            wanted = self._wanted(texts)
        states = hidden_states(self._body, self.matrix, [text.ours for text in texts])
        found = means_over(states, [[ours for ours, _ in text.spans] for text in texts])
        return (found - wanted).square().sum() / self._spread

    def _wanted(self, texts: Sequence[MatchedText]) -> torch.Tensor:
        states = hidden_states(self._body, self._theirs, [text.theirs for text in texts])
        return means_over(states, [[theirs for _, theirs in text.spans] for text in texts])


def _too_little(setup: RelearningSetup, path: str, count: int) -> str:
    """What to do depends on what was given: of that, `count` texts could be matched."""
    section, least = setup.recipe.adaptation, f"{LEAST} are needed; give more, or start from 'combined'"
    if section.parallel is not None:
        return f"adaptation.parallel: {section.parallel[0]}: distil can match {count} of its lines, and {least}"
    if section.lexicon is not None:
        return f"adaptation.lexicon: {section.lexicon}: its words are in {count} texts of {path}, and {least}"
    return (
        f"adaptation.initialise: distil: there is too little that the source can read of {path}; give "
        "adaptation.lexicon or adaptation.parallel, or start from 'combined'"
    )


def _split(texts: list[MatchedText]) -> tuple[list[MatchedText], list[MatchedText]]:
    """Texts to learn from and, evenly spread, texts that are held out."""
    count = min(HELD_OUT, len(texts) // LEAST)
    held = {number * len(texts) // count for number in range(count)}
    return [one for n, one in enumerate(texts) if n not in held], [texts[n] for n in sorted(held)]


def _in_updates(texts: Sequence[MatchedText], seed: int) -> list[list[MatchedText]]:
    """`UPDATES` times `TEXTS` of them, shuffled anew for each pass."""
    draw, order = np.random.default_rng(seed), np.zeros(0, np.int64)
    while len(order) < UPDATES * TEXTS:
        order = np.concatenate([order, draw.permutation(len(texts))])
    return [[texts[n] for n in order[start : start + TEXTS]] for start in range(0, UPDATES * TEXTS, TEXTS)]


def _affordable(updates: list[list[MatchedText]], shape: BodyShape, most_flops: int | None) -> list[list[MatchedText]]:
    """The first ones that cost no more than that together."""
    spent = accumulate(_flops(texts, shape) for texts in updates)
    return [texts for texts, so_far in zip(updates, spent, strict=True) if most_flops is None or so_far <= most_flops]


def _flops(texts: Sequence[MatchedText], shape: BodyShape) -> int:
    return sum(
        training_flops(shape, len(one.ours), 0, "standard") + body_forward_flops(shape, len(one.theirs))
        for one in texts
    )


def _batches(texts: Sequence[MatchedText], batch: int) -> Iterator[Sequence[MatchedText]]:
    for start in range(0, len(texts), batch):
        yield texts[start : start + batch]


def _spans(texts: Sequence[MatchedText]) -> int:
    return sum(len(text.spans) for text in texts)
