"""What needs no language model at all: TF-IDF over words with logistic regression, as lines to hold a transfer against.

`surface` is trained in the source language and applied as it is, so it knows the words that both languages write
alike; a transfer should beat it. `word-by-word` is the same model on texts that a bilingual word list has translated;
what starts from such a list should beat it. `in-language` is trained on the target's own training data, which zero-shot
lacks.
"""

import re
from collections.abc import Iterator, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from megamini.adaptation.lexicon import Lexicon
from megamini.downstream.examples import TextExample
from megamini.downstream.metrics import accuracy, macro_f1
from megamini.downstream.results import Result

SURFACE, WORD_BY_WORD, IN_LANGUAGE = "surface", "word-by-word", "in-language"
_REGULARISATION = 10.0  # scikit-learn's C


def reference_lines(
    task: str,
    metric: str,
    split: str,
    training: dict[str, Sequence[TextExample]],
    examples: dict[str, Sequence[TextExample]],
    source: str,
    word_lists: dict[str, Lexicon],
) -> Iterator[Result]:
    """A result for each language but the source; `in-language` where there are training data in it, `word-by-word`
    where there is a word list.

    training, examples, word_lists: language -> what is trained on, what is measured, and its words in the source's.
    """
    surface = _trained(training[source])
    for language, gold in examples.items():
        if language == source:
            continue
        texts = [_text(example) for example in gold]
        lines = {SURFACE: (surface, texts)}
        if language in word_lists:
            lines[WORD_BY_WORD] = (surface, [word_by_word(text, word_lists[language]) for text in texts])
        if language in training:
            lines[IN_LANGUAGE] = (_trained(training[language]), texts)
        for name, (model, read) in lines.items():
            labels = [example.label for example in gold]
            predicted = list(model.predict(read))
            values = {"accuracy": accuracy(labels, predicted), "macro_f1": macro_f1(labels, predicted)}
            yield Result(task, language, metric, values, len(gold), "TF-IDF, logistic regression", name, None, split)


def word_by_word(text: str, lexicon: Lexicon) -> str:
    """Words of the list as their first translation, of a single word where there is one; others as they are."""

    def translated(word: re.Match) -> str:
        translations = lexicon.get(word[0], [word[0]])
        return next((one for one in translations if " " not in one), translations[0])

    return re.sub(r"\w+", translated, text)


def _trained(examples: Sequence[TextExample]):
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=_REGULARISATION, max_iter=2000))
    return model.fit([_text(example) for example in examples], [example.label for example in examples])


def _text(example: TextExample) -> str:
    return "\n".join(example.texts)
