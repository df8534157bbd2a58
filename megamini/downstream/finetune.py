"""Step 3: fine-tune the primary model on tasks in its source language, once for every seed."""

import copy
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import distributed
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerBase, set_seed
from transformers.utils import logging

from megamini.config import dump_recipe
from megamini.data.tokenizer import load_tokenizer, save_tokenizer
from megamini.device import best_device
from megamini.downstream.examples import Example
from megamini.downstream.kinds.by_name import KINDS, kind_of
from megamini.downstream.limits import Limits, fitting_length
from megamini.downstream.recipe import FinetuneRecipe, FinetuneTask
from megamini.downstream.results import Result, means, table_of, write_results
from megamini.downstream.task_model import describe_task, lineage_entries, load_task_model
from megamini.downstream.tasks.declaration import Task
from megamini.downstream.tasks.registry import read_examples
from megamini.downstream.trainer import freeze_token_embeddings, leave_deepspeed_out, train, training_arguments
from megamini.errors import UserError, writing
from megamini.models.pretrained import load_config, load_model, weights_fingerprint
from megamini.training.run_lock import run_lock
from megamini.training.telemetry import write_atomically

_RESULT, _MADE_FROM = "result.json", "made_from.json"
_PATIENCE = 5  # seconds that one waits for a fine-tuning that is ending


@dataclass(frozen=True)
class Primary:
    """The model that is fine-tuned: its configuration, tokenizer, lineage and token embeddings [V, d], kept to prove
    that they did not change."""

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    lineage: dict[str, Any]
    embeddings: torch.Tensor
    prefix: str


@dataclass(frozen=True)
class Job:
    """One task of the recipe with its data, read and checked."""

    key: str
    section: FinetuneTask
    task: Task
    limits: Limits
    labels: tuple[str, ...]
    training: list[Example]
    validation: list[Example]
    validation_split: str


@dataclass(frozen=True)
class Ranks:
    """This process among those that fine-tune together, and the DeepSpeed configuration that they share."""

    rank: int
    world_size: int
    deepspeed: dict[str, Any] | None

    @property
    def on_cpu(self) -> bool:
        return not torch.cuda.is_available()

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
    if deepspeed is None:
        leave_deepspeed_out()
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), deepspeed)
    primary = _load_primary(recipe)
    jobs = [_prepare(recipe, primary, key) for key in recipe.tasks]
    with run_lock(recipe.run_directory, "training.runs", _PATIENCE) if ranks.rank == 0 else nullcontext():
        if ranks.rank == 0:
            _claim(recipe, jobs)
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
    primary, training = _load_primary(recipe), recipe.training
    lines = []
    for job in (_prepare(recipe, primary, key) for key in recipe.tasks):
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


# --- before training ------------------------------------------------------------------------------------------------


def _load_primary(recipe: FinetuneRecipe) -> Primary:
    name = recipe.model.primary
    where = f"model.primary: {name}"
    config = load_config(name, where, recipe.model.dropout)
    tokenizer = load_tokenizer(name)
    body = load_model(AutoModel, name, config, where, fresh=re.compile("pooler"))
    embeddings = body.get_input_embeddings().weight.detach().clone()
    if len(tokenizer) > len(embeddings):
        raise UserError(f"{where}: the tokenizer has {len(tokenizer)} pieces for {len(embeddings)} token embeddings")
    return Primary(name, config, tokenizer, lineage_entries(body, tokenizer), embeddings, body.base_model_prefix)


def _prepare(recipe: FinetuneRecipe, primary: Primary, key: str) -> Job:
    section = recipe.tasks[key]
    task = section.declaration(key)

    def read(split: str) -> list[Example]:
        return read_examples(task, section.path, section.dataset, split, section.language, section.limit)

    validation_split = section.validation_split or task.validation_split
    training, validation = read(section.train_split), read(validation_split)
    kind = KINDS[task.kind]
    labels = task.labels or kind.labels_of(training)
    if task.kind != "question-answering" and len(labels) < 2:
        raise UserError(f"tasks.{key}: the training data have one label only, {labels[0]!r}: nothing to learn")
    for split, examples in ((section.train_split, training), (validation_split, validation)):
        if unknown := sorted(set(kind.labels_of(examples)) - set(labels)):
            known = "the task" if task.labels else "the training data"
            raise UserError(f"tasks.{key}: label '{unknown[0]}' of split {split} is not in {known}")
    try:
        length = fitting_length(section.max_length, task.kind, primary.config)
    except UserError as error:
        raise UserError(f"tasks.{key}.{error}") from None
    limits = Limits(length, section.doc_stride, section.max_answer_length)
    if task.kind == "question-answering":
        limits = replace(limits, null_answers=any(not example.answers for example in training))
    return Job(key, section, task, limits, labels, training, validation, validation_split)


def _claim(recipe: FinetuneRecipe, jobs: Sequence[Job]) -> None:
    """Rank 0 only: take the run directory; one that holds models of another recipe, primary or data is refused. Seeds
    may be added."""
    directory = recipe.run_directory
    written = directory / "recipe.yaml"
    if written.exists() and _what_trains(_read(written)) != _what_trains(recipe):
        raise UserError(f"{directory}: holds models of another recipe ({written.name} differs); choose another name")
    made_from = {"primary": weights_fingerprint(recipe.model.primary)} | {
        job.key: hashlib.sha256(repr((job.training, job.validation)).encode()).hexdigest() for job in jobs
    }
    known = directory / _MADE_FROM
    before = json.loads(known.read_text(encoding="utf-8")) if known.exists() else made_from
    if changed := [name for name in made_from if made_from[name] != before.get(name)]:
        what = "the primary's weights" if changed[0] == "primary" else f"the data of {changed[0]}"
        raise UserError(f"{directory}: {what} have changed since its models were made; choose another name")
    write_atomically(known, json.dumps(made_from, indent=1) + "\n")
    write_atomically(written, dump_recipe(recipe))


def _read(written: Path) -> FinetuneRecipe | None:
    """The recipe of a run directory, of this version or an earlier one; None where it is no such recipe."""
    try:
        return FinetuneRecipe.model_validate(yaml.safe_load(written.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError, UserError):
        return None


def _what_trains(recipe: FinetuneRecipe | None) -> dict[str, Any] | None:
    """A recipe without what may differ between two calls that go on with one run: seeds, and where things lie, which
    count by their content."""
    if recipe is None:
        return None
    values = recipe.model_dump(mode="json", exclude={"name", "telemetry", "checkpoint"})
    for section, key in (("training", "seeds"), ("training", "runs"), ("model", "primary")):
        del values[section][key]
    for task in values["tasks"].values():
        del task["path"], task["dataset"]
    return values


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
    arguments = training_arguments(recipe, seed, aside / "checkpoints", ranks.world_size, ranks.deepspeed, ranks.on_cpu)
    set_seed(seed)
    model = _task_model(recipe, primary, job)
    freeze_token_embeddings(model)
    if ranks.rank == 0:
        print(
            f"{title}: {len(job.training):,} examples, {len(inputs):,} inputs of up to {job.limits.max_length} tokens"
        )
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
    values = kind_of(job.task).measure(
        loaded.model, loaded.tokenizer, examples, job.limits, job.section.language, batch_size=32
    )
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
