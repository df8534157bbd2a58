"""Evaluation: every task, every fine-tuned model, the source language and every pack, in one table."""

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM
from transformers.utils import logging

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.bits_per_byte import bits_per_byte
from megamini.downstream.examples import Example
from megamini.downstream.kinds.by_name import KINDS
from megamini.downstream.limits import longest_input
from megamini.downstream.recipe import EvaluateRecipe, EvaluateTask
from megamini.downstream.results import Result, table_of, write_results
from megamini.downstream.retrieval import page_vectors, read_pages, retrieval_accuracy
from megamini.downstream.task_model import TaskModel, load_model, load_task_model, read_config
from megamini.downstream.tasks.declaration import Task
from megamini.downstream.tasks.registry import read_examples
from megamini.downstream.zero_shot import Packs, plugged
from megamini.errors import UserError, writing

# A language, and the name of the pack that speaks it; None for the source language.
Voice = tuple[str, str | None]


def evaluate(recipe: EvaluateRecipe) -> list[Result]:
    """Measure all that the recipe asks for; writes and prints the results.

    All data, packs and folders are looked at before the first measurement. Raises UserError for what cannot be used.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packs = Packs(recipe.packs)
    plans = [_Plan(recipe, packs, key, section) for key, section in recipe.tasks.items()]
    with writing(recipe.run_directory, "evaluation.runs: "):
        recipe.run_directory.mkdir(parents=True, exist_ok=True)
    results = []
    for plan in plans:
        results += plan.measure(device)
    results += _without_labels(recipe, packs, device)
    table = table_of(results, recipe.model.source_language)
    write_results(recipe.run_directory, results, table)
    print(f"{table}\n{recipe.run_directory / 'results.json'}")
    return results


def _voices(recipe: EvaluateRecipe, packs: Packs, languages: tuple[str, ...], key: str) -> list[Voice]:
    """The languages to evaluate in, each with its packs. Raises UserError for one that no pack speaks."""
    source = recipe.model.source_language
    voices: list[Voice] = []
    for language in languages or dict.fromkeys((source, *packs.languages.values())):
        names: list[str | None] = [None] if language == source else [*packs.of(language)]
        if not names:
            known = ", ".join(sorted(set(packs.languages.values()))) or "none"
            raise UserError(f"{key}: no pack in `packs` is of language '{language}'; there are {known}")
        voices += [(language, name) for name in names]
    return voices


# --- tasks ----------------------------------------------------------------------------------------------------------


class _Plan:
    """A task with its data and its models, checked and ready to be measured."""

    def __init__(self, recipe: EvaluateRecipe, packs: Packs, key: str, section: EvaluateTask) -> None:
        self._key, self._section, self._packs, self._batch = key, section, packs, recipe.evaluation.batch
        self._task: Task = section.declaration(key)
        self._voices = _voices(recipe, packs, section.languages, f"tasks.{key}.languages")
        self._folders = _model_folders(recipe, key, section)
        self._examples: dict[str, list[Example]] = {
            language: read_examples(self._task, section.path, section.dataset, section.split, language, section.limit)
            for language in dict.fromkeys(language for language, _ in self._voices)
        }

    def measure(self, device: torch.device) -> Iterator[Result]:
        """Every model in every language."""
        for folder in self._folders:
            one = load_task_model(folder, device)
            self._check(one)
            for language, name in self._voices:
                if name is None:
                    values = self._values(one, one.tokenizer, language)
                else:
                    with plugged(one.model, one.tokenizer, self._packs.load(name)) as tokenizer:
                        values = self._values(one, tokenizer, language)
                result = Result(
                    self._key, language, self._task.metric, values, len(self._examples[language]), str(folder), name,
                    one.seed, self._section.split,
                )  # fmt: skip
                through = f" with {name}" if name else ""
                print(f"{folder}: {language}{through}: {result.metric} {values[result.metric]:.4f}, n {result.n:,}")
                yield result

    def _values(self, one: TaskModel, tokenizer, language: str) -> dict[str, float]:
        return KINDS[one.kind].measure(
            one.model, tokenizer, self._examples[language], one.limits, language, self._batch
        )

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


# --- without labels -------------------------------------------------------------------------------------------------


def _without_labels(recipe: EvaluateRecipe, packs: Packs, device: torch.device) -> Iterator[Result]:
    """The measures on the primary model, source language first."""
    wanted = recipe.measures
    if not (wanted.bits_per_byte or wanted.retrieval):
        return
    name = recipe.model.primary
    model = load_model(AutoModelForMaskedLM, name, read_config(name)).to(device).eval()
    tokenizer = load_tokenizer(name)

    if section := wanted.bits_per_byte:
        for language, pack in _voices(recipe, packs, tuple(section.data), "measures.bits_per_byte.data"):
            directory = section.data[language]
            if pack is None:
                value, pieces = bits_per_byte(model, tokenizer, directory, section, recipe.evaluation.batch)
            else:
                with plugged(model, tokenizer, packs.load(pack)) as own:
                    value, pieces = bits_per_byte(model, own, directory, section, recipe.evaluation.batch)
            values = {"bits_per_byte": value}
            yield Result("bits_per_byte", language, "bits_per_byte", values, pieces, name, pack, split="validation")

    if section := wanted.retrieval:
        source = recipe.model.source_language
        voices = [
            voice
            for voice in _voices(recipe, packs, section.languages, "measures.retrieval.languages")
            if voice[0] != source
        ]
        pages = {language: read_pages(section.files, language) for language in (source, *dict(voices))}
        shared = [page for page in pages[source] if all(page in other for other in pages.values())][: section.pages]
        if len(shared) < 2:
            raise UserError(f"measures.retrieval.files: the languages share {len(shared)} pages; at least 2 are needed")
        layers = model.config.num_hidden_layers
        layer = layers // 2 if section.layer is None else section.layer
        if layer > layers:
            raise UserError(f"measures.retrieval.layer: {layer}, but the model has {layers} layers")

        def vectors(language: str, own) -> torch.Tensor:
            texts = [pages[language][page] for page in shared]
            return page_vectors(model, own, texts, layer, longest_input(model.config), recipe.evaluation.batch)

        reference = vectors(source, tokenizer)
        for language, pack in voices:
            with plugged(model, tokenizer, packs.load(pack)) as own:
                values = retrieval_accuracy(reference, vectors(language, own))
            yield Result("retrieval", language, "accuracy", values, len(shared), name, pack)
