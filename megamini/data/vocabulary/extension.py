"""Subword extension (Imamura and Sumita 2022): pieces of a new language behind the old ones, old text cut as before.

Why it is cut as before: the model of a Unigram tokenizer cuts each word alone, and looks only at the pieces that are
part of the word. No new piece is part of a word of the old text, so there it looks at the same pieces with the same
scores. That holds whatever the new scores are, and for several extensions together. Two rules choose what is old text:

* alphabet: every word of characters that old pieces have. New pieces each have a character that none of them has.
* words: every word of a given text. New pieces are none of its words' parts, and may consist of old characters.

The one thing that all words share is the price of an unknown character, which goes by the lowest score: new scores do
not lie below it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megamini.data.tokenizer import encoder, fingerprint
from megamini.data.vocabulary.learning import Allowed, learn_pieces
from megamini.data.vocabulary.unigram import check_unigram, pieces_of, spelled_pieces, with_pieces
from megamini.data.vocabulary.words import fertility
from megamini.errors import UserError


def extend(
    tokenizer: PreTrainedTokenizerBase,
    words: Mapping[str, int],
    old_words: Mapping[str, int] | None,
    add: int,
    coverage: float,
    where: str,
) -> tuple[PreTrainedTokenizerFast, dict[str, Any]]:
    """The tokenizer with `add` pieces of new words behind its own, and what a manifest says of it.

    words: of the new text, as `count_words` gives them. old_words: of text whose every word is to be cut as before;
    None: all words of old characters are. where: how messages name the tokenizer. Raises UserError for a tokenizer
    that cannot be extended, and where the text does not yield so many pieces.
    """
    check_unigram(tokenizer, where)
    old = spelled_pieces(tokenizer)
    if old_words is None:
        rule = outside_alphabet(character for piece in old for character in piece)
    else:
        rule = outside_words(old_words)
    try:
        learned = learn_pieces(words, old, add, rule, coverage, "--add")
    except UserError as error:
        hint = "" if old_words is not None else _hint(tokenizer, words)
        raise UserError(f"{error}{hint}") from None
    lowest = min(score for _, score in pieces_of(tokenizer))
    extended = with_pieces(tokenizer, [(piece, max(score, lowest)) for piece, score in learned])
    _prove(tokenizer, extended, old_words or {})
    facts = {
        "kind": "extension",
        "of": fingerprint(tokenizer),
        "old_pieces": len(tokenizer),
        "added_pieces": add,
        "kept": "alphabet" if old_words is None else "words",
        "fertility": {"old": fertility(words, tokenizer), "extended": fertility(words, extended)},
    }
    if old_words is not None:
        facts["old_words"] = len(old_words)
        facts["fertility_of_old_text"] = {
            "old": fertility(old_words, tokenizer),
            "extended": fertility(old_words, extended),
        }
    return extended, facts


def outside_alphabet(alphabet: Iterable[str]) -> Allowed:
    """Strings with a character that is not in the alphabet."""
    known = frozenset(alphabet)
    return lambda pieces: {piece for piece in pieces if not known.issuperset(piece)}


def outside_words(words: Iterable[str]) -> Allowed:
    """Strings that are no part of any of the words."""
    words = tuple(words)

    def allowed(pieces: set[str]) -> set[str]:
        left, longest = set(pieces), max(map(len, pieces), default=0)
        for word in words:
            for begin in range(len(word)):
                left.difference_update(word[begin:end] for end in range(begin + 1, min(begin + longest, len(word)) + 1))
        return left

    return allowed


def added_pieces(extended: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase) -> list[tuple[str, float]] | None:
    """What `extended` has behind the pieces of `base`; None where it is no extension of it."""
    ours, theirs = (json.loads(one.backend_tokenizer.to_str()) for one in (extended, base))
    if any(one["model"]["type"] != "Unigram" for one in (ours, theirs)):
        return None
    pieces, old = ours["model"].pop("vocab"), theirs["model"].pop("vocab")
    alike = all(ours[part] == theirs[part] for part in ("model", "normalizer", "pre_tokenizer"))
    if not alike or len(pieces) <= len(old) or pieces[: len(old)] != old:
        return None
    return [(piece, score) for piece, score in pieces[len(old) :]]


def _prove(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, words: Iterable[str]) -> None:
    """Compare what both make of each word. Raises UserError where they differ, which would be a fault of this code."""
    one, other = encoder(old).model, encoder(new).model
    for word in words:
        if [token.id for token in one.tokenize(word)] != [token.id for token in other.tokenize(word)]:
            raise UserError(f"the extended tokenizer cuts {word!r} otherwise than before; please report this")


def _hint(tokenizer: PreTrainedTokenizerBase, words: Mapping[str, int]) -> str:
    """What to do where the old alphabet spells the new text."""
    known = {character for piece in spelled_pieces(tokenizer) for character in piece}
    spelled = sum(count for word, count in words.items() if known.issuperset(word)) / max(1, sum(words.values()))
    if spelled < 0.1:
        return ""
    return (
        f" (the old tokenizer has all characters of {spelled:.0%} of its words, and these stay as they are; with "
        "--old-text only the words of that text do)"
    )
