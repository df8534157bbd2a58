"""One fine-tuning with the library's own Trainer: token embeddings frozen, all else trains."""

import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import other as unwrapping
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from megamini.data.batches import plan_batches
from megamini.downstream.finetuning.length_groups import LengthGroups
from megamini.downstream.kinds.forward import Collator
from megamini.downstream.recipe import FinetuneRecipe
from megamini.errors import UserError
from megamini.library_internals import check_internals

check_internals(__name__)


def training_arguments(
    recipe: FinetuneRecipe, seed: int, folder: Path, world_size: int, deepspeed: dict[str, Any] | None, device: str
) -> TrainingArguments:
    """The recipe as the library's arguments, for a `device` of one of PyTorch's types. With `deepspeed` they must exist
    before the model does (ZeRO-3)."""
    plan = plan_batches(recipe.training.global_batch, recipe.training.micro_batch, world_size)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=optimizer.learning_rate,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.clip_norm,
        num_train_epochs=schedule.epochs,
        max_steps=schedule.updates or -1,
        lr_scheduler_type="constant_with_warmup" if schedule.shape == "constant" else schedule.shape,
        warmup_steps=schedule.warmup_share,
        bf16=recipe.training.precision == "bf16",
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length" if recipe.training.group_by_length else "random",
        use_cpu=device == "cpu",
        deepspeed=deepspeed,
        save_strategy="epoch" if recipe.checkpoint.every_epoch else "no",
        save_total_limit=1,
        logging_steps=recipe.telemetry.every,
        logging_nan_inf_filter=False,
        log_level="error",  # that a task head starts anew is no news
        log_level_replica="error",
        disable_tqdm=True,  # `Progress` shows it
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
        report_to="none",
    )
    if arguments.n_gpu > 1:  # one process uses one GPU; the library would spread, and multiply, the batch over all
        arguments._n_gpu = 1
    return arguments


class _GroupedByLength(Trainer):
    """With an order of ours: the library's own goes from long to short inputs, in a small task once an epoch."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroups:
        arguments = self.args
        batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        return LengthGroups([len(one["input_ids"]) for one in self.train_dataset], batch, arguments.data_seed)


def leave_deepspeed_out() -> None:
    """Keep `accelerate` from importing DeepSpeed, where it is installed, only to ask whether a model is wrapped by it:
    that takes seconds, and prints warnings where there is no GPU."""
    unwrapping.is_deepspeed_available = lambda: False


def freeze_token_embeddings(model: PreTrainedModel) -> None:
    """A pack replaces them later, so nothing may come to depend on how they change (docs/method.md, step 3)."""
    model.get_input_embeddings().weight.requires_grad_(False)


def train(
    model: PreTrainedModel, arguments: TrainingArguments, inputs: Sequence[dict[str, Any]], pad_id: int, title: str
) -> Trainer:
    """Train on `inputs`, from the newest complete checkpoint in the arguments' folder where there is one. All ranks.

    Raises UserError when the loss is no number any more.
    """
    kind = _GroupedByLength if arguments.train_sampling_strategy == "group_by_length" else Trainer
    trainer = kind(model=model, args=arguments, train_dataset=inputs, data_collator=Collator(pad_id))
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Progress(title))
    trainer.train(resume_from_checkpoint=newest_checkpoint(Path(arguments.output_dir), arguments.should_save))
    # An evaluation that follows loads whole models, which ZeRO-3's would not be.
    unset_hf_deepspeed_config()
    # The last entry is the mean over all updates, however few lines were logged.
    losses = [line[key] for line in trainer.state.log_history for key in ("loss", "train_loss") if key in line]
    finite = all(parameter.isfinite().all() for parameter in model.parameters())
    if not (finite and all(math.isfinite(loss) for loss in losses)):
        raise UserError(f"{title}: the loss is no number any more; lower optimizer.learning_rate, or use fp32")
    return trainer


def newest_checkpoint(folder: Path, clean: bool) -> str | None:
    """The newest checkpoint that is complete: the library writes the trainer's state last. `clean`: torn ones, of a run
    that was killed while it saved, are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(re.sub(r"\D", "", path.name)))
    complete = [path for path in found if (path / "trainer_state.json").is_file()]
    for path in found if clean else ():
        if path not in complete:
            shutil.rmtree(path)
    return str(complete[-1]) if complete else None


class Progress(TrainerCallback):
    """A progress bar and a line every so often, from rank 0."""

    def __init__(self, title: str) -> None:
        self._title = title

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        shown = state.is_world_process_zero and sys.stderr.isatty()
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self._title,
            unit="update",
            dynamic_ncols=True,
            disable=not shown,
        )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if state.is_world_process_zero and "loss" in (logs or {}):
            tqdm.write(
                f"{self._title}: update {state.global_step}/{state.max_steps}, epoch {state.epoch:.2f}, "
                f"loss {logs['loss']:.4f}, learning rate {logs['learning_rate']:.3g}"
            )
            sys.stdout.flush()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._bar.close()
