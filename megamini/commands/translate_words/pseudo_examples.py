"""Pseudo labelled data: examples of a task translated word by word, labels kept, in files that `task: custom` reads."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from megamini.commands.translate_words.translator import Translator, drawing
from megamini.downstream.task_data.examples import Answer, Example, QuestionExample, TaggedExample, TextExample
from megamini.downstream.tasks.declaration import Kind
from megamini.files import write_atomically
from megamini.languages.words import words

SUFFIXES: dict[Kind, str] = {"classification": "jsonl", "tagging": "conll", "question-answering": "json"}


def translated_examples(
    examples: Iterable[Example], translator: Translator, least: int, seed: int
) -> tuple[list[Example], Counter[str]]:
    """The examples with `least` listed words or more, translated; counts of all, of those kept, and of words. Left out
    is also what a file cannot hold: words without a tag, and answers that are not where they should be."""
    kept: list[Example] = []
    counts: Counter[str] = Counter()
    for number, example in enumerate(examples):
        translated, replaced, length = _translated(example, translator, drawing(seed, str(number)))
        counts += Counter(sentences=1, words=length)
        if replaced >= least and _is_whole(example):
            kept.append(translated)
            counts += Counter(kept_sentences=1, kept_words=length, translated_words=replaced)
    return kept, counts


def _translated(example: Example, translator: Translator, draw: random.Random) -> tuple[Example, int, int]:
    """The example, how many of its words were translated, and how many it has."""
    if isinstance(example, TextExample):
        texts = [translator.text(text, draw) for text in example.texts]
        length = sum(len(words(text)) for text in example.texts)
        return TextExample(tuple(text for text, _ in texts), example.label), sum(count for _, count in texts), length
    if isinstance(example, TaggedExample):
        found = [translator.word(word, draw) for word in example.words]
        own = tuple(word if one is None else one for word, one in zip(example.words, found, strict=True))
        return TaggedExample(own, example.tags), sum(one is not None for one in found), len(own)
    return _question(example, translator, draw)


def _is_whole(example: Example) -> bool:
    if isinstance(example, TaggedExample):
        return None not in example.tags
    if isinstance(example, QuestionExample):
        return not example.answers or any(answer.start is not None for answer in example.answers)
    return True


def _question(example: QuestionExample, translator: Translator, draw: random.Random) -> tuple[Example, int, int]:
    """The context is translated before, inside and behind its first answer, so that the answer's place is known."""
    question, count = translator.text(example.question, draw)
    length = len(words(example.question)) + len(words(example.context))
    placed = next((answer for answer in example.answers if answer.start is not None), None)
    if placed is None:
        context, more = translator.text(example.context, draw)
        return QuestionExample(example.id, question, context, ()), count + more, length
    end = placed.start + len(placed.text)
    parts = example.context[: placed.start], example.context[placed.start : end], example.context[end:]
    texts, counts = zip(*(translator.text(part, draw) for part in parts), strict=True)
    answer = Answer(texts[1], len(texts[0]))
    return QuestionExample(example.id, question, "".join(texts), (answer,)), count + sum(counts), length


def write_examples(path: Path, kind: Kind, examples: list[Example]) -> None:
    """Write a file that a custom task of this kind reads."""
    write_atomically(path, {"classification": _texts, "tagging": _sentences}.get(kind, _squad)(examples))


def columns_of(examples: list[Example]) -> list[str]:
    """The columns that a custom task of classes is to name."""
    pair = isinstance(examples[0], TextExample) and len(examples[0].texts) == 2
    return ["text", "text_pair", "label"] if pair else ["text", "label"]


def _texts(examples: list[TextExample]) -> str:
    names = columns_of(examples)
    rows = (dict(zip(names, (*one.texts, one.label), strict=True)) for one in examples)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _sentences(examples: list[TaggedExample]) -> str:
    return "\n".join(
        "".join(f"{word}\t{tag}\n" for word, tag in zip(one.words, one.tags, strict=True)) for one in examples
    )


def _squad(examples: list[QuestionExample]) -> str:
    paragraphs = [
        {
            "context": one.context,
            "qas": [
                {
                    "id": one.id,
                    "question": one.question,
                    "answers": [{"text": answer.text, "answer_start": answer.start} for answer in one.answers],
                }
            ],
        }
        for one in examples
    ]
    return (
        json.dumps({"version": "pseudo", "data": [{"title": "", "paragraphs": paragraphs}]}, ensure_ascii=False) + "\n"
    )
