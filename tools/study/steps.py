"""The study as steps: text, data, primary models, fine-tuning, and a cell for each adaptation run.

In the work folder: text/, data/LANG, runs/, models/PRIMARY (exports) and models/PRIMARY-exit-N. What a primary model
and a cell have cost and reached is kept in ledgers; a cell that has one with all its tasks is done, wherever its
weights are.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from megamini.downstream.results import TABLE
from megamini.recipes.recipe import load_recipe
from megamini.recipes.values import duration_in_updates
from tools.benchmarks.page import ROOT
from tools.study.grid import Cell, Study, TaskSection, primary_in
from tools.study.ledger import Ledgers
from tools.study.workers import Step

RECIPES = Path(__file__).parent / "recipes"


class Steps:
    """Makes the steps that cells without a ledger need.

    work: where everything is made. ledgers: what is kept. data: folder of real evaluation data, or None to leave out
    the tasks that need it. ranks: processes of a pretraining run.
    """

    def __init__(self, study: Study, work: Path, ledgers: Ledgers, data: Path | None, ranks: int) -> None:
        self._study, self._work, self._ledgers, self._ranks = study, work, ledgers, ranks
        self._tasks = {
            key: task.model_copy(update={"path": task.path.format(data=data)})
            for key, task in study.tasks.items()
            if data is not None or "{data}" not in task.path
        }

    @property
    def left_out(self) -> list[str]:
        """Tasks whose data are not at hand."""
        return [key for key in self._study.tasks if key not in self._tasks]

    def of(self, cells: Sequence[Cell], primaries: Sequence[str] = ()) -> list[Step]:
        """In order of work. primaries: wanted for their own sake."""
        study = self._study
        needed = [cell for cell in cells if not self._is_measured(cell)]
        wanted = [name for name in primaries if not self._is_measured(name)]
        stages = [stage for cell in needed for stage in self._with_earlier_stages(cell)]
        for stage in stages:
            series = study.series[stage.series]
            wanted += [series.primary, primary_in(series.source)]
        if not wanted:
            return []
        names = dict.fromkeys(one for name in wanted for one in self._with_ancestors(name))
        source = study.text.source_language
        languages = list(dict.fromkeys([source, *(cell.language for cell in needed)]))
        listed = [stage.language for stage in stages if study.series[stage.series].word_list]
        steps = [
            *self._fetches(languages, list(dict.fromkeys(listed))),
            *(self._data(language) for language in languages),
            *(self._parallel(one.language, count) for one in stages if (count := study.series[one.series].parallel)),
            *(step for name in names for step in self._primary(name)),
        ]
        for cell in needed:
            steps += [self._learn(stage) for stage in self._with_earlier_stages(cell)]
            steps += [self._evaluate(cell)]
        return list({step.name: step for step in steps}.values())

    def _is_measured(self, what: Cell | str) -> bool:
        """Whether all that there is of a cell, or of a primary model, is kept."""
        if isinstance(what, Cell):
            return set(self._tasks_in(what.language)) <= self._ledgers.tasks_of(what.series, what.name)
        tasks = self._tasks if self._study.primaries[what].tasks else ()
        return self._ledgers.has("primaries", what) and set(tasks) <= self._ledgers.tasks_of("primaries", what)

    def _tasks_in(self, language: str) -> dict[str, TaskSection]:
        """The tasks that are measured in a language."""
        return {key: task for key, task in self._tasks.items() if language in (task.languages or [language])}

    def _with_ancestors(self, name: str) -> list[str]:
        before = self._study.primaries[name].after
        return [*(self._with_ancestors(before) if before else []), name]

    def _with_earlier_stages(self, cell: Cell) -> list[Cell]:
        """The cell behind those that it goes on from, whose packs it needs even where their ledgers are kept."""
        before = self._study.series[cell.series].after
        earlier = self._with_earlier_stages(replace(cell, series=before)) if before else []
        return [*earlier, cell]

    def _fetches(self, languages: Sequence[str], listed: Sequence[str]) -> list[Step]:
        """Text of all languages and word lists of some, one by one: a single fetch may write to the folder."""
        steps: list[Step] = []
        for name, sources, files in (
            *((f"text-{one}", self._study.text.sources_in(one), self._text_files(one)) for one in languages),
            *((f"words-{one}", ["freedict"], [_word_list(one)]) for one in listed),
        ):
            language = name.partition("-")[2]
            commands = [
                _python("tools/fetch_text.py", source, "--languages", language, "--out", "text") for source in sources
            ]
            paths = [self._work / file for file in files]
            steps.append(Step(name, commands, partial(_all_there, paths), [step.name for step in steps[-1:]]))
        return steps

    def _text_files(self, language: str) -> list[str]:
        return [f"text/{source}.{language}.jsonl" for source in self._study.text.sources_in(language)]

    def _parallel(self, language: str, lines: int) -> Step:
        """Two files whose lines say the same, from pages of the first source."""
        source = self._study.text.source_language
        pages = [f"text/{self._study.text.sources[0]}.{one}.jsonl" for one in (language, source)]
        files = [self._work / file for file in self._parallel_files(language, lines)]
        stem = f"text/parallel-{lines}-{language}"
        command = _python("tools/parallel_text.py", *pages, "--lines", lines, "--out", stem)
        needs = [f"text-{language}", f"text-{source}"]
        return Step(f"parallel-{lines}-{language}", [command], partial(_all_there, files), needs)

    def _parallel_files(self, language: str, lines: int) -> list[str]:
        """That of the language, then that of the source language, in the work folder."""
        return [f"text/parallel-{lines}-{language}.{one}.txt" for one in (language, self._study.text.source_language)]

    def _data(self, language: str) -> Step:
        text = self._study.text
        prepare = _python(
            "tools/prepare_data.py", "--text", *self._text_files(language), "--language", language, "--vocab-size",
            text.vocab_size, "--block-length", text.block_length, "--validation-share", "0.02", "--out",
            f"data/{language}", "--processes", 1,
        )  # fmt: skip
        manifest = self._work / "data" / language / "manifest.json"
        return Step(f"data-{language}", [prepare], manifest.is_file, needs=[f"text-{language}"])

    def _primary(self, name: str) -> list[Step]:
        """Pretraining with its exports, and fine-tuning on each task with what the source language reaches."""
        primary, run = self._study.primaries[name], f"runs/pretrain-{name}"
        start = [f"model.from_checkpoint=models/{primary.after}"] if primary.after else []
        settings = [RECIPES / f"{primary.recipe}.yaml", f"name=pretrain-{name}", *start, *primary.changes]
        exports = {f"models/{name}": []} | {f"models/{name}-exit-{layer}": ["--exit", layer] for layer in primary.exits}
        # Of its last update, which a run that was stopped by a signal, and ended with 0, does not have.
        last = f"{run}/checkpoints/step-{self._updates(primary.recipe, primary.changes):08d}"
        commands = [_python("tools/export.py", last, out, *options) for out, options in exports.items()]
        folders = [self._work / out for out in exports]
        pretraining = Step(
            f"pretrain-{name}",
            [self._pretrain(settings), *commands],
            lambda: all((folder / "config.json").is_file() for folder in folders),
            [f"data-{self._study.text.source_language}", *([f"pretrain-{primary.after}"] if primary.after else [])],
            whole=self._ranks > 1,
            then=lambda: self._ledgers.keep("primaries", name, {"primary": name}, self._work / run, []),
        )
        return [pretraining, *((self._finetune(name, key) for key in self._tasks) if primary.tasks else ())]

    def _pretrain(self, settings: Sequence[object]) -> list[str]:
        if self._ranks == 1:
            return _python("launch/pretrain.py", *settings)
        launcher, zero = Path(sys.executable).with_name("deepspeed"), ROOT / "ds_configs/zero1.json"
        script, *changes = map(str, (ROOT / "launch/pretrain.py", *settings))
        return [str(launcher), "--num_gpus", str(self._ranks), script, *changes, "--deepspeed_config", str(zero)]

    def _finetune(self, name: str, key: str) -> Step:
        task, run = self._tasks[key], f"tasks-{name}-{key}"
        finetune = self._recipe(
            "finetune", f"name={run}", f"model.primary=models/{name}", f"tasks.{key}.path={task.path}", *task.finetune
        )
        evaluate = self._recipe("evaluate", f"name=evaluate-{run}", *self._task(name, key, task))
        done = self._work / "runs" / f"evaluate-{run}" / TABLE  # the last that an evaluation writes
        pretrained = self._work / "runs" / f"pretrain-{name}"
        keep = partial(self._ledgers.keep, "primaries", name, {"primary": name}, pretrained)
        return Step(
            f"tasks-{name}-{key}",
            [finetune, evaluate],
            lambda: done.is_file() and key in self._ledgers.tasks_of("primaries", name),
            [f"pretrain-{name}"],
            then=lambda: keep([done.parent]),
        )

    def _task(self, primary: str, key: str, task: TaskSection) -> list[str]:
        """Overrides of an evaluation for one task."""
        models = f"tasks.{key}.models=[runs/tasks-{primary}-{key}/{key}]"
        return [f"tasks.{key}.path={task.path}", models, *task.evaluate]

    def _updates(self, recipe: str, changes: Sequence[str]) -> int:
        """Length of a pretraining run."""
        settings = load_recipe(RECIPES / f"{recipe}.yaml", changes)
        tokens_per_update = settings.training.global_batch * self._study.text.block_length
        return duration_in_updates(settings.schedule.duration, tokens_per_update)

    def _learn(self, cell: Cell) -> Step:
        series, name, language = self._study.series[cell.series], cell.name, cell.language
        before = replace(cell, series=series.after).name if series.after else None
        start = ["adaptation.initialise=pack", f"adaptation.pack=runs/{before}/packs/{language}"] if before else []
        if series.word_list:
            start = [f"adaptation.lexicon={_word_list(language)}"]
        if series.parallel:
            start.append(f"adaptation.parallel=[{', '.join(self._parallel_files(language, series.parallel))}]")
        adapt = self._recipe(
            "adapt", f"name={name}", f"adaptation.source=models/{series.source}", f"adaptation.method={series.method}",
            f"adaptation.primary=models/{series.primary}", f"data.path=data/{language}", f"training.seed={cell.seed}",
            *start, *series.changes,
        )  # fmt: skip
        needs = [f"data-{language}", f"pretrain-{series.primary}", f"pretrain-{primary_in(series.source)}"]
        pack = self._work / "runs" / name / "packs" / language / "pack.json"
        needs += [f"learn-{before}"] if before else []
        needs += [f"words-{language}"] if series.word_list else []
        needs += [f"parallel-{series.parallel}-{language}"] if series.parallel else []
        return Step(f"learn-{name}", [adapt], pack.is_file, list(dict.fromkeys(needs)))

    def _evaluate(self, cell: Cell) -> Step:
        """Every pack of a cell on every task of its language, and the ledger that is kept of it."""
        series, name, language = self._study.series[cell.series], cell.name, cell.language
        primary, tasks, runs = series.primary, self._tasks_in(language), self._work / "runs"
        lines = [
            f"tasks.{key}.word_lists={_word_list('{language}')}"
            for key in tasks
            if series.word_list and key in self._with_reference_lines
        ]
        evaluate = self._recipe(
            "evaluate", f"name=evaluate-{name}", f"model.primary=models/{primary}",
            f"packs={{{cell.series}: runs/{name}/packs/{language}-step-*}}",
            *(change for key, task in tasks.items() for change in self._task(primary, key, task)),
            *(f"tasks.{key}.languages=[{language}]" for key in tasks),
            f"measures.bits_per_byte.data={{{language}: data/{language}}}",
            f"measures.retrieval.files=text/{self._study.text.sources[0]}.{{language}}.jsonl", *lines,
        )  # fmt: skip
        return Step(
            name,
            [evaluate],
            lambda: self._is_measured(cell),
            [f"learn-{name}", *(f"tasks-{primary}-{key}" for key in tasks)],
            then=lambda: self._ledgers.keep(cell.series, name, cell.facts, runs / name, [runs / f"evaluate-{name}"]),
        )

    @property
    def _with_reference_lines(self) -> set[str]:
        """Tasks that are held against lines that need no language model."""
        return {key for key, task in self._tasks.items() if f"tasks.{key}.reference_lines=true" in task.evaluate}

    def _recipe(self, entry: str, *changes: str) -> list[str]:
        """A command line of launch/ with the study's recipe of that name."""
        return _python(f"launch/{entry}.py", RECIPES / f"{entry}.yaml", *changes)


def _all_there(paths: Sequence[Path]) -> bool:
    return all(path.is_file() for path in paths)


def _word_list(language: str) -> str:
    """Word list of a language, in the work folder."""
    return f"text/freedict.{language}.tsv"


def _python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]
