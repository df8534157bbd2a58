"""The study as steps: text, data, primary models, fine-tuning, and a cell for each adaptation run.

In the work folder: text/, data/LANG, runs/, models/PRIMARY (exports) and models/PRIMARY-exit-N. What a primary model
and a cell have cost and reached is kept as a ledger; a cell that has one is done, wherever its weights are.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megamini.downstream.results import TABLE
from megamini.recipes.sections import duration_in_updates, load_recipe
from tools.benchmarks.page import ROOT
from tools.study.grid import Cell, Study, primary_in
from tools.study.ledger import check_same_run, read_ledger, write_ledger
from tools.study.workers import Step

RECIPES = Path(__file__).parent / "recipes"
# The languages that are studied here and whose parallel treebank (PUD) is at hand.
UD_LANGUAGES = ("de", "es", "ru")


class Steps:
    """Makes the steps that cells without a ledger need.

    work: where everything is made. ledgers: what is kept. ud_pos: folder of Universal Dependencies, or None to leave
    them out. ranks: processes of a pretraining run.
    """

    def __init__(self, study: Study, work: Path, ledgers: Path, ud_pos: Path | None, ranks: int) -> None:
        self._study, self._work, self._ledgers, self._ud_pos, self._ranks = study, work, ledgers, ud_pos, ranks

    def of(self, cells: Sequence[Cell], primaries: Sequence[str] = ()) -> list[Step]:
        """In order of work. primaries: wanted for their own sake."""
        study = self._study
        missing = [cell for cell in cells if not self._ledger(cell.name).is_file()]
        untagged = [cell for cell in cells if self._has_tags(cell) and not self._ledger(f"tags-{cell.name}").is_file()]
        needed = [cell for cell in cells if cell in missing or cell in untagged]
        wanted = [name for name in primaries if not self._ledger(f"primary-{name}").is_file()]
        stages = [stage for cell in needed for stage in self._with_earlier_stages(cell)]
        for stage in stages:
            series = study.series[stage.series]
            wanted += [series.primary, primary_in(series.source)]
        if not wanted:
            return []
        names = dict.fromkeys(one for name in wanted for one in self._with_ancestors(name))
        source = study.text.source_language
        languages = list(dict.fromkeys([source, *(cell.language for cell in needed)]))
        steps = [
            self._text(languages),
            *(self._data(language) for language in languages),
            *(step for name in names for step in self._primary(name)),
        ]
        listed = list(dict.fromkeys(stage.language for stage in stages if study.series[stage.series].word_list))
        steps += [self._words(listed)] if listed else []
        steps += [self._tagging(study.series[cell.series].primary) for cell in untagged]
        for cell in needed:
            steps += [self._learn(stage) for stage in self._with_earlier_stages(cell)]
            steps += [self._evaluate(cell)] if cell in missing else []
            steps += [self._tag(cell)] if cell in untagged else []
        return list({step.name: step for step in steps}.values())

    def _ledger(self, name: str) -> Path:
        return self._ledgers / f"{name}.json"

    def _with_ancestors(self, name: str) -> list[str]:
        before = self._study.primaries[name].after
        return [*(self._with_ancestors(before) if before else []), name]

    def _with_earlier_stages(self, cell: Cell) -> list[Cell]:
        """The cell behind those that it goes on from, whose packs it needs even where their ledgers are kept."""
        before = self._study.series[cell.series].after
        earlier = self._with_earlier_stages(replace(cell, series=before)) if before else []
        return [*earlier, cell]

    def _text(self, languages: list[str]) -> Step:
        commands = [
            _python("tools/fetch_text.py", source, "--languages", *languages, "--out", "text")
            for source in self._study.text.sources
        ]
        files = [
            self._work / "text" / f"{source}.{language}.jsonl"
            for source in self._study.text.sources
            for language in languages
        ]
        return Step("text", commands, lambda: all(file.is_file() for file in files))

    def _words(self, languages: list[str]) -> Step:
        fetch = _python("tools/fetch_text.py", "freedict", "--languages", *languages, "--out", "text")
        files = [self._work / _word_list(language) for language in languages]
        # Behind the text: one fetch at a time writes to the folder.
        return Step("words", [fetch], lambda: all(file.is_file() for file in files), ["text"])

    def _data(self, language: str) -> Step:
        text = self._study.text
        files = [f"text/{source}.{language}.jsonl" for source in text.sources]
        prepare = _python(
            "tools/prepare_data.py", "--text", *files, "--language", language, "--vocab-size", text.vocab_size,
            "--block-length", text.block_length, "--validation-share", "0.02", "--out", f"data/{language}",
            "--processes", 1,
        )  # fmt: skip
        manifest = self._work / "data" / language / "manifest.json"
        return Step(f"data-{language}", [prepare], manifest.is_file, needs=["text"])

    def _primary(self, name: str) -> list[Step]:
        """Pretraining with its exports, and fine-tuning with what the source language reaches."""
        primary, run = self._study.primaries[name], f"runs/pretrain-{name}"
        start = [f"model.from_checkpoint=models/{primary.after}"] if primary.after else []
        pretrain = [
            str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(self._ranks),
            str(ROOT / "launch/pretrain.py"), str(RECIPES / f"{primary.recipe}.yaml"),
            "--deepspeed_config", str(ROOT / "ds_configs/zero1.json"), f"name=pretrain-{name}", *start,
            *primary.changes,
        ]  # fmt: skip
        exports = {f"models/{name}": []} | {f"models/{name}-exit-{layer}": ["--exit", layer] for layer in primary.exits}
        # Of its last update, which a run that was stopped by a signal, and ended with 0, does not have.
        last = f"{run}/checkpoints/step-{self._updates(primary.recipe, primary.changes):08d}"
        commands = [_python("tools/export.py", last, out, *options) for out, options in exports.items()]
        folders = [self._work / out for out in exports]
        pretraining = Step(
            f"pretrain-{name}",
            [pretrain, *commands],
            lambda: all((folder / "config.json").is_file() for folder in folders),
            [f"data-{self._study.text.source_language}", *([f"tasks-{primary.after}"] if primary.after else [])],
            whole=True,
            then=lambda: self._keep_primary(name, None),
        )
        if not primary.tasks:
            return [pretraining]
        finetune = self._recipe("finetune", f"name=tasks-{name}", f"model.primary=models/{name}")
        evaluation = f"evaluate-{name}"
        evaluate = self._recipe(
            "evaluate", f"name={evaluation}", f"model.finetuned=runs/tasks-{name}", f"model.primary=models/{name}",
            "tasks.libreoffice.reference_lines=false",
        )  # fmt: skip
        done = self._work / "runs" / evaluation / TABLE  # the last that an evaluation writes
        tasks = Step(
            f"tasks-{name}",
            [finetune, evaluate],
            done.is_file,
            [f"pretrain-{name}"],
            then=lambda: self._keep_primary(name, done.parent),
        )
        return [pretraining, tasks]

    def _updates(self, recipe: str, changes: Sequence[str]) -> int:
        """Length of a pretraining run."""
        settings = load_recipe(RECIPES / f"{recipe}.yaml", changes)
        tokens_per_update = settings.training.global_batch * self._study.text.block_length
        return duration_in_updates(settings.schedule.duration, tokens_per_update)

    def _keep_primary(self, name: str, evaluation: Path | None) -> None:
        """Written when pretrained, and again with what is measured. One that is kept already stays, and its cells must
        be of the same weights."""
        path, run = self._ledger(f"primary-{name}"), self._work / "runs" / f"pretrain-{name}"
        if path.is_file():
            check_same_run(path, run)
        if not path.is_file() or (evaluation is not None and not read_ledger(path).results):
            write_ledger(path, "primary", {"primary": name}, run, evaluation)

    def _learn(self, cell: Cell) -> Step:
        series, name, language = self._study.series[cell.series], cell.name, cell.language
        before = replace(cell, series=series.after).name if series.after else None
        start = ["adaptation.initialise=pack", f"adaptation.pack=runs/{before}/packs/{language}"] if before else []
        if series.word_list:
            start = ["adaptation.initialise=focus", f"adaptation.lexicon={_word_list(language)}"]
        adapt = self._recipe(
            "adapt", f"name={name}", f"adaptation.source=models/{series.source}", f"adaptation.method={series.method}",
            f"adaptation.primary=models/{series.primary}", f"data.path=data/{language}", f"training.seed={cell.seed}",
            *start, *series.changes,
        )  # fmt: skip
        needs = [f"data-{language}", f"pretrain-{series.primary}", f"pretrain-{primary_in(series.source)}"]
        pack = self._work / "runs" / name / "packs" / language / "pack.json"
        needs += [f"learn-{before}"] if before else []
        needs += ["words"] if series.word_list else []
        return Step(f"learn-{name}", [adapt], pack.is_file, needs)

    def _evaluate(self, cell: Cell) -> Step:
        series, name, language = self._study.series[cell.series], cell.name, cell.language
        evaluate = self._recipe(
            "evaluate", f"name=evaluate-{name}", f"model.finetuned=runs/tasks-{series.primary}",
            f"model.primary=models/{series.primary}", f"packs={{{cell.series}: runs/{name}/packs/{language}-step-*}}",
            f"tasks.libreoffice.languages=[{language}]",
            f"measures.bits_per_byte.data={{{language}: data/{language}}}",
            "measures.retrieval.files=text/libreoffice-help.{language}.jsonl",
            *([f"tasks.libreoffice.word_lists={_word_list('{language}')}"] if series.word_list else []),
        )  # fmt: skip
        return self._measured(cell, name, "cell", evaluate, f"tasks-{series.primary}")

    def _measured(self, cell: Cell, name: str, kind: str, evaluate: list[str], needs: str) -> Step:
        """An evaluation of a cell in runs/evaluate-NAME, and the ledger that is kept of it."""
        facts, runs = {"series": cell.series, "language": cell.language, "seed": cell.seed}, self._work / "runs"

        def keep() -> None:
            if kind == "tags" and self._ledger(cell.name).is_file():
                check_same_run(self._ledger(cell.name), runs / cell.name)
            write_ledger(self._ledger(name), kind, facts, runs / cell.name, runs / f"evaluate-{name}")

        return Step(name, [evaluate], self._ledger(name).is_file, [f"learn-{cell.name}", needs], then=keep)

    # Parts of speech, where their data are at hand, stand apart: what was measured before stays as it is.

    def _has_tags(self, cell: Cell) -> bool:
        return self._ud_pos is not None and cell.language in UD_LANGUAGES

    def _tagging(self, primary: str) -> Step:
        """Fine-tuning, and what the source language reaches."""
        name, runs = f"tags-{primary}", self._work / "runs"
        finetune = self._recipe(
            "finetune", f"name={name}", f"model.primary=models/{primary}", f"tasks.ud_pos.path={self._ud_pos}",
            recipe="finetune_tags",
        )  # fmt: skip
        evaluation = f"evaluate-tags-primary-{primary}"
        evaluate = self._recipe(
            "evaluate", f"name={evaluation}", f"model.finetuned=runs/{name}", f"tasks.ud_pos.path={self._ud_pos}",
            recipe="evaluate_tags",
        )  # fmt: skip
        keep = (self._ledger(f"tags-primary-{primary}"), "tags", {"primary": primary}, runs / f"pretrain-{primary}")
        return Step(
            name,
            [finetune, evaluate],
            lambda: keep[0].is_file() and (runs / evaluation / TABLE).is_file(),
            [f"pretrain-{primary}"],
            then=lambda: write_ledger(*keep, runs / evaluation),
        )

    def _tag(self, cell: Cell) -> Step:
        series, name = self._study.series[cell.series], f"tags-{cell.name}"
        primary, words = series.primary, series.word_list
        evaluate = self._recipe(
            "evaluate", f"name=evaluate-{name}", f"model.finetuned=runs/tags-{primary}",
            f"packs={{{cell.series}: runs/{cell.name}/packs/{cell.language}-step-*}}",
            f"tasks.ud_pos.path={self._ud_pos}", f"tasks.ud_pos.languages=[{cell.language}]",
            *([f"tasks.ud_pos.word_lists={_word_list('{language}')}"] if words else []), recipe="evaluate_tags",
        )  # fmt: skip
        return self._measured(cell, name, "tags", evaluate, f"tags-{primary}")

    def _recipe(self, entry: str, *changes: str, recipe: str | None = None) -> list[str]:
        """A command line of launch/ with the study's recipe of that name, or another."""
        return _python(f"launch/{entry}.py", RECIPES / f"{recipe or entry}.yaml", *changes)


def _word_list(language: str) -> str:
    """Word list of a language, in the work folder."""
    return f"text/freedict.{language}.tsv"


def _python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]
