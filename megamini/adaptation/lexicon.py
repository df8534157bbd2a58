"""Rows from a bilingual word list: a target word starts where the source language has its translation.

The idea of Wang, Ruder and Neubig (2022) of using bilingual lexicons, applied to the starting point of the rows.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.piece_forms import Form
from megamini.data.tokenizer import encoder
from megamini.errors import UserError

Lexicon = dict[str, list[str]]  # target word -> its source words, in the order of the file


@dataclass(frozen=True)
class LexiconRows:
    """rows: fp32 [V_t, d], zero where there is none. whole: bool [V_t], pieces that are a word of the lexicon.
    part: bool [V_t], other pieces that are part of one. words: target words that both tokenizers could spell."""

    rows: torch.Tensor
    whole: np.ndarray
    part: np.ndarray
    words: int


def read_lexicon(path: str | Path, match_case: bool = False) -> Lexicon:
    """Read lines of `target word TAB source word`; a word may have several lines, blank lines are passed over.

    Unless `match_case`, words also stand for themselves in lower, upper and title case where the list does not have
    that spelling itself. Raises `UserError` naming the line that is not of that shape.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a word list of lines 'target word TAB source word'") from None
    lexicon: Lexicon = defaultdict(list)
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}: line {number}: not valid UTF-8") from None
        if not text.strip():
            continue
        fields = [" ".join(field.split()) for field in text.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise UserError(f"{path}: line {number}: expected 'target word TAB source word', found {text.strip()!r}")
        lexicon[fields[0]].append(fields[1])
    if not lexicon:
        raise UserError(f"{path}: an empty word list; expected lines of 'target word TAB source word'")
    return dict(lexicon) if match_case else _with_other_cases(lexicon)


def _with_other_cases(lexicon: Lexicon) -> Lexicon:
    others: Lexicon = defaultdict(list)
    for word, translations in lexicon.items():
        for variant in {word.lower(), word.upper(), word[:1].upper() + word[1:].lower()} - lexicon.keys():
            others[variant] += translations
    return {**lexicon, **others}


def lexicon_rows(
    lexicon: Lexicon,
    source_matrix: torch.Tensor,
    source_tokenizer: PreTrainedTokenizerBase,
    source_forms: list[Form | None],
    target_tokenizer: PreTrainedTokenizerBase,
    target_forms: list[Form | None],
) -> LexiconRows:
    """Rows of the pieces of the lexicon's words.

    A source word is the mean of the rows of its pieces. A piece that is a whole target word gets the mean over that
    word's translations. Any other piece of a word gets the mean over all translations of all words it is part of, each
    weighted by one over the word's number of pieces: the more pieces share a meaning, the less of it is each one's.
    """
    meanings = _source_words(lexicon, source_matrix, source_tokenizer, source_forms)
    pieces = _spell(list(lexicon), target_tokenizer, target_forms)
    sums = {kind: np.zeros((len(target_forms), source_matrix.shape[1])) for kind in ("whole", "part")}
    weights = {kind: np.zeros(len(target_forms)) for kind in ("whole", "part")}
    words = 0
    for word, translations in lexicon.items():
        known = [meanings[translation] for translation in translations if translation in meanings]
        if not known or not pieces[word]:
            continue
        words += 1
        kind = "whole" if len(pieces[word]) == 1 else "part"
        for piece in pieces[word]:
            sums[kind][piece] += np.sum(known, axis=0) / len(pieces[word])
            weights[kind][piece] += len(known) / len(pieces[word])
    whole = weights["whole"] > 0
    part = ~whole & (weights["part"] > 0)
    rows = np.zeros_like(sums["whole"])
    for kind, mine in (("whole", whole), ("part", part)):
        rows[mine] = sums[kind][mine] / weights[kind][mine, None]
    return LexiconRows(torch.from_numpy(rows).float(), whole, part, words)


def _source_words(
    lexicon: Lexicon, matrix: torch.Tensor, tokenizer: PreTrainedTokenizerBase, forms: list[Form | None]
) -> dict[str, np.ndarray]:
    """Source word -> mean row of its pieces [d] float64; words that the tokenizer cannot spell are left out."""
    rows = matrix.double().numpy()
    words = sorted({translation for translations in lexicon.values() for translation in translations})
    return {word: rows[ids].mean(axis=0) for word, ids in _spell(words, tokenizer, forms).items() if ids}


def _spell(words: list[str], tokenizer: PreTrainedTokenizerBase, forms: list[Form | None]) -> dict[str, list[int]]:
    """Word -> ids of its pieces, without a bare word mark, which carries no meaning; none if a piece is special, such
    as the unknown one."""
    # The space in front lets a byte-level tokenizer see a word inside a sentence; the others have none or strip it.
    encodings = encoder(tokenizer).encode_batch([f" {word}" for word in words], add_special_tokens=False)
    spelled = {}
    for word, encoding in zip(words, encodings, strict=True):
        known = all(forms[number] is not None for number in encoding.ids)
        spelled[word] = [number for number in encoding.ids if forms[number].text] if known else []
    return spelled
