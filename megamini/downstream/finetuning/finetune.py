"""Step 3: fine-tune the primary model on tasks in its source language, once for every seed."""

import copy
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import set_seed
from transformers.utils import logging

from megamini.data.tokenizer import save_tokenizer
from megamini.downstream.finetuning.jobs import Job, Primary, load_primary, prepare_job
from megamini.downstream.finetuning.made_from import adopt_run_directory, made_from
from megamini.downstream.finetuning.trainer import (
    freeze_token_embeddings,
    leave_deepspeed_out,
    train,
    training_arguments,
)
from megamini.downstream.kinds.by_name import KINDS, kind_of
from megamini.downstream.recipe import FinetuneRecipe
from megamini.downstream.results import Result, means, table_of, write_results
from megamini.downstream.task_model import describe_task, load_task_model
from megamini.errors import UserError, writing
from megamini.files import write_atomically
from megamini.machine import best_device
from megamini.models.pretrained import load_config, load_model
from megamini.training.device_memory import enough_memory
from megamini.training.engines.precision import near_fp32, resolve_precision, use_precision
from megamini.training.engines.process_group import gather_objects
from megamini.training.safety.run_lock import run_lock
from megamini.training.safety.same_ranks import check_same_on_all_ranks

_RESULT = "result.json"
_PATIENCE = 5  # seconds that one waits for a fine-tuning that is ending


@dataclass(frozen=True)
class Ranks:
    """This process among those that fine-tune together, and the DeepSpeed configuration that they share."""

    rank: int
    world_size: int
    deepspeed: dict[str, Any] | None

    def wait_for_all(self) -> None:
        """All ranks."""
        if distributed.is_initialized():
            distributed.barrier()

    def leave(self) -> None:
        """All ranks: end the process group while all are there; its threads must not meet the end of the process."""
        self.wait_for_all()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def finetune(recipe: FinetuneRecipe, deepspeed: dict[str, Any] | None = None) -> None:
    """Fine-tune every task with every seed, and write a folder for each and their results. All ranks.

    What is complete already is kept. Raises UserError for data or a model that cannot be used.
    """
    _quiet()
    recipe = resolve_precision(recipe, best=near_fp32)
    use_precision(recipe.training.precision, "training.precision")
    if deepspeed is None:
        leave_deepspeed_out()
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), deepspeed)
    primary = load_primary(recipe)
    jobs = [prepare_job(recipe, primary, key) for key in recipe.tasks]
    now = made_from(recipe, jobs)
    check_same_on_all_ranks({**recipe.model_dump(mode="json"), "content": now}, gather_objects)
    with run_lock(recipe.run_directory, "training.runs", _PATIENCE) if ranks.rank == 0 else nullcontext():
        if ranks.rank == 0:
            adopt_run_directory(recipe, now)
        ranks.wait_for_all()
        results = []
        for job in jobs:
            results += _train_all_seeds(recipe, primary, job, results, ranks)
        if ranks.rank == 0:
            _print_summary(recipe.run_directory, results)
        ranks.leave()


def plan(recipe: FinetuneRecipe) -> str:
    """What the recipe would do, in lines for people; the data and the model are read and checked for it."""
    _quiet()
    if recipe.training.precision != "auto":
        use_precision(recipe.training.precision, "training.precision")
    primary, training = load_primary(recipe), recipe.training
    lines = []
    for job in (prepare_job(recipe, primary, key) for key in recipe.tasks):
        updates = recipe.schedule.updates or round(recipe.schedule.epochs * len(job.training) / training.global_batch)
        lines.append(
            f"  {job.key}: {len(job.training):,} examples in '{job.section.language}' ({job.section.train_split}), "
            f"{len(job.labels) or 'no'} labels, inputs of up to {job.limits.max_length} tokens; about {updates:,} "
            f"updates of {training.global_batch}, seeds {', '.join(map(str, training.seeds))}; measured on "
            f"{len(job.validation):,} ({job.validation_split})"
        )
    return "\n".join(lines)


