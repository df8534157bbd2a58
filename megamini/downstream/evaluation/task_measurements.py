"""A task of an evaluation with its data, read and found good, and what is measured on them."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.data.tokenizer import fingerprint, load_tokenizer
from megamini.downstream.evaluation.measured import Outcome, Part, Planned
from megamini.downstream.evaluation.reference_lines import IN_LANGUAGE, LINES, SURFACE, WORD_BY_WORD, reference_lines
from megamini.downstream.evaluation.zero_shot import Lineages, Packs
from megamini.downstream.kinds.by_name import KINDS, kind_of
from megamini.downstream.recipe import EvaluateRecipe, EvaluateTask
from megamini.downstream.task_data.examples import Example
from megamini.downstream.task_data.language_files import path_in
from megamini.downstream.task_model import load_task_model, read_task
from megamini.downstream.tasks.declaration import MissingDataError, Task
from megamini.downstream.tasks.registry import read_examples
from megamini.errors import UserError
from megamini.files import fingerprint_of
from megamini.models.pretrained import weights_fingerprint


class TaskMeasurements:
    """A task with its data, read, and what is measured on them."""

    def __init__(
        self, recipe: EvaluateRecipe, packs: Packs, lineages: Lineages, key: str, section: EvaluateTask
    ) -> None:
        self.key, self.section, self.packs, self.batch = key, section, packs, recipe.evaluation.batch
        self.task: Task = section.declaration(key)
        self.source = recipe.model.source_language
        self.languages_and_packs = packs.of_languages(
            section.languages, self.source, f"tasks.{key}.languages", source_through_packs=True
        )
        self.examples: dict[str, list[Example]] = {
            language: self.read(section.split, language)
            for language in dict.fromkeys(language for language, _ in self.languages_and_packs)
        }
        self.data = {language: _fingerprint(examples) for language, examples in self.examples.items()}
        self.models = [_Model(self, folder, lineages) for folder in _model_folders(recipe, key, section)]
        self.reference = [_Reference(self)] if section.reference_lines else []

    @property
    def parts(self) -> list[Part]:
        """Models, and last what needs none."""
        return [*self.models, *self.reference]

    def describe(self) -> str:
        """Models, and examples in each language, on one line."""
        examples = (
            f"{language} {len(self.examples[language]):,}" + (f" by {name}" if name else "")
            for language, name in self.languages_and_packs
        )
        lines = f"; {len(self.reference[0].planned)} reference lines" if self.reference else ""
        return f"  {self.key}: {len(self.models)} models; examples: {', '.join(examples)}{lines}"

    def read(self, split: str, language: str) -> list[Example]:
        section = self.section
        return read_examples(self.task, section.path, section.dataset, split, language, section.limit)


class _Model:
    """One fine-tuned model on a task, in every language."""

    def __init__(self, task: TaskMeasurements, folder: Path, lineages: Lineages) -> None:
        self._task, self._folder = task, folder
        config, kind, limits = read_task(folder)
        self._check(kind, set(config.label2id))
        tokenizer = load_tokenizer(folder)
        lineages.add(
            KINDS[kind].auto_class, str(folder), config, tokenizer, [name for _, name in task.languages_and_packs]
        )
        own = [kind, asdict(limits), config.id2label]
        model = fingerprint_of([weights_fingerprint(str(folder)), fingerprint(tokenizer), own])
        packs, seed, split = task.packs, config.megamini.get("seed"), task.section.split
        self.planned = [
            Planned(
                task.key, language, task.task.metric, str(folder), name, seed, split, packs.learned.get(name),
                {"model": model, "pack": packs.fingerprint(name), "data": task.data[language]},
            )
            for language, name in task.languages_and_packs
        ]  # fmt: skip

    def measure(self, wanted: Sequence[Planned], device: torch.device) -> Iterator[Outcome]:
        one, task = load_task_model(self._folder, device), self._task
        for planned in wanted:
            examples = task.examples[planned.language]
            with task.packs.swapped_in(one.model, one.tokenizer, planned.pack) as tokenizer:
                measured = kind_of(task.task).measure(
                    one.model, tokenizer, examples, one.limits, planned.language, task.batch
                )
            yield planned, planned.result(measured.values, len(examples)), measured.parts[planned.metric]

    def _check(self, kind: str, known: set[str]) -> None:
        key, folder = self._task.key, self._folder
        if kind != self._task.task.kind:
            raise UserError(f"{folder}: fine-tuned for {kind}, but {key} is {self._task.task.kind}")
        for language, examples in self._task.examples.items():
            if unknown := sorted(set(KINDS[kind].labels_of(examples)) - known):
                raise UserError(
                    f"{folder}: label '{unknown[0]}' of {key} in '{language}' is not among those that the "
                    f"model was trained on ({', '.join(sorted(known)[:20])})"
                )


class _Reference:
    """What needs no language model, where the recipe asks for it."""

    def __init__(self, task: TaskMeasurements) -> None:
        self._task = task
        targets = [language for language in task.examples if language != task.source]
        self._training = {task.source: task.read("train", task.source)}
        for language in targets:
            with contextlib.suppress(MissingDataError):  # most tasks have no training data but in the source language
                self._training[language] = task.read("train", language)
        pattern = task.section.word_lists
        self._word_lists = {one: read_lexicon(path_in(pattern, one)) for one in targets} if pattern else {}
        self.planned = [one for language in targets for one in self._planned(language)]

    def _planned(self, language: str) -> Iterator[Planned]:
        task, training = self._task, self._training
        made_of = {SURFACE: training[task.source]}
        if language in self._word_lists:
            made_of[WORD_BY_WORD] = [training[task.source], self._word_lists[language]]
        if language in training:
            made_of[IN_LANGUAGE] = training[language]
        for line, content in made_of.items():
            made_from = {"model": "", "pack": _fingerprint(content), "data": task.data[language]}
            model, split = LINES[task.task.kind].name, task.section.split
            yield Planned(task.key, language, task.task.metric, model, line, None, split, None, made_from)

    def measure(self, wanted: Sequence[Planned], device: torch.device) -> Iterator[Outcome]:
        task, languages = self._task, {one.language for one in wanted}
        by_language = {(one.language, one.pack): one for one in wanted}
        examples = {language: task.examples[language] for language in task.examples if language in languages}
        for result, parts in reference_lines(
            task.key, task.task.kind, task.task.metric, task.section.split, self._training, examples, task.source,
            self._word_lists,
        ):  # fmt: skip
            if (planned := by_language.get((result.language, result.pack))) is not None:
                yield planned, result, parts


def _fingerprint(content: object) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()


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
