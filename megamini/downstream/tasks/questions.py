"""Extractive question answering in SQuAD's format: MLQA (Lewis et al. 2020), XQuAD (Artetxe et al. 2020), TyDi QA's
gold passages (Clark et al. 2020), and the English data that models are trained on (SQuAD 1.1, or TyDi QA)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megamini.downstream.metrics.answers import normalize, normalize_squad
from megamini.downstream.task_data.examples import Answer, QuestionExample
from megamini.downstream.task_data.squad_file import read_squad
from megamini.downstream.tasks.declaration import HubData, Layout, Task
from megamini.languages.codes import closest

# What TyDi QA's own release calls its languages, in names of files and in ids such as english-123.
_TYDI_NAMES = {
    "arabic": "ar", "bengali": "bn", "english": "en", "finnish": "fi", "indonesian": "id", "japanese": "ja",
    "korean": "ko", "russian": "ru", "swahili": "sw", "telugu": "te", "thai": "th",
}  # fmt: skip


def read_tydi(path: Path, language: str) -> Iterator[QuestionExample]:
    """TyDi QA's file of all languages: the questions whose id says this one."""
    questions = list(read_squad(path, language))
    of_question = [question.id.partition("-")[0].lower() for question in questions]
    codes = {_TYDI_NAMES.get(name, name): name for name in of_question}
    own = codes.get(closest(language, codes, path) or "")
    return (question for question, name in zip(questions, of_question, strict=True) if name == own)


def _from_record(record: dict[str, Any]) -> QuestionExample:
    given = record["answers"]
    answers = tuple(Answer(text, start) for text, start in zip(given["text"], given["answer_start"], strict=True))
    return QuestionExample(record["id"], record["question"], record["context"], answers)


_SQUAD = (
    Layout("**/{split}-v1.1.json", read_squad, languages=("en",)),
    Layout("**/{split}-v2.0.json", read_squad, languages=("en",)),
)
_TYDI = (
    Layout("**/tydiqa.goldp.{language}.{split}.json", read_squad),
    Layout("**/tydiqa-goldp-{split}-{language}.json", read_squad, names=_TYDI_NAMES),
    Layout("**/tydiqa-goldp-v1.1-{split}.json", read_tydi),
    Layout("**/tydiqa-goldp-v1.0-{split}.json", read_tydi),
)
# Both benchmarks bring no training data: models are trained on English questions of another data set.
_TRAINING = (*_SQUAD, *_TYDI, Layout("**/train-{language}*.json", read_squad))
_ADVICE = "to train, get SQuAD 1.1 (train-v1.1.json, rajpurkar.github.io/SQuAD-explorer)"

SQUAD = Task(
    name="squad",
    kind="question-answering",
    metric="f1",
    source=f"{_ADVICE} and give its folder",
    layouts={"train": _TRAINING, "dev": (*_SQUAD, *_TYDI), "test": (*_SQUAD, *_TYDI)},
    hub=HubData(
        "rajpurkar/squad", {"train": "train", "dev": "validation", "test": "validation"}, _from_record, language="en"
    ),
    answer_form=normalize_squad,
)

TYDIQA = Task(
    name="tydiqa",
    kind="question-answering",
    metric="f1",
    source="get TyDi QA's gold passages (github.com/google-research-datasets/tydiqa, or XTREME's download script) and "
    "give their folder",
    layouts={"train": _TYDI, "dev": _TYDI},
    answer_form=normalize_squad,
)

_MLQA_EVALUATION = (Layout("**/{split}-context-{language}-question-{language}.json", read_squad),)

MLQA = Task(
    name="mlqa",
    kind="question-answering",
    metric="f1",
    source=f"get MLQA 1.0 (github.com/facebookresearch/MLQA, MLQA_V1.zip) and give its folder; {_ADVICE}",
    layouts={"train": _TRAINING, "dev": _MLQA_EVALUATION, "test": _MLQA_EVALUATION},
    hub=HubData("facebook/mlqa", {"dev": "validation", "test": "test"}, _from_record, "mlqa.{language}.{language}"),
    answer_form=normalize,
)

XQUAD = Task(
    name="xquad",
    kind="question-answering",
    metric="f1",
    source=f"get XQuAD (github.com/google-deepmind/xquad) and give its folder; {_ADVICE}",
    layouts={"train": _TRAINING, "test": (Layout("**/xquad.{language}.json", read_squad),)},
    hub=HubData("google/xquad", {"test": "validation"}, _from_record, "xquad.{language}"),
    validation_split="test",
    answer_form=normalize_squad,
)
