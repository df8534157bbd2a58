"""Subword composition: a new piece starts as the mean of the source's pieces that spell the same text."""

import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.starting_points.piece_forms import Form
from megamini.data.tokenizer import encoder

_BEFORE = (
    "-"  # stands before a piece that does not begin a word, since most tokenizers see a word at the start of a text
)


@dataclass(frozen=True)
class SubwordRows:
    """rows: fp32 [V_t, d], zero where there is none. composed: bool [V_t], new pieces that the source can spell.
    by_bytes: script -> share of its new pieces that the source can only spell byte by byte, which says nothing."""

    rows: torch.Tensor
    composed: np.ndarray
    by_bytes: dict[str, float]


def subword_rows(
    source_matrix: torch.Tensor,
    source_tokenizer: PreTrainedTokenizerBase,
    source_forms: list[Form | None],
    target_forms: list[Form | None],
    known: np.ndarray,
) -> SubwordRows:
    """Rows of the target's new pieces, those that are not `known` bool [V_t].

    A row is the mean over the source's pieces for the same text, word marks and bytes of characters left out.
    """
    new = [n for n, form in enumerate(target_forms) if form is not None and not known[n] and _is_text(form)]
    spelled = _spell([target_forms[n] for n in new], source_tokenizer)
    matrix = source_matrix.double().numpy()
    rows, composed = np.zeros((len(target_forms), matrix.shape[1])), np.zeros(len(target_forms), bool)
    scripts, by_bytes = Counter(), Counter()
    for number, pieces in zip(new, spelled, strict=True):
        forms = [source_forms[piece] for piece in pieces]
        told = [piece for piece, form in zip(pieces, forms, strict=True) if form and form.text and not form.is_byte]
        script = script_of(target_forms[number].text)
        scripts[script] += 1
        if told:
            rows[number], composed[number] = matrix[told].mean(0), True
        else:
            by_bytes[script] += 1
    shares = {script: count / scripts[script] for script, count in by_bytes.most_common()}
    return SubwordRows(torch.from_numpy(rows).float(), composed, shares)


def script_of(text: str) -> str:
    """The script of most of the letters, in the words of Unicode's names (latin, cyrillic, greek, cjk); other: none."""
    names = [unicodedata.name(character, "").partition(" ")[0].lower() for character in text if character.isalpha()]
    return Counter(names).most_common(1)[0][0] if names else "other"


def _is_text(form: Form) -> bool:
    return bool(form.text) and not form.is_byte


def _spell(forms: list[Form], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The source's ids of each piece's text, as it would be written inside a text."""
    texts = [f" {form.text}" if form.begins_word else f"{_BEFORE}{form.text}" for form in forms]
    # Bytes that are no text by themselves have no spelling.
    clean = [text.encode("utf-8", "ignore").decode() for text in texts]
    spelled = []
    for form, encoding in zip(forms, encoder(tokenizer).encode_batch(clean, add_special_tokens=False), strict=True):
        first = 0 if form.begins_word else len(_BEFORE)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        spelled.append([number for number, (_, end) in places if end > first])
    return spelled
