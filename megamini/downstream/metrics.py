"""Accuracy and F1 of classes, tags and entities, as fractions."""

from collections.abc import Sequence

Entity = tuple[int, str, int, int]


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of predictions that are right."""
    return sum(one == other for one, other in zip(gold, predicted, strict=True)) / len(gold)


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over the classes that occur, in gold or predicted, of each class's F1."""
    pairs = list(zip(gold, predicted, strict=True))
    scores = []
    for label in sorted({*gold, *predicted}):  # the last digits of a sum depend on its order
        right = sum(one == other == label for one, other in pairs)
        scores.append(f1(right, list(predicted).count(label), list(gold).count(label))[2])
    return sum(scores) / len(scores)


def f1(right: int, predicted: int, gold: int) -> tuple[float, float, float]:
    """(precision, recall, F1) from the counts of right, of predicted and of gold items; 0 where undefined."""
    precision = right / predicted if predicted else 0.0
    recall = right / gold if gold else 0.0
    return precision, recall, 2 * right / (predicted + gold) if right else 0.0


def entity_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """(precision, recall, F1) of entities over all sentences: right when span and type are (CoNLL 2003)."""
    ours, theirs = _all_entities(predicted), _all_entities(gold)
    return f1(len(ours & theirs), len(ours), len(theirs))


def _all_entities(sentences: Sequence[Sequence[str]]) -> set[Entity]:
    return {(number, *entity) for number, tags in enumerate(sentences) for entity in entities(tags)}


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word behind the last) of each entity of a sentence in B-, I- and O tags.

    As the CoNLL script reads them, an I- that continues no entity of its type begins one.
    """
    found: list[tuple[str, int, int]] = []
    start, current = 0, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if current and (prefix != "I" or kind != current):
            found.append((current, start, position))
            current = ""
        if prefix in ("B", "I") and not current:
            start, current = position, kind
    return found
