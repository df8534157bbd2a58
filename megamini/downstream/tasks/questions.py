"""Extractive question answering in SQuAD's format: MLQA (Lewis et al. 2020), XQuAD (Artetxe et al. 2020), and the
English data that models are trained on (SQuAD 1.1, or TyDi QA's gold passages)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megamini.downstream.examples import Answer, QuestionExample
from megamini.downstream.tasks.declaration import HubData, Layout, Task
from megamini.errors import UserError


def read_squad(path: Path, language: str) -> Iterator[QuestionExample]:
    """SQuAD's JSON, version 1.1 or 2.0 (a question may have no answer). Raises UserError naming the place in the file
    for what is not as the format says, such as an answer that does not stand in the context where it should."""
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file in SQuAD's format ({error}); it is one JSON object with 'data'") from None
    place = "data"
    try:
        for number, article in enumerate(articles):
            for part, paragraph in enumerate(article["paragraphs"]):
                for row, values in enumerate(paragraph["qas"]):
                    place = f"data[{number}].paragraphs[{part}].qas[{row}]"
                    yield _question(values, paragraph["context"])
    except KeyError as error:
        raise UserError(f"{path}: row {place}: {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: row {place}: {error}") from None


def _question(values: dict[str, Any], context: str) -> QuestionExample:
    if not (isinstance(context, str) and isinstance(values["question"], str)):
        raise ValueError("context or question is not text")
    answers = tuple(Answer(answer["text"], int(answer["answer_start"])) for answer in values["answers"])
    for answer in answers:
        if context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise ValueError(f"the context does not hold the answer {answer.text[:60]!r} at character {answer.start}")
    return QuestionExample(str(values["id"]), values["question"], context, answers)


def _from_record(record: dict[str, Any]) -> QuestionExample:
    given = record["answers"]
    answers = tuple(Answer(text, start) for text, start in zip(given["text"], given["answer_start"], strict=True))
    return QuestionExample(record["id"], record["question"], record["context"], answers)


_SQUAD = (
    Layout("**/{split}-v1.1.json", read_squad, languages=("en",)),
    Layout("**/{split}-v2.0.json", read_squad, languages=("en",)),
)
_TYDI = Layout("**/tydiqa.goldp.{language}.{split}.json", read_squad)
# Both benchmarks bring no training data: models are trained on English questions of another data set.
_TRAINING = (*_SQUAD, _TYDI, Layout("**/train-{language}*.json", read_squad))
_ADVICE = "to train, get SQuAD 1.1 (train-v1.1.json, rajpurkar.github.io/SQuAD-explorer)"

SQUAD = Task(
    name="squad",
    kind="question-answering",
    metric="f1",
    source=f"{_ADVICE} and give its folder",
    layouts={"train": _TRAINING, "dev": (*_SQUAD, _TYDI), "test": (*_SQUAD, _TYDI)},
    hub=HubData("rajpurkar/squad", {"train": "train", "dev": "validation", "test": "validation"}, _from_record),
)

TYDIQA = Task(
    name="tydiqa",
    kind="question-answering",
    metric="f1",
    source="get TyDi QA's gold passages (github.com/google-research-datasets/tydiqa, or XTREME's download script) and "
    "give their folder",
    layouts={"train": (_TYDI,), "dev": (_TYDI,)},
)

_MLQA_EVALUATION = (Layout("**/{split}-context-{language}-question-{language}.json", read_squad),)

MLQA = Task(
    name="mlqa",
    kind="question-answering",
    metric="f1",
    source=f"get MLQA 1.0 (github.com/facebookresearch/MLQA, MLQA_V1.zip) and give its folder; {_ADVICE}",
    layouts={"train": _TRAINING, "dev": _MLQA_EVALUATION, "test": _MLQA_EVALUATION},
    hub=HubData("facebook/mlqa", {"dev": "validation", "test": "test"}, _from_record, "mlqa.{language}.{language}"),
)

XQUAD = Task(
    name="xquad",
    kind="question-answering",
    metric="f1",
    source=f"get XQuAD (github.com/google-deepmind/xquad) and give its folder; {_ADVICE}",
    layouts={"train": _TRAINING, "test": (Layout("**/xquad.{language}.json", read_squad),)},
    hub=HubData("google/xquad", {"test": "validation"}, _from_record, "xquad.{language}"),
    validation_split="test",
)
