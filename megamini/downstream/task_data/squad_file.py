"""Questions in SQuAD's format, and what is wrong with their answers: said before anything runs."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megamini.downstream.task_data.examples import Answer, QuestionExample
from megamini.downstream.task_data.rows import bad_row, check_texts, note, read_json
from megamini.errors import UserError


def read_squad(path: Path, language: str) -> Iterator[QuestionExample]:
    """SQuAD's JSON, version 1.1 or 2.0 (a question may have no answer). Raises UserError naming the location in the
    file for what is not as the format says, and for files whose answers are all empty or elsewhere than they say."""
    content = read_json(path, "SQuAD's format")
    if not (isinstance(content, dict) and isinstance(content.get("data"), list)):
        raise UserError(f"{path}: not a file in SQuAD's format; it is one JSON object with a list under 'data'")
    questions, location = [], "data"
    try:
        for number, article in enumerate(content["data"]):
            for part, paragraph in enumerate(article["paragraphs"]):
                for row, values in enumerate(paragraph["qas"]):
                    location = f"data[{number}].paragraphs[{part}].qas[{row}]"
                    questions.append((location, _question(path, location, values, paragraph)))
    except KeyError as error:
        raise bad_row(path, location, f"{error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise bad_row(path, location, f"not as SQuAD's format has it: {error}") from None
    return iter(with_places(str(path), questions))


def _question(path: Path, location: str, values: dict[str, Any], paragraph: dict[str, Any]) -> QuestionExample:
    check_texts(path, location, paragraph, ("context",))
    check_texts(path, location, values, ("question",))
    for answer in values["answers"]:
        check_texts(path, location, answer, ("text",))
    answers = tuple(Answer(answer["text"], int(answer["answer_start"])) for answer in values["answers"])
    return QuestionExample(str(values["id"]), values["question"], paragraph["context"], answers)


def with_places(where: str, questions: Sequence[tuple[str, QuestionExample]]) -> list[QuestionExample]:
    """The questions, given with their locations in `where`, with an answer's start only where the answer stands there.

    Answers that stand elsewhere are kept, since the official scripts score by their text alone; questions whose answers
    are all empty are left out. Both are counted, and the first is named. Raises UserError where that leaves nothing.
    """
    kept, empty, elsewhere, answered = [], [], [], 0
    for location, question in questions:
        given = [answer for answer in question.answers if answer.text.strip()]
        answers = [_placed(answer, question.context) for answer in given]
        if question.answers and not answers:
            empty.append((location, question.id))
            continue
        answered += bool(answers)
        lost = next((one for one, known in zip(given, answers, strict=True) if known.start is None), None)
        if lost is not None:
            elsewhere.append((location, lost))
        kept.append(replace(question, answers=tuple(answers)))
    if empty and not answered:
        raise UserError(
            f"{where}: the answers are empty, as XTREME's download script leaves those of test files; get the data "
            "set's own release"
        )
    if questions and not answered:
        raise UserError(f"{where}: no question has an answer: nothing to train on or to score")
    if elsewhere and len(elsewhere) == answered:
        location, answer = elsewhere[0]
        raise UserError(f"{where}: row {location}: {_not_there(answer)}")
    for found, problem in (
        (empty, lambda identity: f"question '{identity}' has empty answers only: left out"),
        (elsewhere, lambda answer: f"{_not_there(answer)}: scored, not trained on"),
    ):
        if found:
            location, what = found[0]
            note(f"{where}: {len(found):,} of {len(questions):,} questions, the first at {location}: {problem(what)}")
    return kept


def _not_there(answer: Answer) -> str:
    return f"the context does not hold the answer {answer.text[:60]!r} at character {answer.start}"


def _placed(answer: Answer, context: str) -> Answer:
    """The answer as the context spells it there, composed or decomposed; without a start where it is not there."""
    if answer.start is not None and answer.start >= 0:
        for form in (None, "NFC", "NFD"):
            length = len(unicodedata.normalize(form, answer.text) if form else answer.text)
            there = context[answer.start : answer.start + length]
            if _equal(there, answer.text):
                return Answer(there, answer.start)
    return replace(answer, start=None)


def _equal(one: str, other: str) -> bool:
    return one == other or unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