def _quiet() -> None:
    """What the library says of each model that it loads is no news here."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


# --- one seed -------------------------------------------------------------------------------------------------------


def _train_all_seeds(
    recipe: FinetuneRecipe, primary: Primary, job: Job, before: Sequence[Result], ranks: Ranks
) -> list[Result]:
    """The results of a task, those of its seeds; written behind those `before`. All ranks."""
    results: list[Result] = []
    inputs = None  # the same for all seeds
    for seed in recipe.training.seeds:
        folder = recipe.run_directory / job.key / f"seed-{seed}"
        if not (folder / _RESULT).is_file():
            inputs = inputs or _inputs(primary, job)
            _train_one(recipe, primary, job, inputs, seed, folder, ranks)
        elif ranks.rank == 0:
            print(f"{folder}: complete already, kept")
        results.append(_read_result(folder))
        if ranks.rank == 0:
            written = [*before, *results]
            write_results(recipe.run_directory, written, table_of(written, job.section.language))
    return results


def _inputs(primary: Primary, job: Job) -> list[dict[str, Any]]:
    label_ids = {label: number for number, label in enumerate(job.labels)}
    return KINDS[job.task.kind].training_inputs(job.training, primary.tokenizer, job.limits, label_ids)


def _train_one(
    recipe: FinetuneRecipe,
    primary: Primary,
    job: Job,
    inputs: Sequence[dict[str, Any]],
    seed: int,
    folder: Path,
    ranks: Ranks,
) -> None:
    """Train, save, prove, measure; the folder gets its name when all is done. All ranks."""
    aside = folder.with_name(f".{folder.name}.writing")
    title = f"{job.key} seed {seed}"
    start = time.monotonic()
    checkpoints, device = aside / "checkpoints", best_device().type
    arguments = training_arguments(recipe, seed, checkpoints, ranks.world_size, ranks.deepspeed, device)
    set_seed(seed)
    model = _task_model(recipe, primary, job)
    freeze_token_embeddings(model)
    if ranks.rank == 0:
        print(
            f"{title}: {len(job.training):,} examples, {len(inputs):,} inputs of up to {job.limits.max_length} tokens"
        )
    what = (
        f"training.micro_batch: {arguments.per_device_train_batch_size} inputs of up to {job.limits.max_length} tokens"
    )
    with enough_memory(what, "lower training.micro_batch (accumulation makes up for it)"):
        trainer = train(model, arguments, inputs, primary.tokenizer.pad_token_id, title)
    seconds = time.monotonic() - start

    about = describe_task(job.task.name, job.task.kind, job.section.language, seed, job.limits)
    model.config.megamini = {**about, **primary.lineage}
    with writing(aside):
        trainer.save_model(str(aside / "model"))
    if ranks.rank == 0:
        with writing(aside):
            save_tokenizer(primary.tokenizer, aside / "model", [])
            for file in (aside / "model").glob("*.safetensors"):  # which the library keeps to its owner
                file.chmod((aside / "model" / "config.json").stat().st_mode)
        (aside / "model" / "training_args.bin").unlink(missing_ok=True)  # a pickle of nothing that the recipe lacks
        _finish(primary, job, seed, aside, folder, trainer.state.global_step, seconds)
    ranks.wait_for_all()


def _task_model(recipe: FinetuneRecipe, primary: Primary, job: Job) -> Any:
    config = copy.deepcopy(primary.config)
    if job.labels:
        config.id2label = dict(enumerate(job.labels))
        config.label2id = {label: number for number, label in enumerate(job.labels)}
    # All that is not of the body starts anew, and so does a pooler, which masked language models lack.
    fresh = re.compile(rf"^(?!{re.escape(primary.prefix)}\.)|pooler")
    auto_class, where = KINDS[job.task.kind].auto_class, f"model.primary: {primary.name}"
    return load_model(auto_class, primary.name, config, where, fresh, recipe.model.attention)


def _finish(primary: Primary, job: Job, seed: int, aside: Path, folder: Path, updates: int, seconds: float) -> None:
    """Rank 0 only: prove what was written, measure it, and give it its name."""
    device = best_device()
    loaded = load_task_model(aside / "model", device)
    saved = loaded.model.get_input_embeddings().weight.detach().cpu()
    if not torch.equal(saved, _as_saved(primary.embeddings, aside / "model")):
        raise UserError(
            f"{aside}: the token embeddings changed in training, which must not happen: packs would not fit"
        )
    examples = job.validation
    measured = kind_of(job.task).measure(
        loaded.model, loaded.tokenizer, examples, job.limits, job.section.language, batch_size=32
    )
    values = measured.values
    result = Result(
        job.key, job.section.language, job.task.metric, values, len(examples), str(folder), None, seed,
        job.validation_split,
    )  # fmt: skip
    entry = {**result.entry(), "values": values, "updates": updates, "seconds": round(seconds, 1)}
    write_atomically(aside / "model" / _RESULT, json.dumps(entry, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    (aside / "model").rename(folder)
    shutil.rmtree(aside)
    print(f"{folder}: {job.task.metric} {values[job.task.metric]:.4f} on {len(examples):,} examples, {seconds:.0f} s")


def _as_saved(embeddings: torch.Tensor, directory: Path) -> torch.Tensor:
    """The source embeddings in the precision of the file: DeepSpeed in bf16 keeps frozen parameters in bf16."""
    stored = load_config(str(directory), str(directory), None).dtype
    return embeddings.to(stored or torch.float32).float()


def _read_result(folder: Path) -> Result:
    path = folder / _RESULT
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Result(
            entry["task"], entry["language"], entry["metric"], entry["values"], entry["n"], str(folder), None,
            entry["seed"], entry["split"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a result of this tool ({error}); remove {folder} and run again") from None


def _print_summary(directory: Path, results: Sequence[Result]) -> None:
    for mean in means(results):
        spread = "" if mean.deviation is None else f" ± {mean.deviation:.4f}"
        seeds = f"{mean.seeds} seed{'s' if mean.seeds > 1 else ''}"
        print(f"{mean.task} ({mean.language}): {mean.metric} {mean.mean:.4f}{spread} over {seeds}, n {mean.n:,}")
    print(f"{directory / 'results.json'}")
