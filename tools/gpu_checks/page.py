"""The page of a GPU check, rewritten behind every row: what was tried, what came out, what was not reached."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TITLES = {
    "environment": "Environment",
    "smoke": "Smoke: one process, small models, 20 updates each",
    "zero": "Smoke: DeepSpeed",
    "survival": "Killed and resumed",
    "parity": "Beside the CPU in fp32, and golden losses",
    "speed": "Speed and memory",
    "loss": "The joint loss",
}


class Page:
    """Rows by section. `path` is known once the environment is: model_hardware_date.md, with the sections of `part`
    behind it where they are not all, so that the page of a part never replaces a whole one."""

    def __init__(self, out: Path, shape: str, minutes: float, part: Sequence[str] = ()) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._shape, self._minutes, self._part = out, shape, minutes, part
        self._date = datetime.date.today().isoformat()
        self._sections: dict[str, list[dict[str, Any]]] = {}
        self._notes: dict[str, list[str]] = {}
        self._hardware = "unknown"
        self._write()

    @property
    def path(self) -> Path:
        hardware = re.sub(r"[^A-Za-z0-9.]+", "-", self._hardware).strip("-")
        return self._out / f"{self._shape}_{hardware}_{'-'.join([self._date, *self._part])}.md"

    @property
    def failed(self) -> list[str]:
        return [f"{name}: {row['check']}" for name, rows in self._sections.items() for row in rows if not row["ok"]]

    def begin(self, name: str) -> None:
        self._sections[name], self._notes[name] = [], ["is running, or was cut off here"]
        self._write()
        self._notes[name] = []

    def add(self, name: str, row: dict[str, Any]) -> None:
        """row: `check`, `ok`, and what else is to be told, in columns of the same names; rows alike share a table."""
        if hardware := row.pop("hardware", None):
            self.path.unlink(missing_ok=True)
            self._hardware = hardware
        self._sections[name].append(row)
        self._write()
        print(f"{'ok    ' if row['ok'] else 'FAILED'}  {name}: {row['check']}  {row.get('says', '')}", flush=True)

    def note(self, name: str, text: str) -> None:
        self._notes[name].append(text)
        self._write()

    def summary(self) -> str:
        done = sum(len(rows) for rows in self._sections.values())
        failed = "; ".join(self.failed)
        return f"{done} checks, {f'FAILED: {failed}' if failed else 'none failed'}"

    def _write(self) -> None:
        only = f" --only {' '.join(self._part)}" if self._part else ""
        parts = [
            f"# GPU check: {self._shape} shapes on {self._hardware}",
            f"* Date: {self._date}\n* Command: `python tools/gpu_check.py --shape {self._shape}{only}`, at most "
            f"{self._minutes:g} minutes\n* {self.summary()}",
        ]
        for name, rows in self._sections.items():
            parts += [
                f"## {_TITLES[name]}",
                *_tables(rows),
                *(f"**Not reached**: {note}." for note in self._notes[name]),
            ]
        self.path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _tables(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table for neighbours with the same columns."""
    tables: list[list[str]] = []
    columns: list[str] = []
    for row in rows:
        cells = {**row, "ok": "yes" if row["ok"] else "**FAILED**"}
        if list(cells) != columns:
            columns = list(cells)
            tables.append([_line(columns), _line(["---"] * len(columns))])
        tables[-1].append(_line(cells.values()))
    return ["\n".join(lines) for lines in tables]


def _line(cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"
