"""What follows from a recipe, its data and the number of ranks, before any model is built; and the plan of it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from megamini.compute import (
    BodyShape,
    ExitShape,
    activation_memory,
    checkpoint_bytes,
    model_states,
    parameter_counts,
    training_flops,
)
from megamini.config import Recipe, duration_in_updates
from megamini.data.batches import BatchPlan, plan_batches
from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule
from megamini.data.tokenizer import fingerprint, load_tokenizer, piece_bytes, special_ids
from megamini.errors import UserError
from megamini.models.build import model_config
from megamini.training.forgetting import Forgetting, build_forgetting
from megamini.training.identity import identity_of
from megamini.training.schedule import Schedule, build_schedule


@dataclass(frozen=True)
class Setup:
    """A checked run: everything derived, nothing heavy."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    train_blocks: Blocks
    validation_blocks: Blocks
    masking: MaskingRule
    batches: BatchPlan
    schedule: Schedule
    forgetting: Forgetting | None
    shape: BodyShape

    @property
    def block_length(self) -> int:
        return self.train_blocks.block_length

    @property
    def masked_per_block(self) -> int:
        return self.masking.masked_per_block(self.block_length)

    @property
    def tokens_per_update(self) -> int:
        return self.batches.global_batch * self.block_length

    @property
    def exits(self) -> tuple[ExitShape, ...]:
        return tuple(ExitShape(layer) for layer in self.recipe.model.exits)

    @cached_property
    def flops_per_update(self) -> int:
        per_block = training_flops(
            self.shape, self.block_length, self.masked_per_block, self.recipe.objective.method, self.exits
        )
        return self.batches.global_batch * per_block

    @cached_property
    def piece_bytes(self) -> np.ndarray:
        return piece_bytes(self.tokenizer)

    @cached_property
    def unigram_nats(self) -> np.ndarray:
        """Negative log-probability [V] float32 of each piece by its frequency in the training blocks, add-one smoothed.

        What a head must beat to have learned anything from the context.
        """
        path = Path(self.recipe.data.path) / "unigram_counts.npy"
        try:
            counts = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}; prepare the data again") from None
        if counts.shape != (len(self.tokenizer),):
            raise UserError(
                f"{path}: holds {counts.size} counts for {len(self.tokenizer)} pieces; prepare the data again"
            )
        return -np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)

    def in_updates(self, duration: str | None) -> int | None:
        """A recipe's duration in whole updates, at least 1; None stays None."""
        return None if duration is None else max(1, duration_in_updates(duration, self.tokens_per_update))

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the checkpoint it goes on from."""
        return identity_of(self.recipe, self.train_blocks.manifest["fingerprint"])

    def plan(self) -> str:
        """The plan for people: batch, lengths, parameters, FLOPs, memory per rank, checkpoint size."""
        counts = parameter_counts(self.shape, self.recipe.objective.method, self.exits)
        total = sum(counts.values())
        ranks, precision = self.batches.world_size, self.recipe.training.precision
        states = [
            model_states(total, 0, precision, stage, ranks, fp32_gradients=stage >= 2).total for stage in range(4)
        ]
        activations = activation_memory(
            self.shape,
            self.block_length,
            self.batches.micro_batch,
            self.masked_per_block,
            self.recipe.objective.method,
            self.exits,
            precision,
            self.recipe.training.activation_checkpointing,
            workspace_bytes=self.recipe.objective.loss_workspace_mib * 2**20,
        )
        updates, tokens = self.schedule.updates, self.schedule.updates * self.tokens_per_update
        epochs = updates * self.batches.global_batch / len(self.train_blocks)
        groups = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
        stage_bytes = ", ".join(f"ZeRO-{stage} {_bytes(size)}" for stage, size in enumerate(states))
        rows = {
            "update": f"{self.tokens_per_update:,} tokens = {self.batches.global_batch} blocks of {self.block_length}: "
            f"{ranks} ranks x {self.batches.accumulation} accumulation x {self.batches.micro_batch} blocks",
            "masked": f"{self.masked_per_block} positions in every block",
            "run": f"{updates:,} updates = {tokens:,} tokens = {epochs:.1f} passes over "
            f"{len(self.train_blocks):,} blocks",
            "parameters": f"{total:,}: {groups}",
            "compute": f"{self.flops_per_update / self.tokens_per_update:.3g} FLOPs a token, "
            f"{self.flops_per_update * updates:.3g} in all",
            "model states": f"{stage_bytes} on each rank ({precision})",
            "activations": f"{_bytes(activations.total)} on each rank",
            "checkpoint": _bytes(checkpoint_bytes(total, 0, precision)),
        }
        return "\n".join(f"  {name:<13} {text}" for name, text in rows.items())


def build_setup(recipe: Recipe, world_size: int) -> Setup:
    """Check a recipe against its data and the number of ranks; `UserError` where they do not fit."""
    train = Blocks(recipe.data.path, "train")
    try:
        tokenizer = load_tokenizer(recipe.data.path)
    except UserError as error:
        raise UserError(f"data.path: {error}; prepare the data again: tools/prepare_data.py --overwrite") from None
    if fingerprint(tokenizer) != train.manifest["tokenizer_fingerprint"]:
        raise UserError(
            f"data.path: {recipe.data.path}: the tokenizer there is not the one the blocks were made with; prepare the "
            "data again"
        )
    masking = MaskingRule(
        share=recipe.objective.mask_share,
        replace_with_mask=recipe.objective.replace_with_mask,
        replace_with_random=recipe.objective.replace_with_random,
        mask_id=tokenizer.mask_token_id,
        pad_id=tokenizer.pad_token_id,
        special_ids=tuple(special_ids(tokenizer).tolist()),
        vocab_size=len(tokenizer),
        seed=recipe.training.seed,
    )
    masked, fewest = masking.masked_per_block(train.block_length), train.manifest["splits"]["train"]["min_maskable"]
    if masked > fewest:
        raise UserError(
            f"objective.mask_share: {masked} positions of a block are to be masked, but one block of "
            f"{recipe.data.path} has only {fewest} that can be; lower the share"
        )
    batches = plan_batches(recipe.training.global_batch, recipe.training.micro_batch, world_size)
    tokens_per_update = batches.global_batch * train.block_length
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, tokens_per_update)
    config = model_config(recipe.model, tokenizer, train.block_length)
    _check_retention(recipe, tokens_per_update)
    setup = Setup(
        recipe=recipe,
        tokenizer=tokenizer,
        train_blocks=train,
        validation_blocks=Blocks(recipe.data.path, "validation"),
        masking=masking,
        batches=batches,
        schedule=schedule,
        forgetting=build_forgetting(recipe.objective.forgetting, tokens_per_update, schedule.updates),
        shape=BodyShape.from_config(config),
    )
    _ = setup.unigram_nats  # a missing file is met here, not at the first validation, hours later
    return setup


def _check_retention(recipe: Recipe, tokens_per_update: int) -> None:
    """Raise `UserError` where checkpoints to be kept for good would hardly ever be written."""
    every, keep_every = (
        None if duration is None else duration_in_updates(duration, tokens_per_update)
        for duration in (recipe.checkpoint.every, recipe.checkpoint.keep_every)
    )
    if keep_every and (not every or keep_every % every):
        raise UserError(
            f"checkpoint.keep_every: {keep_every} updates is no multiple of checkpoint.every ({every or 'unset'}), so "
            "that hardly any checkpoint would be kept"
        )


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
