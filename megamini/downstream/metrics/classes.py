"""Macro-F1 of classes, as a fraction."""

from collections import Counter
from collections.abc import Sequence


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over the classes that occur, in gold or predicted, of each class's F1."""
    right = Counter(one for one, other in zip(gold, predicted, strict=True) if one == other)
    occurrences = Counter(gold) + Counter(predicted)
    # In a fixed order: it decides how the sum is rounded.
    return sum(2 * right[label] / occurrences[label] for label in sorted(occurrences)) / len(occurrences)
