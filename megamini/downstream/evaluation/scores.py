"""What each test example counts in the headline metric: `scores.jsonl`, a line a measurement.

A line says which measurement of `results.json` it belongs to, and has the numerator and the denominator of each
example, in the order of the examples; the ratio of their sums is the result. Denominators are left out where all are 1.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megamini.downstream.evaluation.entries import content_of, heading_of
from megamini.downstream.metrics.measurement import Parts, ratio
from megamini.downstream.results import FILE as RESULTS
from megamini.downstream.results import Result
from megamini.errors import UserError, writing
from megamini.files import parse_json
from megamini.training.telemetry import write_atomically

FILE = "scores.jsonl"


class Scores:
    """Those of a run directory, to which measurements are added one by one.

    A kill may tear the last line, and another evaluation may have measured anew without keeping scores: a line that is
    not whole, or that no entry of the results agrees with, counts as missing.
    """

    def __init__(self, directory: Path, entries: Sequence[dict[str, Any]]) -> None:
        """entries: those of `results.json`. Raises UserError where the file holds something else."""
        self._path = directory / FILE
        by_content = {content_of(entry): entry for entry in entries}
        self._lines = {
            content: line
            for line in _read(self._path)
            if (content := content_of(line)) in by_content and _agrees(line, by_content[content])
        }
        self.write(entries)

    def __contains__(self, entry: dict[str, Any]) -> bool:
        return content_of(entry) in self._lines

    def add(self, entry: dict[str, Any], parts: Parts) -> None:
        """Append a line, at once: a large file is not written anew for each."""
        self._lines[content_of(entry)] = line = heading_of(entry) | _columns(parts)
        with writing(self._path), self._path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(_text(line))
            file.flush()
            os.fsync(file.fileno())

    def write(self, entries: Sequence[dict[str, Any]]) -> None:
        """The whole file, in the order of the results."""
        lines = (self._lines[content_of(one)] | heading_of(one) for one in entries if one in self)
        write_atomically(self._path, "".join(map(_text, lines)))


def read_scores(directory: Path) -> list[tuple[Result, Parts]]:
    """Results with what each example counts in them, where that was kept. Raises UserError for a file of others."""
    path = directory / FILE
    lines = {content_of(line): line for line in _read(path)}
    found = []
    for entry in json.loads((directory / RESULTS).read_text(encoding="utf-8")):
        line = lines.get(content_of(entry))
        if line is not None and _agrees(line, entry):
            found.append((Result.from_entry(entry), _parts(line)))
    return found


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith("\n"):
                return
            try:
                line = parse_json(text)
                heading_of(line)
                ratio(_parts(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}: line {number}: not scores of launch/evaluate.py: {error!r}; remove the file and run "
                    "launch/evaluate.py again"
                ) from None
            except ZeroDivisionError:
                pass  # nothing counts, as entities where neither side has any
            yield line


def _agrees(line: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether the scores are those of this result, and not of an earlier measurement."""
    parts = _parts(line)
    value = ratio(parts) if any(denominator for _, denominator in parts) else 0.0
    return math.isclose(value, entry[entry["metric"]], rel_tol=1e-9)


def _columns(parts: Parts) -> dict[str, list[float]]:
    numerators, denominators = (list(column) for column in zip(*parts, strict=True))
    same = all(one == 1 for one in denominators)
    return {"numerators": numerators} | ({} if same else {"denominators": denominators})


def _parts(line: dict[str, Any]) -> Parts:
    numerators = line["numerators"]
    return list(zip(numerators, line.get("denominators", [1] * len(numerators)), strict=True))


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
