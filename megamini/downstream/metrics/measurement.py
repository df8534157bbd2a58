"""What was measured on test examples: metrics, and what each example counts in them."""

from collections.abc import Sequence
from dataclasses import dataclass

# Per test example (numerator, denominator), in the order of the examples.
Parts = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Measurement:
    """values: metric -> value, a fraction. parts: metric -> what each test example counts in it; `ratio` of them is the
    value. A metric that is no such ratio, as macro-F1, has none."""

    values: dict[str, float]
    parts: dict[str, Parts]


def ratio(parts: Parts) -> float:
    """Sum of the numerators over the sum of the denominators. Raises ZeroDivisionError where nothing counts."""
    return sum(numerator for numerator, _ in parts) / sum(denominator for _, denominator in parts)
