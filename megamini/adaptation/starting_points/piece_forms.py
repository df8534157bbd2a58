"""What a piece stands for, whichever kind of tokenizer writes it, so that two vocabularies can be compared."""

import json
import re
import unicodedata
from typing import NamedTuple

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from megamini.data.tokenizer import component_types, special_ids

_MARK = "▁"  # sentencepiece's mark for a space
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Form(NamedTuple):
    """The text of a piece without the space in front; bytes that are no UTF-8 by themselves as lone surrogates.

    begins_word: whether the piece brings the space in front of it. is_byte: whether it stands for one byte of a
    character rather than for text.
    """

    text: str
    begins_word: bool
    is_byte: bool


def piece_forms(tokenizer: PreTrainedTokenizerBase) -> list[Form | None]:
    """The form of every piece by id [V]; None for special pieces and ids that no piece has."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = component_types([backend[part] for part in ("normalizer", "pre_tokenizer", "decoder")])
    added = {entry["content"] for entry in backend["added_tokens"]}
    specials = set(special_ids(tokenizer).tolist())
    prefix = backend["model"].get("continuing_subword_prefix") or ""
    forms: list[Form | None] = [None] * len(tokenizer)
    for piece, number in tokenizer.get_vocab().items():
        if number in specials:
            continue
        if piece in added:
            forms[number] = Form(piece.strip(), piece.startswith(" "), False)
        elif "ByteLevel" in kinds:
            forms[number] = _byte_level(piece)
        elif backend["model"]["type"] == "WordPiece":
            forms[number] = _word_piece(piece, prefix)
        else:
            forms[number] = _metaspace(piece, "ByteFallback" in kinds)
    return forms


def shared_pieces(source: list[Form | None], target: list[Form | None]) -> np.ndarray:
    """For each target id, the source id of the same form, or -1 [V_t] int64. Special pieces are never shared."""
    numbers: dict[Form, int] = {}
    for number, form in enumerate(source):
        if form is not None:
            numbers.setdefault(form, number)  # of two pieces that stand for the same, the first: the commoner one
    return np.array([-1 if form is None else numbers.get(form, -1) for form in target], dtype=np.int64)


def _metaspace(piece: str, byte_fallback: bool) -> Form:
    if byte_fallback and (byte := _BYTE_PIECE.fullmatch(piece)):
        return Form(_as_text(bytes([int(byte[1], 16)])), False, True)
    return Form(piece.removeprefix(_MARK).replace(_MARK, " "), piece.startswith(_MARK), False)


def _byte_level(piece: str) -> Form:
    raw = bytes(_BYTE_OF[character] for character in piece)
    text = _as_text(raw)
    return Form(text.removeprefix(" "), text.startswith(" "), len(raw) == 1 and raw[0] >= 0x80)


def _word_piece(piece: str, prefix: str) -> Form:
    continues = bool(prefix) and piece.startswith(prefix)
    text = piece.removeprefix(prefix) if continues else piece
    return Form(text, not continues and not _is_cut_out(text), False)


def _is_cut_out(text: str) -> bool:
    """Whether BERT's pre-tokenizer cuts this character out of words, so that the piece says nothing of a space."""
    if len(text) != 1:
        return False
    return unicodedata.category(text)[0] in "PS" or unicodedata.name(text, "").startswith("CJK UNIFIED IDEOGRAPH")


def _as_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of GPT-2's byte-level alphabet: printable Latin-1 stands for itself, and the other bytes, in
    ascending order, are the characters from U+0100 on."""
    alphabet = sorted(ByteLevel.alphabet())
    themselves = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(set(range(256)) - set(themselves.values()))
    return themselves | dict(zip(alphabet[len(themselves) :], others, strict=True))


_BYTE_OF = _byte_alphabet()
