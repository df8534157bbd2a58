"""Baselines without a language model, against which a transfer is held (`reference_lines` in recipes).

`surface` is trained in the source language and applied as it is, so it knows the words that both languages write
alike; a transfer should beat it. `word-by-word` is the same on words that a bilingual list has translated; what starts
from such a list should beat it. `in-language` is trained on the target's own training data, which zero-shot lacks.
Of classes it is TF-IDF over words (Unicode's, `megamini.languages.words`) with logistic regression; of tags, each
word's commonest one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from megamini.adaptation.starting_points.lexicon import Lexicon
from megamini.downstream.kinds.classification import measure_classes
from megamini.downstream.kinds.tagging import measure_tags
from megamini.downstream.metrics.measurement import Measurement, Parts
from megamini.downstream.results import Result
from megamini.downstream.task_data.examples import Example, TaggedExample, TextExample
from megamini.downstream.tasks.declaration import Kind
from megamini.languages.words import WordList, words

SURFACE, WORD_BY_WORD, IN_LANGUAGE = "surface", "word-by-word", "in-language"
_REGULARISATION = 10.0  # scikit-learn's C


class _Line(Protocol):
    """A model of one kind of task, trained when made."""

    name: str

    def __init__(self, training: Sequence[Any]) -> None: ...

    def measure(self, gold: Sequence[Any], lexicon: Lexicon | None = None) -> Measurement:
        """Metrics on the examples, with a lexicon on their words as that translates them."""


class _ClassLine:
    """TF-IDF over words with logistic regression."""

    name = "TF-IDF, logistic regression"

    def __init__(self, training: Sequence[TextExample]) -> None:
        features = TfidfVectorizer(sublinear_tf=True, tokenizer=words, token_pattern=None)
        model = make_pipeline(features, LogisticRegression(C=_REGULARISATION, max_iter=2000))
        self._model = model.fit([_text(example) for example in training], [example.label for example in training])

    def measure(self, gold: Sequence[TextExample], lexicon: Lexicon | None = None) -> Measurement:
        texts = [_text(example) for example in gold]
        if lexicon:
            texts = list(map(_word_list(lexicon).text, texts))
        return measure_classes([example.label for example in gold], list(self._model.predict(texts)))


class _TagLine:
    """The commonest tag of a word, whatever its case; of an unknown word, of all words."""

    name = "commonest tag of each word"

    def __init__(self, training: Sequence[TaggedExample]) -> None:
        every, of_word = Counter(), defaultdict(Counter)
        for example in training:
            for word, tag in zip(example.words, example.tags, strict=True):
                if tag is not None:
                    every[tag] += 1
                    of_word[word.lower()][tag] += 1
        self._tags = set(every)
        self._unknown = every.most_common(1)[0][0]
        self._known = {word: tags.most_common(1)[0][0] for word, tags in of_word.items()}

    def measure(self, gold: Sequence[TaggedExample], lexicon: Lexicon | None = None) -> Measurement:
        translation = _word_list(lexicon).word if lexicon else str

        def tag(word: str) -> str:
            return self._known.get(translation(word).lower(), self._unknown)

        predicted = [list(map(tag, example.words)) for example in gold]
        return measure_tags([example.tags for example in gold], predicted, self._tags)


LINES: dict[Kind, type[_Line]] = {"classification": _ClassLine, "tagging": _TagLine}


def reference_lines(
    task: str,
    kind: Kind,
    metric: str,
    split: str,
    training: dict[str, Sequence[Example]],
    examples: dict[str, Sequence[Example]],
    source: str,
    word_lists: dict[str, Lexicon],
) -> Iterator[tuple[Result, Parts]]:
    """A result, and what each example counts in it, for each language but the source; `in-language` where there are
    training data in it, `word-by-word` where there is a word list.

    kind: classification or tagging. training, examples, word_lists: language -> what is trained on, what is measured,
    and its words in the source's.
    """
    surface = LINES[kind](training[source])
    for language, gold in examples.items():
        if language == source:
            continue
        values = {SURFACE: surface.measure(gold)}
        if language in word_lists:
            values[WORD_BY_WORD] = surface.measure(gold, word_lists[language])
        if language in training:
            values[IN_LANGUAGE] = LINES[kind](training[language]).measure(gold)
        for line, measured in values.items():
            result = Result(task, language, metric, measured.values, len(gold), surface.name, line, None, split)
            yield result, measured.parts[metric]


def word_by_word(text: str, lexicon: Lexicon) -> str:
    """Words of the list as their first translation, of a single word where there is one; others as they are."""
    return _word_list(lexicon).text(text)


def _word_list(lexicon: Lexicon) -> WordList:
    return WordList(
        {
            word: next((one for one in translations if " " not in one), translations[0])
            for word, translations in lexicon.items()
        }
    )


def _text(example: TextExample) -> str:
    return "\n".join(example.texts)
