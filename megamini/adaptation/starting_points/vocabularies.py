"""The two vocabularies of a starting point: the one that the body was trained with, and the new language's."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from megamini.data.blocks import Blocks
from megamini.data.tokenizer import load_tokenizer
from megamini.data.unigram_counts import read_unigram_counts

_READ_BLOCKS = 4096


@dataclass(frozen=True)
class Source:
    """What the body was trained with: token matrix fp32 [V_s, d], output bias fp32 [V_s] or None, tokenizer; and the
    output matrix fp32 [V_s, d], where it is another one."""

    matrix: torch.Tensor
    output_bias: torch.Tensor | None
    tokenizer: PreTrainedTokenizerBase
    output_matrix: torch.Tensor | None = None


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
        counts = read_unigram_counts(data)

        def text() -> Iterable[np.ndarray]:
            for start in range(0, len(blocks), _READ_BLOCKS):
                yield from blocks.read(np.arange(start, min(start + _READ_BLOCKS, len(blocks))))

        return cls(load_tokenizer(data), counts, text)
