"""Words as a tokenizer's model gets them, behind normalizer and pre-tokenizer, and how it cuts them."""

from collections import Counter
from collections.abc import Iterable, Mapping

from transformers import PreTrainedTokenizerBase

from megamini.data.tokenizer import encoder, is_word_by_word


def count_words(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Counter[str]:
    """Each word of the texts, and how often it occurs. Memory grows with the number of different words."""
    backend = encoder(tokenizer)
    found: Counter[str] = Counter()

    def count(text: str, times: int) -> None:
        shown = backend.normalizer.normalize_str(text) if backend.normalizer else text
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(shown):
            found[word] += times

    if not is_word_by_word(tokenizer):
        for text in texts:
            count(text, 1)
        return found
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text.split())
    for word, times in raw.items():
        count(word, times)
    return found


def fertility(words: Mapping[str, int], tokenizer: PreTrainedTokenizerBase) -> float:
    """Tokens that a word becomes, in the mean; the words as `count_words` gives them."""
    model = encoder(tokenizer).model
    tokens = sum(count * len(model.tokenize(word)) for word, count in words.items())
    return tokens / max(1, sum(words.values()))
