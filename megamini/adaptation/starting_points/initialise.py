"""Starting points of a new language: its token matrix and output bias before anything is learned.

`random` is the published one; the others start closer, and the smaller the run, the more that decides (docs/method.md).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.starting_points.focus import choose_backend, deepfocus_rows, focus_rows
from megamini.adaptation.starting_points.lexicon import lexicon_rows, read_lexicon
from megamini.adaptation.starting_points.piece_forms import Form, piece_forms, shared_pieces
from megamini.data.blocks import Blocks
from megamini.data.tokenizer import load_tokenizer, pad_alone, special_roles
from megamini.errors import UserError, did_you_mean
from megamini.files import sha256_of
from megamini.training.forgetting import fresh_token_embeddings

KINDS = ("random", "unigram", "overlap", "focus", "lexicon")
RANDOM_DEVIATION = 0.02  # of random rows, as published
_READ_BLOCKS = 4096


@dataclass(frozen=True)
class Source:
    """What the body was trained with: token matrix fp32 [V_s, d], output bias fp32 [V_s] or None, tokenizer."""

    matrix: torch.Tensor
    output_bias: torch.Tensor | None
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Target:
    """The new language: tokenizer, how often the training text has each piece int64 [V_t], and, for `focus`, a function
    that reads that text anew: documents or blocks of token ids, each int [...]. Special ids in it are passed over."""

    tokenizer: PreTrainedTokenizerBase
    unigram_counts: np.ndarray
    text: Callable[[], Iterable[np.ndarray]] | None = None

    @classmethod
    def of(cls, data: str | Path) -> "Target":
        """The target of a data directory. Raises UserError where that is not whole."""
        blocks = Blocks(data, "train")
        try:
            counts = np.load(Path(data) / "unigram_counts.npy")
        except (OSError, ValueError):
            raise UserError(
                f"{data}/unigram_counts.npy: missing or torn; make the data again: tools/prepare_data.py"
            ) from None

        def text() -> Iterable[np.ndarray]:
            for start in range(0, len(blocks), _READ_BLOCKS):
                yield from blocks.read(np.arange(start, min(start + _READ_BLOCKS, len(blocks))))

        return cls(load_tokenizer(data), counts, text)


@dataclass(frozen=True)
class StartingPoint:
    """matrix: fp32 [V_t, d]. bias: fp32 [V_t]. facts: what a report should say about them, as JSON can hold it."""

    matrix: torch.Tensor
    bias: torch.Tensor
    facts: dict[str, Any]


def initialise(
    kind: str,
    source: Source,
    target: Target,
    seed: int,
    *,
    bias: Literal["unigram", "source"] | None = None,
    lexicon: str | Path | None = None,
    match_case: bool = False,
    focus_through: str | None = None,
) -> StartingPoint:
    """The token matrix and output bias that relearning starts from; a pure function of its arguments.

    - random: every row from N(0, 0.02^2), special ones too, pad row zero, as published (Artetxe et al. 2020).
    - unigram: the same, with the special rows of the source.
    - overlap: pieces that stand for the same text in both vocabularies are copied, the others drawn from the source's
      distribution: mean and deviation of each dimension over the source's ordinary rows.
    - focus: as overlap, but new pieces that the text uses are mixtures of shared ones (`focus_through`: see `focus`).
      With a word list its whole words start at the mean of their translations, and new ones are mixed from them too.
    - lexicon: whole words of the word list start at the mean of their translations, shared pieces are copied, other
      pieces of words in the list start at the mean over these words, the rest are drawn as for overlap.

    Special rows come from the source's, role by role, in all kinds but random. `bias`: unigram, the log-probabilities
    of the target's pieces; source, as published: the source's numbers, which belong to other pieces, where the
    vocabularies have one size, else zeros. Unset: source for random, unigram for the others.
    Raises `UserError` for an unknown kind, a bad word list, or parts that do not fit one another.
    """
    _check(kind, source, target, lexicon)
    through = choose_backend(focus_through, word_list=lexicon is not None) if kind == "focus" else None
    source = replace(source, matrix=source.matrix.detach().cpu().float())
    source_forms, target_forms = piece_forms(source.tokenizer), piece_forms(target.tokenizer)
    shared = shared_pieces(source_forms, target_forms)
    ordinary = np.array([form is not None for form in target_forms])
    facts = {"kind": kind, "seed": seed, **_overlap_facts(shared, ordinary, target.unigram_counts)}
    if kind in ("random", "unigram"):
        shape = (len(ordinary), source.matrix.shape[1])
        matrix = fresh_token_embeddings(shape, RANDOM_DEVIATION, pad_alone(target.tokenizer), seed, 0)
    else:
        matrix = _overlap(source, source_forms, shared, seed)
        known = shared >= 0
        if lexicon is not None:
            words = read_lexicon(lexicon, match_case, say=lambda line: None)  # who builds a run has heard it
            listed = lexicon_rows(words, source.matrix, source.tokenizer, source_forms, target.tokenizer, target_forms)
            # A whole word's translation says more than its spelling: German "Gift" is poison. A part's says less, and
            # less than the mixtures of focus.
            chosen = listed.whole | (listed.part & ~known) if kind == "lexicon" else listed.whole
            if not chosen.any():
                raise UserError(
                    f"{lexicon}: no word of this list is one of the vocabulary's; its lines are 'target word TAB "
                    "source word', of the language that is learned"
                )
            matrix[chosen] = listed.rows[chosen]
            known |= listed.whole
            facts |= {"lexicon_pieces": int(chosen.sum()), "lexicon_whole_words": int(listed.whole.sum())}
            facts |= {"lexicon_sha256": sha256_of(lexicon)}
            facts |= {"lexicon_token_share": _token_share(listed.whole, ordinary, target.unigram_counts)}
        if kind == "focus":
            if through == "deepfocus":
                tokenizers = source.tokenizer, target.tokenizer
                mixtures = deepfocus_rows(target.text(), ordinary, shared, source.matrix, *tokenizers, seed)
            else:
                mixtures = focus_rows(target.text(), ordinary, known, matrix, seed)
            matrix[mixtures.mixed] = mixtures.rows[mixtures.mixed]
            facts |= {"through": mixtures.through, "mixed_pieces": int(mixtures.mixed.sum())}
            facts |= {"anchors_per_piece": mixtures.anchors}
    if kind != "random":
        facts["special_roles_copied"] = _copy_specials(matrix, source, target)
    rule = bias or ("source" if kind == "random" else "unigram")
    start = unigram_bias(target.unigram_counts, ordinary) if rule == "unigram" else _source_bias(source, len(ordinary))
    return StartingPoint(matrix, start, {**facts, "bias": rule})


def unigram_bias(counts: np.ndarray, ordinary: np.ndarray) -> torch.Tensor:
    """log((count + 1) / sum of the same over ordinary pieces) fp32 [V]; special pieces get the least of them."""
    smoothed = np.where(ordinary, counts, 0).astype(np.float64) + 1
    bias = np.log(smoothed) - np.log(smoothed[ordinary].sum())
    bias[~ordinary] = bias[ordinary].min()
    return torch.from_numpy(bias).float()


def _check(kind: str, source: Source, target: Target, lexicon: str | Path | None) -> None:
    if kind not in KINDS:
        raise UserError(f"starting point '{kind}': there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    if kind == "focus" and target.text is None:
        raise UserError("starting point 'focus' needs text of the target language")
    if kind == "lexicon" and lexicon is None:
        raise UserError("starting point 'lexicon' needs a word list (lines of 'target word TAB source word')")
    if lexicon is not None and kind not in ("focus", "lexicon"):
        raise UserError(f"starting point '{kind}' takes no word list; 'focus' and 'lexicon' do")
    if len(source.matrix) < len(source.tokenizer):
        raise UserError(f"the source has {len(source.matrix)} rows for the {len(source.tokenizer)} pieces it can read")
    if len(target.unigram_counts) != len(target.tokenizer):
        raise UserError(
            f"the target has {len(target.unigram_counts)} piece counts for a tokenizer of {len(target.tokenizer)} "
            "pieces; make the data again: tools/prepare_data.py"
        )


def _overlap(source: Source, source_forms: list[Form | None], shared: np.ndarray, seed: int) -> torch.Tensor:
    """Shared rows copied, the others drawn from N(mean, deviation) of the source's ordinary rows [V_t, d]."""
    # By numpy, whose sums do not depend on the number of cores.
    rows = source.matrix.numpy()[np.flatnonzero([form is not None for form in source_forms])].astype(np.float64)
    mean, deviation = torch.from_numpy(rows.mean(0)), torch.from_numpy(rows.std(0))
    noise = torch.randn(
        len(shared), source.matrix.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    matrix = (mean + deviation * noise).float()
    copied = torch.from_numpy(shared >= 0)
    matrix[copied] = source.matrix[torch.from_numpy(shared)[copied]].float()
    return matrix


def _copy_specials(matrix: torch.Tensor, source: Source, target: Target) -> list[str]:
    """Write the source's special rows over the target's of the same role; returns the roles that both have."""
    theirs, ours = special_roles(source.tokenizer), special_roles(target.tokenizer)
    roles = [role for role in ours if ours[role] is not None and theirs[role] is not None]
    for role in sorted(roles, key=lambda role: role != "pad"):  # a piece that also pads is what it is elsewhere
        matrix[ours[role]] = source.matrix[theirs[role]]
    return roles


def _source_bias(source: Source, pieces: int) -> torch.Tensor:
    if source.output_bias is None or len(source.output_bias) != pieces:
        return torch.zeros(pieces)
    return source.output_bias.detach().float().clone()


def _overlap_facts(shared: np.ndarray, ordinary: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    return {
        "pieces": len(shared),
        "shared_pieces": int((shared >= 0).sum()),
        "shared_token_share": _token_share(shared >= 0, ordinary, counts),
    }


def _token_share(pieces: np.ndarray, ordinary: np.ndarray, counts: np.ndarray) -> float:
    """How much of the text's ordinary tokens are of these pieces."""
    tokens = int(counts[ordinary].sum())
    return float(counts[pieces].sum() / tokens) if tokens else 0.0
