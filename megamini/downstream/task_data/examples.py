"""Examples: what a task is made of, whatever file it came from."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class TextExample:
    """One text or a pair of texts with its class."""

    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class TaggedExample:
    """A sentence of words, each with its tag; a word whose tag is None is only context."""

    words: tuple[str, ...]
    tags: tuple[str | None, ...]


@dataclass(frozen=True)
class Answer:
    """A span of the context: its text and the character at which it starts; None where it is not where it should be."""

    text: str
    start: int | None


@dataclass(frozen=True)
class QuestionExample:
    """A question on a context; any of `answers` is right, and none means that the context does not answer it."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]


Example: TypeAlias = TextExample | TaggedExample | QuestionExample
