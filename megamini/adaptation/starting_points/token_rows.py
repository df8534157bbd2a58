"""The rows of a new language as they come together, from those of the source: step by step, the surest first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megamini.adaptation.starting_points.aligned_rows import aligned_rows
from megamini.adaptation.starting_points.calibration import calibrated
from megamini.adaptation.starting_points.focus import deepfocus_rows, focus_rows
from megamini.adaptation.starting_points.lexicon import lexicon_rows, read_lexicon
from megamini.adaptation.starting_points.piece_forms import Form, piece_forms, shared_pieces
from megamini.adaptation.starting_points.subword import subword_rows
from megamini.adaptation.starting_points.vocabularies import Source, Target
from megamini.errors import UserError
from megamini.files import sha256_of


class TokenRows:
    """matrix: fp32 [V_t, d]; it begins with shared rows copied and all others drawn from the source's distribution.

    ordinary: bool [V_t], pieces that are not special. known: bool [V_t], pieces whose rows say what they mean, so that
    others can be mixed from them. facts: what has been done. calibrate: whether mixed rows are spread as widely as the
    source's are.
    """

    def __init__(self, source: Source, target: Target, seed: int, calibrate: bool) -> None:
        self._source, self._target, self._seed = source, target, seed
        self._source_forms, self._target_forms = piece_forms(source.tokenizer), piece_forms(target.tokenizer)
        self._shared = shared_pieces(self._source_forms, self._target_forms)
        self.ordinary = np.array([form is not None for form in self._target_forms])
        self._reference = source.matrix.numpy()[[form is not None for form in self._source_forms]]
        self._calibrate, self._composed = calibrate, np.zeros(len(self.ordinary), bool)
        self.matrix = _overlap(source, self._source_forms, self._shared, seed)
        self.known = self._shared >= 0
        self.facts: dict[str, Any] = {
            "pieces": len(self._shared),
            "shared_pieces": int(self.known.sum()),
            "shared_token_share": self._token_share(self.known),
        }

    def from_word_list(self, path: str | Path, match_case: bool, parts: bool) -> None:
        """Whole words of a list start at the mean of their translations; with `parts`, other pieces of its words too.

        Raises `UserError` where no word of the list is one of the vocabulary's.
        """
        words = read_lexicon(path, match_case, say=lambda line: None)  # who builds a run has heard it
        source, target = self._source, self._target
        listed = lexicon_rows(
            words, source.matrix, source.tokenizer, self._source_forms, target.tokenizer, self._target_forms
        )
        # A whole word's translation says more than its spelling: German "Gift" is poison. A part's says less, and less
        # than the mixtures of focus.
        chosen = listed.whole | (listed.part & ~self.known) if parts else listed.whole
        if not chosen.any():
            raise UserError(
                f"{path}: no word of this list is one of the vocabulary's; its lines are 'target word TAB source "
                "word', of the language that is learned"
            )
        self._write(listed.rows, chosen, listed.mixed)
        self.known |= listed.whole
        self.facts |= {
            "lexicon_pieces": int(chosen.sum()),
            "lexicon_whole_words": int(listed.whole.sum()),
            "lexicon_sha256": sha256_of(path),
            "lexicon_token_share": self._token_share(listed.whole),
        }

    def from_parallel_text(self, texts: Sequence[tuple[str, str]]) -> None:
        """Pieces that texts (target, source) align start at the mean of what they stand for, where nothing is known."""
        source, target = self._source, self._target
        aligned = aligned_rows(
            texts, source.matrix, source.tokenizer, self._source_forms, target.tokenizer, self._target_forms
        )
        chosen = aligned.aligned & ~self.known
        self._write(aligned.rows, chosen, aligned.mixed)
        self.known |= chosen
        self.facts |= {
            "parallel_lines": len(texts),
            "aligned_pieces": int(chosen.sum()),
            "aligned_token_share": self._token_share(chosen),
        }

    def compose(self) -> None:
        """What is not known starts at the mean of the source's pieces for the same text."""
        source = self._source
        found = subword_rows(source.matrix, source.tokenizer, self._source_forms, self._target_forms, self.known)
        self._write(found.rows, found.composed, found.composed)
        self._composed = found.composed
        self.facts |= {"composed_pieces": int(found.composed.sum()), "spelled_by_bytes": found.by_bytes}

    def mix(self, through: str, kept_share: float) -> None:
        """What is not known is mixed from what is known and used alike. through: a backend of `focus`.

        kept_share: how much of a composed row stays in its mixture.
        """
        source, target = self._source, self._target
        if through == "deepfocus":
            tokenizers = source.tokenizer, target.tokenizer
            found = deepfocus_rows(target.text(), self.ordinary, self._shared, source.matrix, *tokenizers, self._seed)
        else:
            found = focus_rows(target.text(), self.ordinary, self.known, self.matrix, self._seed)
        composed = self.matrix.clone()
        self._write(found.rows, found.mixed, found.mixed)
        if (both := self._composed & found.mixed).any() and kept_share:
            self._write((1 - kept_share) * self.matrix + kept_share * composed, both, both)
        self.facts |= {
            "through": found.through,
            "mixed_pieces": int(found.mixed.sum()),
            "anchors_per_piece": found.anchors,
        }

    def _write(self, rows: torch.Tensor, chosen: np.ndarray, mixed: np.ndarray) -> None:
        """Take on the chosen rows; those that are mixed from several are calibrated, where that is wanted."""
        self.matrix[chosen] = rows[chosen]
        self.facts["calibrated"] = self._calibrate
        if self._calibrate:
            chosen = chosen & mixed
            self.matrix[chosen] = torch.from_numpy(calibrated(rows[chosen].numpy(), self._reference)).float()

    def _token_share(self, pieces: np.ndarray) -> float:
        """How much of the text's ordinary tokens are of these pieces."""
        counts = self._target.unigram_counts
        tokens = int(counts[self.ordinary].sum())
        return float(counts[pieces].sum() / tokens) if tokens else 0.0


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
