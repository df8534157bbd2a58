"""What needs no language model at all: TF-IDF over words with logistic regression, as lines to hold a transfer against.

`surface` is trained in the source language and applied as it is, so it knows the words that both languages write
alike; a transfer should beat it. `in-language` is trained on the target's own training data, which zero-shot lacks.
"""

from collections.abc import Iterator, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from megamini.downstream.examples import TextExample
from megamini.downstream.metrics import accuracy, macro_f1
from megamini.downstream.results import Result

SURFACE, IN_LANGUAGE = "surface", "in-language"
_REGULARISATION = 10.0  # scikit-learn's C


def reference_lines(
    task: str,
    metric: str,
    split: str,
    training: dict[str, Sequence[TextExample]],
    examples: dict[str, Sequence[TextExample]],
    source: str,
) -> Iterator[Result]:
    """A result for each language but the source; `in-language` where there are training data in it.

    training, examples: language -> what is trained on, and what is measured.
    """
    surface = _trained(training[source])
    for language, gold in examples.items():
        if language == source:
            continue
        models = {SURFACE: surface}
        if language in training:
            models[IN_LANGUAGE] = _trained(training[language])
        for name, model in models.items():
            labels = [example.label for example in gold]
            predicted = list(model.predict([_text(example) for example in gold]))
            values = {"accuracy": accuracy(labels, predicted), "macro_f1": macro_f1(labels, predicted)}
            yield Result(task, language, metric, values, len(gold), "TF-IDF, logistic regression", name, None, split)


def _trained(examples: Sequence[TextExample]):
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=_REGULARISATION, max_iter=2000))
    return model.fit([_text(example) for example in examples], [example.label for example in examples])


def _text(example: TextExample) -> str:
    return "\n".join(example.texts)
