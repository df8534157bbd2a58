"""Evaluation: every task, every fine-tuned model, the source language and every pack, in one table."""

from pathlib import Path

import torch
from transformers.utils import logging

from megamini.downstream.evaluation.measured import Measured
from megamini.downstream.evaluation.task_measurements import TaskMeasurements
from megamini.downstream.evaluation.without_labels import WithoutLabels, measures_without_labels
from megamini.downstream.evaluation.zero_shot import Lineages, Packs
from megamini.downstream.recipe import EvaluateRecipe
from megamini.downstream.results import FILE, TABLE, Result, table_of, write_summary
from megamini.errors import UserError
from megamini.files import write_atomically
from megamini.machine import best_device
from megamini.recipes.recipe import dump_recipe
from megamini.training.device_memory import enough_memory
from megamini.training.engines.engine import DTYPES
from megamini.training.engines.precision import near_fp32, resolve_precision, use_precision
from megamini.training.safety.run_lock import run_lock

_PATIENCE = 5  # seconds that one waits for an evaluation that is ending


def evaluate(recipe: EvaluateRecipe) -> list[Result]:
    """Measure all that the recipe asks for, but for what is measured already; writes and prints the results.

    All data, packs, models and folders are looked at before the first measurement. Raises UserError for what cannot be
    used, and where another process writes to the run directory.
    """
    device = best_device()
    recipe = resolve_precision(recipe, "evaluation", near_fp32)
    use_precision(precision := recipe.evaluation.precision, "evaluation.precision")
    directory = recipe.run_directory
    _refuse_another_run(directory)
    tasks, others = _looked_at(recipe)
    parts = [*(part for task in tasks for part in task.parts), *others]
    for part in parts:
        part.planned = [one.computed_in(precision) for one in part.planned]
    planned = [one for part in parts for one in part.planned]
    with run_lock(directory, "evaluation.runs", _PATIENCE):
        measured = Measured(directory, planned, recipe.evaluation.keep_scores)
        write_atomically(directory / "recipe.yaml", dump_recipe(recipe))
        missing = measured.missing(planned)
        if missing:
            (directory / TABLE).unlink(missing_ok=True)  # it says that all is measured
        if len(missing) < len(planned):
            known = len(planned) - len(missing)
            print(f"{directory}: {known} of {len(planned)} measurements are there, kept", flush=True)
        for part in parts:
            if wanted := measured.missing(part.planned):
                with (
                    enough_memory(f"evaluation.batch: {recipe.evaluation.batch} inputs at once", "lower it"),
                    torch.autocast(device.type, DTYPES[precision], enabled=precision in ("bf16", "fp16")),
                ):
                    for one, result, scores in part.measure(wanted, device):
                        measured.add(one, result, scores)
                        print(_line(result), flush=True)
        measured.write()
        results = measured.results()
        table = table_of(results, recipe.model.source_language)
        write_summary(directory, results, table)
    print(f"{table}\n{directory / FILE}")
    return results


def plan(recipe: EvaluateRecipe) -> str:
    """What the recipe would measure, in lines for people; data, packs, models and folders are looked at for it."""
    tasks, others = _looked_at(recipe)
    return "\n".join(one.describe() for one in (*tasks, *others))


def _looked_at(recipe: EvaluateRecipe) -> tuple[list[TaskMeasurements], list[WithoutLabels]]:
    """All that is to be measured, in order, found good."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    packs = Packs(recipe.packs)
    source = recipe.model.source_language
    if of_source := [name for name, language in packs.languages.items() if language == source]:
        print(
            f"packs.{', packs.'.join(of_source)}: of the source language '{source}', which is measured with the "
            "models' own embeddings; not evaluated",
            flush=True,
        )
    lineages = Lineages(packs)
    tasks = [TaskMeasurements(recipe, packs, lineages, key, section) for key, section in recipe.tasks.items()]
    others = measures_without_labels(recipe, packs, lineages)
    lineages.check()
    return tasks, others


def _line(result: Result) -> str:
    through = f" with {result.pack}" if result.pack else ""
    value = result.values[result.metric]
    return f"{result.model}: {result.task} in {result.language}{through}: {result.metric} {value:.4f}, n {result.n:,}"


def _refuse_another_run(directory: Path) -> None:
    """An evaluation may be repeated with other packs; what another entry point made is not overwritten."""
    written = directory / "recipe.yaml"
    if written.is_file() and "evaluation:" not in written.read_text(encoding="utf-8").splitlines():
        raise UserError(f"{directory}: holds another kind of run; choose another name for the evaluation")
