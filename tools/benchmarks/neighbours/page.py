"""README.md of the comparison, from its ledger alone: tables of every language, what was asked, what is missing."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from scipy.stats import t

from megamini.downstream.results import Result
from megamini.files import write_atomically
from tools.benchmarks.neighbours.grid import Cell, Grid, cells_of
from tools.benchmarks.page import table
from tools.study.ledger import Ledger

BITS = "bits_per_byte"
_TOLD = {
    "swapped": "swapped pack",
    "swapped-list": "swapped pack, word-list start",
    "extension": "extension",
    "replacement": "replacement",
    "lexicon": "pseudo text",
}


def write_page(grid: Grid, ledgers: Sequence[Ledger], out: Path) -> None:
    """`out`/README.md."""
    kept = {one.name: one for one in ledgers}
    cells = [cell for cell in cells_of(grid) if cell.name in kept]
    parts = [_beginning(grid, list(kept.values()))]
    for language in dict.fromkeys(cell.language for cell in cells):
        of_language = [cell for cell in cells if cell.language == language]
        parts += [f"## {language}", _language(grid, [(cell, kept[cell.name]) for cell in of_language])]
    parts += ["## Differences", _HOW_DIFFERENT, _differences(grid, cells, kept)]
    parts += ["## Missing", _missing(grid, kept)]
    write_atomically(out / "README.md", "\n\n".join(parts) + "\n")


def _beginning(grid: Grid, ledgers: Sequence[Ledger]) -> str:
    settings = ledgers[0].facts["settings"]
    flops = [one.run.ledger["flops"] for one in ledgers]
    own, beside, replaced, sentences = (settings[key] for key in ("vocab_size", "add", "replace", "sentences"))
    return f"""# Four ways to one more language, at equal compute

A swapped pack, an extension, a replacement, and pseudo text made with a word list. All are learned over the same
mini-model, for {min(flops):.3g} to {max(flops):.3g} FLOPs each. They are measured in the primary model and its English
task models.

* Command: `python tools/benchmarks/neighbours/run.py --work DIR --data DIR`. This page is written from `ledger.jsonl`.
* Primary model: weights {ledgers[0].facts["primary"][:12]}.
* New pieces: {own:,} of a swapped pack; {beside:,} of an extension; {replaced:,} of a replacement, which also reads
  source text ({settings["source_share"]:.0%} of its batches).
* Text: help pages without the task's test pages. `few`: {sentences:,} sentences of them. `none`: pseudo text alone.
* Tasks: percent, mean ± standard deviation over the fine-tuned models; the untrained pack, an arrow, the trained one.
  The untrained pack of pseudo text is the word-list start. Bits per byte: masked text of the test pages, plugged in.
* English columns: with the pack plugged in. A swapped pack reads one language, and leaves English as before.
  English bits per byte: pages that the quickstart's pretraining leaves out.
* One seed of adaptation. The models are small: the order of the ways says more than the height of the numbers.

