"""Questions with several choices, of which a decoder's likelihood takes one."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from megamini.commands.likelihood_tasks.phrases import phrases_of
from megamini.downstream.evaluation.rolling import documents_of
from megamini.downstream.task_data.language_files import path_in
from megamini.downstream.tasks.registry import find_task, read_examples
from megamini.errors import UserError

CHOICES = 4
# Words of a document before the choice, and in each of the choices.
_BEFORE, _BEHIND = 48, 16


@dataclass(frozen=True)
class Question:
    """answer: the number of the right one of the `choices`, each of which follows `context` behind a space."""

    context: str
    choices: tuple[str, ...]
    answer: int


def questions_on_classes(
    name: str, data: str, split: str, language: str, phrases: str | None, limit: int | None
) -> list[Question]:
    """A question for each example of a labelled task; the choices are its classes' words, in the order of the task's
    labels. Raises `UserError` for data or phrases that are not there or wrong."""
    task = find_task(name)
    own = phrases_of(task, language, phrases)
    return [
        Question(own.pattern.format(*example.texts), tuple(own.answers.values()), task.labels.index(example.label))
        for example in read_examples(task, data, None, split, language, limit)
    ]


def questions_of_text(pattern: str, language: str, limit: int | None) -> list[Question]:
    """Which of four texts goes on a document; the wrong ones go on others of the same file. The same questions each
    time. Raises `UserError` where fewer than four documents are long enough and differ."""
    path = path_in(pattern, language)
    if not path.is_file():
        raise UserError(f"--data {path}: no such file; give one of text in '{language}', with {{language}} in its path")
    halves = _distinct(found for text in documents_of(str(path)) if (found := _halves(text.split())))
    if len(halves) < CHOICES:
        raise UserError(
            f"{path}: {len(halves)} documents have {2 * _BEHIND} words between spaces and differ there; {CHOICES} are "
            "needed"
        )
    count = min(limit or len(halves), len(halves))
    return [_question(halves, number * len(halves) // count) for number in range(count)]


def _halves(words: list[str]) -> tuple[str, str] | None:
    """The words before the middle of a document, and those behind it; None for a short one."""
    middle = len(words) // 2
    if middle < _BEHIND:
        return None
    return " ".join(words[max(0, middle - _BEFORE) : middle]), " ".join(words[middle : middle + _BEHIND])


def _distinct(halves: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that begin or end as one before: two endings would be right, or one would be two choices."""
    found, seen = [], (set(), set())
    for both in halves:
        if not any(half in known for half, known in zip(both, seen, strict=True)):
            found.append(both)
        for half, known in zip(both, seen, strict=True):
            known.add(half)
    return found


def _question(halves: list[tuple[str, str]], number: int) -> Question:
    draw, (context, right) = random.Random(number), halves[number]
    others = [other for other in draw.sample(range(len(halves)), CHOICES) if other != number]
    wrong = [halves[other][1] for other in others[: CHOICES - 1]]
    answer = draw.randrange(CHOICES)
    return Question(context, (*wrong[:answer], right, *wrong[answer:]), answer)
