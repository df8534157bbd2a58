"""Vocabulary replacement (Csaki et al. 2023): the least used pieces give their ids to pieces of a new language.

The vocabulary keeps its size, and so all shapes of the model stay. Single characters, bytes and special tokens are
never replaced, so that all text can still be read. Old text may be cut otherwise; the fertility says how much.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megamini.data.tokenizer import encoder, fingerprint
from megamini.data.vocabulary.learning import learn_pieces
from megamini.data.vocabulary.unigram import check_unigram, spelled_pieces, with_pieces
from megamini.data.vocabulary.words import fertility
from megamini.errors import UserError

_OPTION = "--replace-least-used"


def replace_least_used(
    tokenizer: PreTrainedTokenizerBase,
    words: Mapping[str, int],
    old_words: Mapping[str, int],
    count: int,
    coverage: float,
    where: str,
) -> tuple[PreTrainedTokenizerFast, dict[str, Any]]:
    """The tokenizer with `count` other pieces at the ids of those that the old text uses least, and what a manifest
    says of it.

    words, old_words: of the new and the old text, as `count_words` gives them. where: how messages name the tokenizer.
    Raises UserError for a tokenizer that cannot be changed, for a count that leaves too little of it, and where the new
    text does not yield so many pieces.
    """
    check_unigram(tokenizer, where)
    spelled = spelled_pieces(tokenizer)
    used = _token_counts(tokenizer, old_words)
    numbers = tokenizer.get_vocab()
    longer = [piece for piece in spelled if len(piece) > 1]
    if count > len(longer) // 2:
        raise UserError(
            f"{_OPTION} {count}: more than half of the {len(longer):,} pieces that can be replaced; ask for at most "
            f"{len(longer) // 2:,}"
        )
    # Of equally rare pieces those of the highest ids, which sentencepiece found the least likely.
    victims = sorted(longer, key=lambda piece: (used[numbers[piece]], -numbers[piece]))[:count]
    kept = {piece: score for piece, score in spelled.items() if piece not in set(victims)}
    learned = learn_pieces(words, kept, count, lambda pieces: pieces, coverage, _OPTION)
    # What the new text wants of the replaced pieces stays at its id.
    again = {piece for piece, _ in learned} & set(victims)
    free = iter(sorted(numbers[piece] for piece in victims if piece not in again))
    replaced = {numbers[piece] if piece in again else next(free): (piece, score) for piece, score in learned}
    mixed = with_pieces(tokenizer, [], replaced)
    tokens = sum(used.values())
    return mixed, {
        "kind": "replacement",
        "of": fingerprint(tokenizer),
        "old_pieces": len(tokenizer),
        "replaced_pieces": count,
        "share_of_old_tokens": sum(used[numbers[piece]] for piece in victims) / tokens if tokens else 0.0,
        "fertility": {
            "old": fertility(words, tokenizer),
            "mixed": fertility(words, mixed),
        },
        "fertility_of_old_text": {
            "old": fertility(old_words, tokenizer),
            "mixed": fertility(old_words, mixed),
        },
    }


def _token_counts(tokenizer: PreTrainedTokenizerBase, words: Mapping[str, int]) -> Counter[int]:
    """How often the words have each id."""
    model, counts = encoder(tokenizer).model, Counter()
    for word, times in words.items():
        for token in model.tokenize(word):
            counts[token.id] += times
    return counts