{_made_with(ledgers)}"""


def _made_with(ledgers: Sequence[Ledger]) -> str:
    machines = sorted({one.made_with["hardware"] for one in ledgers})
    versions = sorted({", ".join(f"{k} {v}" for k, v in one.made_with["versions"].items()) for one in ledgers})
    commits = sorted({one.made_with["commit"] for one in ledgers})
    minutes = sum(one.run.ledger["seconds"] for one in ledgers) / 60
    return (
        f"* {len(ledgers)} cells; {minutes:.0f} minutes of adaptation in all, beside other work\n"
        f"* Hardware: {'; '.join(machines)}\n* Versions: {'; '.join(versions)}; commits {', '.join(commits)}"
    )


def _language(grid: Grid, cells: Sequence[tuple[Cell, Ledger]]) -> str:
    language, source = cells[0][0].language, grid.source_language
    measured = {result.task for _, ledger in cells for result in ledger.results}
    tasks = [task for task in grid.tasks if task in measured]
    columns = ["text", "way", "updates", *tasks, "bits per byte"]
    columns += [f"{source}: {task}" for task in tasks] + [f"{source}: bits per byte"]
    rows = [["", "before", "", *[""] * (len(tasks) + 1), *_before(tasks, source, cells)]]
    for cell, ledger in cells:
        own = [f"{_cell(ledger, task, language, 'start')} → {_cell(ledger, task, language, 'end')}" for task in tasks]
        row = [cell.text, _TOLD[cell.way], f"{ledger.run.ledger['updates']:,}", *own]
        row.append(_cell(ledger, BITS, language, "end"))
        if cell.is_beside_source:
            row += [_cell(ledger, task, source, "end") for task in tasks]
            row.append(_bits_of_source(ledger, source, plugged=True))
        else:
            row += [""] * (len(tasks) + 1)
        rows.append(row)
    return "\n\n".join(part for part in (table(columns, rows), _lines(tasks, cells)) if part)


def _before(tasks: Sequence[str], source: str, cells: Sequence[tuple[Cell, Ledger]]) -> list[str]:
    """What the source language reaches without a pack, as some cell has measured it."""
    ledgers = [ledger for _, ledger in cells]
    found = [next(filter(None, (_cell(one, task, source, None) for one in ledgers)), "") for task in tasks]
    return [*found, next(filter(None, (_bits_of_source(one, source, plugged=False) for one in ledgers)), "")]


def _bits_of_source(ledger: Ledger, source: str, plugged: bool) -> str:
    """Of the primary model, or of the one with the pack plugged in."""
    of = [one for one in ledger.results if (one.task, one.language, one.pack) == (BITS, source, None)]
    return _spread([one for one in of if one.model.endswith(ledger.name) == plugged])


def _lines(tasks: Sequence[str], cells: Sequence[tuple[Cell, Ledger]]) -> str:
    """What needs no language model, where it was measured."""
    language = cells[0][0].language
    results = [one for _, ledger in cells for one in ledger.results]
    found = {
        (one.task, one.pack): one.values[one.metric]
        for one in results
        if one.language == language and one.learned is None and one.task in tasks
    }
    return "; ".join(f"{task}, {name}: {100 * value:.1f}" for (task, name), value in found.items())


def _of(ledger: Ledger, task: str, language: str, pack: str | None) -> list[Result]:
    return [one for one in ledger.results if (one.task, one.language, one.pack) == (task, language, pack)]


def _cell(ledger: Ledger, task: str, language: str, pack: str | None) -> str:
    return _spread(_of(ledger, task, language, pack))


def _spread(results: Sequence[Result]) -> str:
    if not results:
        return ""
    values = [one.values[one.metric] for one in results]
    if results[0].metric == BITS:
        return f"{statistics.fmean(values):.3f}"
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{deviation}"


# --- what was asked ---------------------------------------------------------------------------------------------------

_HOW_DIFFERENT = (
    "Points of accuracy, paired by fine-tuned model, with 95% intervals over these models (t distribution). They do "
    "not know of other seeds of adaptation, nor of other test examples."
)
# What is asked: the way and text of the one, then of the other; None: its own untrained pack.
_ASKED = {
    "extension, less the swapped pack": (("extension", "all"), ("swapped", "all")),
    "replacement, less the swapped pack": (("replacement", "all"), ("swapped", "all")),
    "few: extension, less the swapped pack": (("extension", "few"), ("swapped", "few")),
    "few: replacement, less the swapped pack": (("replacement", "few"), ("swapped", "few")),
    "none: pseudo text, less the untrained word-list start": (("lexicon", "none"), None),
    "few: pseudo text too, less the sentences alone": (("lexicon", "few"), ("swapped", "few")),
    "few: pseudo text too, less these with a word-list start": (("lexicon", "few"), ("swapped-list", "few")),
}


def _differences(grid: Grid, cells: Sequence[Cell], kept: dict[str, Ledger]) -> str:
    by_place = {(cell.way, cell.text, cell.language): kept[cell.name] for cell in cells}
    rows = []
    for question, (one, other) in _ASKED.items():
        for language in dict.fromkeys(cell.language for cell in cells):
            ours = by_place.get((*one, language))
            theirs, pack = (ours, "start") if other is None else (by_place.get((*other, language)), "end")
            if ours is None or theirs is None:
                continue
            for task in grid.tasks:
                pairs = _paired(_of(ours, task, language, "end"), _of(theirs, task, language, pack))
                if pairs:
                    rows.append([question, language, task, _interval(pairs)])
    return table(["difference", "language", "task", "points"], rows) if rows else "None can be told yet."


def _paired(ours: Iterable[Result], theirs: Iterable[Result]) -> list[float]:
    """Differences in percent, of the fine-tuned models that both have."""
    known = {one.seed: one.values[one.metric] for one in theirs}
    return [100 * (one.values[one.metric] - known[one.seed]) for one in ours if one.seed in known]


def _interval(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):+.1f}"
    if len(values) < 2:
        return mean
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.1f}"


def _missing(grid: Grid, kept: dict[str, Ledger]) -> str:
    lines = [f"* {cell.name}: not run" for cell in cells_of(grid) if cell.name not in kept]
    for cell in cells_of(grid):
        tasks = {
            task for task, section in grid.tasks.items() if cell.language in (section.languages or [cell.language])
        }
        if cell.name in kept and (without := sorted(tasks - {one.task for one in kept[cell.name].results})):
            lines.append(f"* {cell.name}: without {', '.join(without)}")
    return "\n".join(lines) or "Nothing of what `neighbours.yaml` lists."
