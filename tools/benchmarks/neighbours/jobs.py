"""The comparison as steps: text, data directories, fine-tuned models, and a cell for each adaptation.

In the work folder: text/, models/ (primary, mini, and those with a pack plugged in), data/, runs/. What a cell has
cost and reached is kept in the ledger; a cell that has all its tasks there is done.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megamini.downstream.results import TABLE
from tools.benchmarks.neighbours.grid import Cell, Grid
from tools.benchmarks.page import ROOT
from tools.study.grid import TaskSection
from tools.study.ledger import Ledgers
from tools.study.workers import Step

HERE, STUDY = Path(__file__).parent, ROOT / "tools/study/recipes"
LEDGER = "ledger"
_VALIDATION = ("--validation-share", 0.03)  # the quickstart's: English validation is what the primary has not seen
_HELD = ("--validation-share", 0.5)  # of the held-out pages: the most that there can be


class Jobs:
    """Makes the steps that cells without a ledger need.

    work: where everything is made. ledgers: what is kept. facts: what a ledger says of all cells. data: folder of real
    evaluation data, or None to leave out the tasks that need it.
    """

    def __init__(self, grid: Grid, work: Path, ledgers: Ledgers, facts: dict[str, Any], data: Path | None) -> None:
        self._grid, self._work, self._ledgers, self._facts = grid, work, ledgers, facts
        self._tasks = {
            key: task.model_copy(update={"path": task.path.format(data=data)})
            for key, task in grid.tasks.items()
            if data is not None or "{data}" not in task.path
        }

    def of(self, cells: Sequence[Cell]) -> list[Step]:
        """In order of work; a step that several cells need stands before the first of them."""
        steps = [step for cell in cells if not self._is_measured(cell) for step in self._of(cell)]
        return list({step.name: step for step in steps}.values())

    def _of(self, cell: Cell) -> list[Step]:
        source, language = self._grid.source_language, cell.language
        own, held = f"data/{cell.name}", f"data/{cell.name}-held-out"
        steps = [step for one in (source, language) for step in (self._fetch(one), self._split(one))]
        steps += [self._source_data("primary", "models/primary", f"data/{source}", [])]
        steps += [self._fetch(language, "freedict")] if cell.has_list else []
        steps += [self._pseudo(language)] if cell.way == "lexicon" else []
        steps += [self._data(cell)]
        steps += [
            self._prepare(held, [f"text/{language}.held-out.jsonl"], language, own, _HELD, [own, f"split-{language}"])
        ]
        if cell.is_beside_source:
            steps += [self._source_data(cell.name, own, self._source_of(cell), [own])]
        steps += [self._finetune(key) for key in self._tasks_in(language)]
        return [*steps, self._learn(cell), self._evaluate(cell)]

    def _is_measured(self, cell: Cell) -> bool:
        return set(self._tasks_in(cell.language)) <= self._ledgers.tasks_of(LEDGER, cell.name)

    def _tasks_in(self, language: str) -> dict[str, TaskSection]:
        return {key: task for key, task in self._tasks.items() if language in (task.languages or [language])}

    # --- text ---------------------------------------------------------------------------------------------------------

    def _fetch(self, language: str, source: str | None = None) -> Step:
        """Waits for the one before: a single fetch may write to the folder."""
        source = source or self._grid.pages
        file = f"text/{source}.{language}.{'tsv' if source == 'freedict' else 'jsonl'}"
        command = _python("tools/fetch_text.py", source, "--languages", language, "--out", "text")
        return self._step(f"text-{source}-{language}", [command], file, [])

    def _split(self, language: str) -> Step:
        pages, count = f"text/{self._grid.pages}.{language}.jsonl", self._grid.sentences
        script = "tools/benchmarks/neighbours/split.py"
        command = _python(script, "--pages", pages, "--sentences", count, "--out", f"text/{language}")
        needs = [f"text-{self._grid.pages}-{language}"]
        return self._step(f"split-{language}", [command], f"text/{language}.few.jsonl", needs)

    def _pseudo(self, language: str) -> Step:
        source, out = self._grid.source_language, f"text/pseudo.{language}.jsonl"
        command = _python(
            "tools/translate_words.py", "--text", f"text/{source}.all.jsonl", "--lexicon", _word_list(language),
            "--out", out, "--processes", 1,
        )  # fmt: skip
        return self._step(f"pseudo-{language}", [command], out, [f"split-{source}", f"text-freedict-{language}"])

    # --- data directories ---------------------------------------------------------------------------------------------

    def _data(self, cell: Cell) -> Step:
        """What a cell learns from, with its tokenizer."""
        grid, language = self._grid, cell.language
        files = [] if cell.text == "none" else [f"text/{language}.{cell.text}.jsonl"]
        needs = [f"split-{language}", f"split-{grid.source_language}"]
        if cell.way == "lexicon":
            files, needs = [f"text/pseudo.{language}.jsonl", *files], [*needs, f"pseudo-{language}"]
        old = ["--old-text", f"text/{grid.source_language}.all.jsonl"]
        if cell.way == "extension":
            vocabulary = ["--extend-tokenizer", "models/primary", "--add", grid.add]
            vocabulary += [] if language in grid.other_script else old
        elif cell.way == "replacement":
            vocabulary = ["--tokenizer", "models/primary", "--replace-least-used", grid.replace, *old]
        else:
            vocabulary = ["--vocab-size", grid.vocab_size]
        return self._prepared(f"data/{cell.name}", files, language, vocabulary, _VALIDATION, needs)

    def _source_of(self, cell: Cell) -> str:
        return f"data/{self._grid.source_language}-of-{cell.name}"

    def _source_data(self, name: str, tokenizer: str, out: str, needs: Sequence[str]) -> Step:
        """All pages of the source language, by a tokenizer that reads them."""
        source = self._grid.source_language
        files, needs = [f"text/{self._grid.pages}.{source}.jsonl"], [*needs, f"text-{self._grid.pages}-{source}"]
        return self._prepare(out, files, source, tokenizer, _VALIDATION, needs)

    def _prepare(
        self, out: str, files: list[str], language: str, tokenizer: str, share: Sequence[object], needs: Sequence[str]
    ) -> Step:
        return self._prepared(out, files, language, ["--tokenizer", tokenizer], share, needs)

    def _prepared(
        self, out: str, files: list[str], language: str, how: Sequence[object], share: Sequence[object],
        needs: Sequence[str],
    ) -> Step:  # fmt: skip
        command = _python(
            "tools/prepare_data.py", "--text", *files, "--language", language, *how, "--block-length",
            self._grid.block_length, *share, "--out", out, "--processes", 1,
        )  # fmt: skip
        return self._step(out, [command], f"{out}/manifest.json", needs)

    # --- models -------------------------------------------------------------------------------------------------------

    def _finetune(self, key: str) -> Step:
        task, run = self._tasks[key], f"tasks-{key}"
        settings = [f"name={run}", "model.primary=models/primary", f"tasks.{key}.path={task.path}", *task.finetune]
        command = _python("launch/finetune.py", STUDY / "finetune.yaml", *settings)
        needs = [f"text-{self._grid.pages}-{self._grid.source_language}"]
        return self._step(run, [command], f"runs/{run}/{TABLE}", needs)

    def _learn(self, cell: Cell) -> Step:
        start = [f"adaptation.lexicon={_word_list(cell.language)}"] if cell.has_list else []
        needs = [f"data/{cell.name}"]
        if cell.is_beside_source:
            start += [f"data.source={self._source_of(cell)}"]
            needs += [self._source_of(cell)]
        if cell.way == "replacement":
            start += [f"data.source_share={self._grid.source_share}"]
        command = _python(
            "launch/adapt.py", HERE / "adapt.yaml", f"name={cell.name}", f"data.path=data/{cell.name}",
            f"adaptation.stop.flops={self._grid.flops}", *start, *self._grid.adapt,
        )  # fmt: skip
        return self._step(f"learn-{cell.name}", [command], f"runs/{cell.name}/packs/{cell.language}/pack.json", needs)

    def _evaluate(self, cell: Cell) -> Step:
        """The untrained and the last pack on every task of the language, and the source language beside them."""
        name, language, source = cell.name, cell.language, self._grid.source_language
        packs, tasks = f"runs/{name}/packs/{language}", self._tasks_in(language)
        languages = f"[{source}, {language}]" if cell.is_beside_source else f"[{language}]"
        settings = [f"packs={{start: {packs}-step-00000000, end: {packs}}}", "model.primary=models/primary"]
        for key, task in tasks.items():
            models = f"tasks.{key}.models=[runs/tasks-{key}/{key}]"
            settings += [f"tasks.{key}.path={task.path}", models, f"tasks.{key}.languages={languages}", *task.evaluate]
            if cell.text == "none":  # once a language: what needs no language model
                settings += [f"tasks.{key}.reference_lines=true", f"tasks.{key}.word_lists={_word_list('{language}')}"]
        bits = "measures.bits_per_byte.blocks=1000000"
        of_pages = f"{{{source}: data/{source}, {language}: data/{name}-held-out}}"
        commands = [
            _python(
                "launch/evaluate.py", STUDY / "evaluate.yaml", f"name=evaluate-{name}", *settings,
                f"measures.bits_per_byte.data={of_pages}", bits,
            )
        ]  # fmt: skip
        folders = [self._work / "runs" / f"evaluate-{name}"]
        if cell.is_beside_source:
            plugged, source_data = f"models/{name}", self._source_of(cell)
            if not (self._work / plugged / "config.json").is_file():
                commands.append(_python("tools/export.py", "models/primary", plugged, "--pack", packs))
            commands.append(
                _python(
                    "launch/evaluate.py", STUDY / "evaluate.yaml", f"name=evaluate-{name}-{source}",
                    f"model.primary={plugged}", f"measures.bits_per_byte.data={{{source}: {source_data}}}", bits,
                )
            )  # fmt: skip
            folders.append(self._work / "runs" / f"evaluate-{name}-{source}")
        facts = {"way": cell.way, "text": cell.text, "language": language, **self._facts}
        keep = partial(self._ledgers.keep, LEDGER, name, facts, self._work / "runs" / name, folders)
        needs = [f"learn-{name}", f"data/{source}", f"data/{name}-held-out", *(f"tasks-{key}" for key in tasks)]
        return Step(name, commands, partial(self._is_measured, cell), needs, then=keep)

    def _step(self, name: str, commands: list[list[str]], makes: str, needs: Sequence[str]) -> Step:
        return Step(name, commands, (self._work / makes).is_file, list(dict.fromkeys(needs)))


def _word_list(language: str) -> str:
    return f"text/freedict.{language}.tsv"


def _python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]
