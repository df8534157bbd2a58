"""Rows from a bilingual word list: a target word starts where the source language has its translation.

The idea of Wang, Ruder and Neubig (2022) of using bilingual lexicons, applied to the starting point of the rows.
"""

import codecs
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.starting_points.piece_forms import Form
from megamini.data.tokenizer import encoder
from megamini.errors import UserError

_SPELL_WORDS = 10_000  # at a time: what the tokenizer says about a word takes a kilobyte

Lexicon = dict[str, list[str]]  # target word -> its source words, in the order of the file


@dataclass(frozen=True)
class LexiconRows:
    """rows: fp32 [V_t, d], zero where there is none. whole: bool [V_t], pieces that are a word of the lexicon with a
    translation that the source can spell. part: bool [V_t], other pieces that are part of one. mixed: bool [V_t], which
    of them are means over several source pieces."""

    rows: torch.Tensor
    whole: np.ndarray
    part: np.ndarray
    mixed: np.ndarray


def read_lexicon(path: str | Path, match_case: bool = False, say: Callable[[str], None] = print) -> Lexicon:
    """Read lines of `target word TAB source word`; a word may have several lines, blank lines are passed over.

    A file with tabs in fewer than half of its lines (and not called .tsv) may have white space between two words
    instead, as the lists of MUSE do.
    Lines of another shape are passed over, and their number said. Unless `match_case`, words also stand for themselves
    in lower, upper and title case where the list does not have that spelling itself. Raises `UserError`, naming the
    first such line, where these are half of the lines or more.
    """
    lines = [(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: an empty word list; expected lines of 'target word TAB source word'")
    by_tab = Path(path).suffix.lower() == ".tsv" or 2 * sum("\t" in line for _, line in lines) >= len(lines)
    lexicon: Lexicon = defaultdict(list)
    odd = []
    for number, line in lines:
        fields = [" ".join(field.split()) for field in line.split("\t" if by_tab else None)]
        if len(fields) == 2 and all(fields):
            lexicon[fields[0]].append(fields[1])
        else:
            odd.append((number, line))
    if odd:
        number, line = odd[0]
        found = f"line {number}: expected 'target word TAB source word', found {line.strip()[:80]!r}"
        if 2 * len(odd) >= len(lines):
            raise UserError(f"{path}: {found}")
        say(f"{path}: {len(odd):,} of {len(lines):,} lines are passed over, the first is {found}")
    return dict(lexicon) if match_case else _with_other_cases(lexicon)


def _lines(path: str | Path) -> Iterator[str]:
    try:
        lines = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a word list of lines 'target word TAB source word'") from None
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise UserError(f"{path}: line {number}: not valid UTF-8") from None


def _with_other_cases(lexicon: Lexicon) -> Lexicon:
    others: Lexicon = defaultdict(list)
    for word, translations in lexicon.items():
        # In a fixed order: it decides how sums of rows are rounded.
        for variant in dict.fromkeys((word.lower(), word.upper(), word[:1].upper() + word[1:].lower())):
            if variant not in lexicon:
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

    A source word is the mean of the rows of its pieces, and where a target word has translations of one piece, the
    longer ones, whose means say less, are passed over. A piece that is a whole target word gets the mean over that
    word's translations, each weighted by how common it is: a large list has many rare ones for each word, and most
    often the common one is meant. Any other piece of a word gets the mean over all translations of all words it is part
    of, weighted by that and by one over the word's number of pieces: the more pieces share a meaning, the less of it is
    each one's.
    """
    translations = list(dict.fromkeys(source for found in lexicon.values() for source in found))
    number_of = {source: number for number, source in enumerate(translations)}
    source_pieces = _spell(translations, source_tokenizer, source_forms)
    target_pieces = _spell(list(lexicon), target_tokenizer, target_forms)

    chosen = []
    for found, pieces in zip(lexicon.values(), target_pieces, strict=True):
        known = [number_of[source] for source in found] if pieces else []
        known = [number for number in known if source_pieces[number]]
        chosen.append([number for number in known if len(source_pieces[number]) == 1] or known)
    # What a word means, as the sum over its translations of their pieces' means [words, V_s]; sparse, since a list may
    # have a million words.
    common = _commonness(source_pieces, source_forms)
    of_word = _matrix(chosen, len(translations), mean=False) * common
    means = (of_word @ _matrix(source_pieces, len(source_forms))).tocsr()
    counts = np.asarray(of_word.sum(axis=1)).ravel()

    matrix = source_matrix.double().numpy()
    rows = np.zeros((len(target_forms), matrix.shape[1]))
    mixed = np.zeros(len(target_forms), bool)
    has = {}
    for kind in ("whole", "part"):
        spelled = [pieces if (len(pieces) == 1) == (kind == "whole") else [] for pieces in target_pieces]
        of_piece = _matrix(spelled, len(target_forms)).T.tocsr()
        weights = of_piece @ counts
        has[kind] = weights > 0 if kind == "whole" else (weights > 0) & ~has["whole"]
        mine = np.flatnonzero(has[kind])
        shares = (of_piece[mine] @ means).tocsr()
        rows[mine] = shares @ matrix / weights[mine, None]
        mixed[mine] = np.diff(shares.indptr) > 1
    return LexiconRows(torch.from_numpy(rows).float(), has["whole"], has["part"], mixed)


def commonest_translations(
    lexicon: Lexicon, source_tokenizer: PreTrainedTokenizerBase, source_forms: list[Form | None]
) -> dict[str, str]:
    """Of each word, the translation of the fewest source pieces; of several, the commonest. Words that have none that
    the source can spell are left out."""
    translations = list(dict.fromkeys(source for found in lexicon.values() for source in found))
    pieces = _spell(translations, source_tokenizer, source_forms)
    common = _commonness(pieces, source_forms).tolist()
    order = {one: (len(own), -often) for one, own, often in zip(translations, pieces, common, strict=True) if own}
    known = {word: [source for source in found if source in order] for word, found in lexicon.items()}
    return {word: min(found, key=order.__getitem__) for word, found in known.items() if found}


def _commonness(words: list[list[int]], forms: list[Form | None]) -> np.ndarray:
    """About how often each word is used, from its pieces fp64 [len(words)]: one over the rank of the rarest (Zipf).

    Vocabularies are in about the order of frequency, behind special pieces and bytes; no text of the source is needed.
    """
    rank = np.cumsum([form is not None and bool(form.text) and not form.is_byte for form in forms])
    return np.array([1 / max(1, *rank[pieces]) if pieces else 0.0 for pieces in words], dtype=np.float64)


def _matrix(rows: list[list[int]], columns: int, mean: bool = True) -> sparse.csr_array:
    """A sparse matrix [len(rows), columns] with a one where a row has a number, or with one over their count."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    values = np.repeat(1 / np.maximum(lengths, 1) if mean else np.ones(len(rows)), lengths)
    numbers = np.fromiter(itertools.chain.from_iterable(rows), np.int64, lengths.sum())
    return sparse.csr_array((values, numbers, np.concatenate([[0], lengths.cumsum()])), shape=(len(rows), columns))


def _spell(words: list[str], tokenizer: PreTrainedTokenizerBase, forms: list[Form | None]) -> list[list[int]]:
    """The ids of each word's pieces, without a bare word mark, which carries no meaning; none if a piece is special,
    such as the unknown one."""
    # The space in front lets a byte-level tokenizer see a word inside a sentence; the others have none or strip it.
    spelled = []
    for start in range(0, len(words), _SPELL_WORDS):
        some = [f" {word}" for word in words[start : start + _SPELL_WORDS]]
        for encoding in encoder(tokenizer).encode_batch(some, add_special_tokens=False):
            known = all(forms[number] is not None for number in encoding.ids)
            spelled.append([number for number in encoding.ids if forms[number].text] if known else [])
    return spelled
