"""Starting points of a new language: its token matrix and output bias before anything is learned.

`random` is the published one; the others start closer, and the smaller the run, the more that decides (docs/method.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from megamini.adaptation.starting_points.focus import choose_backend
from megamini.adaptation.starting_points.token_rows import TokenRows
from megamini.adaptation.starting_points.vocabularies import Source, Target
from megamini.data.tokenizer import pad_alone, special_roles
from megamini.errors import UserError, did_you_mean
from megamini.training.forgetting import fresh_token_embeddings

KINDS = ("random", "unigram", "overlap", "subword", "focus", "combined", "lexicon")
MIXING = ("focus", "combined")  # the kinds that mix from anchors, those of a word list and of parallel text too
RANDOM_DEVIATION = 0.02  # of random rows, as published
SUBWORD_SHARE = 0.2  # of a combined row; more says too much by the spelling


@dataclass(frozen=True)
class StartingPoint:
    """matrix: fp32 [V_t, d]. bias: fp32 [V_t]. facts: what a report should say about them, as JSON can hold it. output:
    fp32 [V_t, d], where the source has an output matrix of its own."""

    matrix: torch.Tensor
    bias: torch.Tensor
    facts: dict[str, Any]
    output: torch.Tensor | None = None


def initialise(
    kind: str,
    source: Source,
    target: Target,
    seed: int,
    *,
    bias: Literal["unigram", "source"] | None = None,
    lexicon: str | Path | None = None,
    parallel: Sequence[tuple[str, str]] | None = None,
    match_case: bool = False,
    focus_through: str | None = None,
    calibrate: bool = False,
) -> StartingPoint:
    """The token matrix and output bias that relearning starts from; a pure function of its arguments.

    - random: every row from N(0, 0.02^2), special ones too, pad row zero, as published (Artetxe et al. 2020).
    - unigram: the same, with the special rows of the source.
    - overlap: pieces that stand for the same text in both vocabularies are copied, the others drawn from the source's
      distribution: mean and deviation of each dimension over the source's ordinary rows.
    - subword: as overlap, but new pieces are the mean of the source's pieces for the same text.
    - focus: as overlap, but new pieces that the text uses are mixtures of shared ones (`focus_through`: see `focus`).
      With a word list its whole words start at the mean of their translations, with parallel text the pieces that it
      aligns start at the mean of what they stand for, and new ones are mixed from these too.
    - combined: rows of focus with a fifth of those of subword, where there are both; else what there is of the two.
    - lexicon: whole words of the word list start at the mean of their translations, shared pieces are copied, other
      pieces of words in the list start at the mean over these words, the rest are drawn as for overlap.

    parallel: texts (target, source) that say the same. calibrate: spread what is mixed as widely as the source's rows
    are (see `calibration`).
    Special rows come from the source's, role by role, in all kinds but random. `bias`: unigram, the log-probabilities
    of the target's pieces; source, as published: the source's numbers, which belong to other pieces, where the
    vocabularies have one size, else zeros. Unset: source for random, unigram for the others.
    An output matrix of the source's own gives the rows of the new one in the same way.
    Raises `UserError` for an unknown kind, a bad word list, or parts that do not fit one another.
    """
    if source.output_matrix is not None:
        chosen = {
            "bias": bias, "lexicon": lexicon, "parallel": parallel, "match_case": match_case,
            "focus_through": focus_through, "calibrate": calibrate,
        }  # fmt: skip
        alone = replace(source, output_matrix=None)
        start = initialise(kind, alone, target, seed, **chosen)
        # Drawn rows are to be others than those of the token matrix.
        output = initialise(kind, replace(alone, matrix=source.output_matrix), target, seed + 1, **chosen)
        return replace(start, output=output.matrix)
    _check(kind, source, target, lexicon, parallel)
    translations = lexicon is not None or parallel is not None
    through = choose_backend(focus_through, translations) if kind in MIXING else None
    source = replace(source, matrix=source.matrix.detach().cpu().float())
    rows = TokenRows(source, target, seed, calibrate)
    if parallel is not None:  # before a list: sentences also say which translation is meant, and how often
        rows.from_parallel_text(parallel)
    if lexicon is not None:
        rows.from_word_list(lexicon, match_case, parts=kind == "lexicon")
    if kind in ("subword", "combined"):
        rows.compose()
    if kind in MIXING:
        rows.mix(through, SUBWORD_SHARE if kind == "combined" else 0.0)
    matrix, ordinary, facts = rows.matrix, rows.ordinary, {"kind": kind, "seed": seed, **rows.facts}
    if kind in ("random", "unigram"):
        matrix = fresh_token_embeddings(tuple(matrix.shape), RANDOM_DEVIATION, pad_alone(target.tokenizer), seed, 0)
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


def _check(
    kind: str,
    source: Source,
    target: Target,
    lexicon: str | Path | None,
    parallel: Sequence[tuple[str, str]] | None,
) -> None:
    if kind not in KINDS:
        raise UserError(f"starting point '{kind}': there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    if kind in MIXING and target.text is None:
        raise UserError(f"starting point '{kind}' needs text of the target language")
    if kind == "lexicon" and lexicon is None:
        raise UserError("starting point 'lexicon' needs a word list (lines of 'target word TAB source word')")
    if lexicon is not None and kind not in (*MIXING, "lexicon"):
        raise UserError(f"starting point '{kind}' takes no word list; 'focus', 'combined' and 'lexicon' do")
    if parallel is not None and kind not in MIXING:
        raise UserError(f"starting point '{kind}' takes no parallel text; 'focus' and 'combined' do")
    if len(source.matrix) < len(source.tokenizer):
        raise UserError(f"the source has {len(source.matrix)} rows for the {len(source.tokenizer)} pieces it can read")
    if len(target.unigram_counts) != len(target.tokenizer):
        raise UserError(
            f"the target has {len(target.unigram_counts)} piece counts for a tokenizer of {len(target.tokenizer)} "
            "pieces; make the data again: tools/prepare_data.py"
        )


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
