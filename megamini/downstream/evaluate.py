"""Evaluation: every task, every fine-tuned model, the source language and every pack, in one table."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils import logging

from megamini.adaptation.lexicon import read_lexicon
from megamini.config import dump_recipe
from megamini.downstream.examples import Example
from megamini.downstream.kinds.by_name import KINDS, kind_of
from megamini.downstream.language_files import path_in
from megamini.downstream.recipe import EvaluateRecipe, EvaluateTask
from megamini.downstream.reference_lines import reference_lines
from megamini.downstream.results import Result, table_of, write_results
from megamini.downstream.task_model import TaskModel, load_task_model
from megamini.downstream.tasks.declaration import MissingDataError, Task
from megamini.downstream.tasks.registry import read_examples
from megamini.downstream.without_labels import measure_without_labels
from megamini.downstream.zero_shot import Packs
from megamini.errors import UserError, writing
from megamini.training.telemetry import write_atomically


def evaluate(recipe: EvaluateRecipe) -> list[Result]:
    """Measure all that the recipe asks for; writes and prints the results.

    All data, packs and folders are looked at before the first measurement. Raises UserError for what cannot be used.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packs = Packs(recipe.packs)
    plans = [_Plan(recipe, packs, key, section) for key, section in recipe.tasks.items()]
    _refuse_another_run(recipe.run_directory)
    with writing(recipe.run_directory, "evaluation.runs: "):
        recipe.run_directory.mkdir(parents=True, exist_ok=True)
    write_atomically(recipe.run_directory / "recipe.yaml", dump_recipe(recipe))
    results = []
    for plan in plans:
        results += plan.measure(device)
        results += plan.reference_lines()
    results += measure_without_labels(recipe, packs, device)
    table = table_of(results, recipe.model.source_language)
    write_results(recipe.run_directory, results, table)
    print(f"{table}\n{recipe.run_directory / 'results.json'}")
    return results


def plan(recipe: EvaluateRecipe) -> str:
    """What the recipe would measure, in lines for people; data, packs and folders are looked at for it."""
    packs = Packs(recipe.packs)
    lines = [_Plan(recipe, packs, key, section).describe() for key, section in recipe.tasks.items()]
    measures = [name for name, section in recipe.measures if section is not None]
    return "\n".join([*lines, *(f"  {name} of {recipe.model.primary}" for name in measures)])


def _refuse_another_run(directory: Path) -> None:
    """An evaluation may be repeated with other packs; what another entry point made is not overwritten."""
    written = directory / "recipe.yaml"
    if written.is_file() and "evaluation:" not in written.read_text(encoding="utf-8").splitlines():
        raise UserError(f"{directory}: holds a run that is no evaluation; choose another name")


class _Plan:
    """A task with its data and its models, checked and ready to be measured."""

    def __init__(self, recipe: EvaluateRecipe, packs: Packs, key: str, section: EvaluateTask) -> None:
        self._key, self._section, self._packs, self._batch = key, section, packs, recipe.evaluation.batch
        self._task: Task = section.declaration(key)
        self._voices = packs.voices(section.languages, recipe.model.source_language, f"tasks.{key}.languages")
        self._folders = _model_folders(recipe, key, section)
        self._source = recipe.model.source_language
        self._examples: dict[str, list[Example]] = {
            language: self._read(section.split, language)
            for language in dict.fromkeys(language for language, _ in self._voices)
        }
        self._training = {self._source: self._read("train", self._source)} if section.reference_lines else {}
        targets = [language for language in self._examples if language != self._source]
        pattern = section.word_lists
        self._word_lists = {one: read_lexicon(path_in(pattern, one)) for one in targets} if pattern else {}

    def _read(self, split: str, language: str) -> list[Example]:
        section = self._section
        return read_examples(self._task, section.path, section.dataset, split, language, section.limit)

    def describe(self) -> str:
        """Models, and examples in each language, on one line."""
        voices = (
            f"{language} {len(self._examples[language]):,}" + (f" by {name}" if name else "")
            for language, name in self._voices
        )
        return f"  {self._key}: {len(self._folders)} models; examples: {', '.join(voices)}"

    def measure(self, device: torch.device) -> Iterator[Result]:
        """Every model in every language."""
        for folder in self._folders:
            one = load_task_model(folder, device)
            self._check(one)
            for language, name in self._voices:
                examples = self._examples[language]
                with self._packs.speaking(one.model, one.tokenizer, name) as tokenizer:
                    values = kind_of(self._task).measure(
                        one.model, tokenizer, examples, one.limits, language, self._batch
                    )
                result = Result(
                    self._key, language, self._task.metric, values, len(examples), str(folder), name,
                    one.seed, self._section.split, self._packs.learned.get(name),
                )  # fmt: skip
                through = f" with {name}" if name else ""
                print(f"{folder}: {language}{through}: {result.metric} {values[result.metric]:.4f}, n {result.n:,}")
                yield result

    def reference_lines(self) -> Iterator[Result]:
        """What needs no language model, where the recipe asks for it."""
        if not self._training:
            return
        training = dict(self._training)
        for language in self._examples:
            with contextlib.suppress(MissingDataError):  # most tasks have no training data but in the source language
                training.setdefault(language, self._read("train", language))
        task, split = self._task, self._section.split
        examples, lists = self._examples, self._word_lists
        yield from reference_lines(self._key, task.kind, task.metric, split, training, examples, self._source, lists)

    def _check(self, one: TaskModel) -> None:
        if one.kind != self._task.kind:
            raise UserError(f"{one.folder}: fine-tuned for {one.kind}, but {self._key} is {self._task.kind}")
        known = set(one.model.config.label2id)
        for language, examples in self._examples.items():
            if unknown := sorted(set(KINDS[one.kind].labels_of(examples)) - known):
                raise UserError(
                    f"{one.folder}: label '{unknown[0]}' of {self._key} in '{language}' is not among those that the "
                    f"model was trained on ({', '.join(sorted(known)[:20])})"
                )


def _model_folders(recipe: EvaluateRecipe, key: str, section: EvaluateTask) -> list[Path]:
    """Folders of the single models: those of all seeds where a folder holds several."""
    given = section.models or (str(Path(recipe.model.finetuned) / key),)
    folders = []
    for folder in map(Path, given):
        if (folder / "config.json").is_file():
            folders.append(folder)
        elif seeds := sorted(folder.glob("seed-*"), key=lambda path: int(path.name.partition("-")[2])):
            folders += seeds
        else:
            raise UserError(
                f"tasks.{key}: {folder} is no fine-tuned model (no config.json, no seed-N in it); make one with "
                "launch/finetune.py"
            )
    return folders
