"""The setup of pretraining, by any of its methods: its cost, its plan, its validation."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from megamini.costs.flops import (
    ActivationMemory,
    BodyShape,
    ExitShape,
    ModelStates,
    activation_memory,
    checkpoint_bytes,
    largest_part,
    matrix_parameters,
    model_states,
    muon_flops,
    muon_flops_of_a_rank,
    parameter_counts,
    trainable_parameters,
    training_flops,
)
from megamini.data.batches import MicroBatches, plan_batches
from megamini.data.blocks import fingerprint_of_all
from megamini.data.mixture import MixedMicroBatches, Shares
from megamini.data.read_again import check_read_again
from megamini.data.tokenizer import pad_alone
from megamini.errors import UserError
from megamini.machine import device_memory
from megamini.models.build import is_causal, model_config, outline_of
from megamini.models.lora import lora_rank
from megamini.recipes.recipe import Recipe
from megamini.training.checkpoints.begun_order import resolve_block_order
from megamini.training.checkpoints.identity import identity_of
from megamini.training.engines.engine import Engine
from megamini.training.finished.kept_data import keep_data
from megamini.training.forgetting import build_forgetting
from megamini.training.intervals import resolve_intervals
from megamini.training.optimizers.optimizer_plan import optimizer_rows
from megamini.training.schedule import build_schedule, check_mask_stages
from megamini.training.setup import Cost, RunSetup, Sharding, in_bytes, plan_table
from megamini.training.text import Text, open_text
from megamini.training.validation import measure


@dataclass(frozen=True, kw_only=True)
class PretrainingSetup(RunSetup):
    """A checked recipe of `launch/pretrain.py`."""

    recipe: Recipe
    texts: tuple[Text, ...]
    measured: tuple[Text, ...]
    """Further ones, for validation alone."""
    shape: BodyShape
    shares: Shares

    @property
    def text(self) -> Text:
        """The first one; tokenizer, block length and masking are those of all."""
        return self.texts[0]

    @property
    def exits(self) -> tuple[ExitShape, ...]:
        return tuple(ExitShape(layer, self.recipe.model.bridge_layers) for layer in self.recipe.model.exits)

    @property
    def head_weights(self) -> tuple[float, ...]:
        return self.recipe.head_weights

    def flops_per_update(self, masked: int) -> int:
        """Of an update with `masked` predicted positions in every block."""
        per_block = training_flops(self.shape, self.block_length, masked, self.recipe.objective.method, self.exits)
        return self.batches.global_batch * per_block

    @cached_property
    def optimizer_flops(self) -> int:
        """Of one update, beside the model's, each matrix counted once; 0 with AdamW."""
        muon = self.recipe.optimizer.muon_settings
        method = self.recipe.objective.method
        return muon_flops(self.shape, method, self.exits, muon.newton_schulz_steps) if muon else 0

    def cost(self, stopped: Collection[str], batch: int) -> Cost:
        masked = self.mask_schedule.masked(batch)
        return Cost(self.tokens_per_update, self.flops_per_update(masked), self.optimizer_flops)

    @property
    def data_fingerprint(self) -> str:
        """Of all texts and their weights."""
        return fingerprint_of_all([text.train.manifest for text in self.texts], self.recipe.data.weights)

    def identity(self) -> dict[str, Any]:
        return identity_of(self.recipe, self.data_fingerprint)

    def keep_data(self) -> None:
        tokenizer, model = self.text.tokenizer, self.recipe.model
        config = model_config(model, tokenizer, self.block_length) if model.from_checkpoint else None
        keep_data(self.recipe.run_directory, tokenizer, [text.train.manifest for text in self.texts], config)

    def micro_batches(self, rank: int) -> MicroBatches:
        order = self.recipe.training.block_order
        own = [text.micro_batches(self.batches, rank, order) for text in self.texts]
        return own[0] if len(own) == 1 else MixedMicroBatches(own, self.shares, self.batches, rank)

    def validate(self, engine: Engine) -> dict[str, float]:
        most_blocks = self.recipe.telemetry.validation_blocks
        heads = engine.model.head_names
        texts, read = (*self.texts, *self.measured), len(self.texts)
        each = [measure(engine, text, heads, engine.evaluate, most_blocks, self.batches.micro_batch) for text in texts]
        values = {name: sum(one[name] for one in each[:read]) / read for name in each[0]}
        if len(each) > 1:
            for text, one in zip(texts, each, strict=True):
                values |= {f"{name}_{text.language}": value for name, value in one.items()}
        return {f"validation/{name}": value for name, value in values.items()}

    def _optimizer_rows(self, flops: float) -> dict[str, str]:
        """Of the plan, with Muon. flops: the model's of an update."""
        muon, method, ranks = self.recipe.optimizer.muon_settings, self.recipe.objective.method, self.batches.world_size
        if muon is None:
            return {}
        own = muon_flops_of_a_rank(self.shape, method, self.exits, muon.newton_schulz_steps, ranks)
        outline = outline_of(self.recipe, self.text.tokenizer, self.block_length)
        return optimizer_rows(outline, self.recipe.optimizer, own / (flops / ranks))

    @property
    def _counts(self) -> dict[str, int]:
        """Parameters by group; MiniPost runs its mini-model alone."""
        method = self.recipe.objective.method
        if method == "minijoint":
            return parameter_counts(self.shape, method, self.exits)
        return parameter_counts(self.shape.mini(self.exits[0]) if method == "minipost" else self.shape, "mlm")

    @property
    def _trainable(self) -> int:
        return trainable_parameters(self.shape, self.recipe.objective.method, self.exits)

    @property
    def _muon_parameters(self) -> int:
        """How many of those that train Muon moves."""
        method = self.recipe.objective.method
        return matrix_parameters(self.shape, method, self.exits) if self.recipe.optimizer.muon_settings else 0

    def _states(self, stage: int | None) -> ModelStates:
        """Of a rank. stage: ZeRO's; None without DeepSpeed, where every rank holds all, with masters and fp32 sums."""
        precision, trainable = self.recipe.training.precision, self._trainable
        in_fp32 = precision == "bf16" or (precision == "fp16" and stage is None)
        return model_states(
            trainable, sum(self._counts.values()) - trainable, precision, stage or 0, self.batches.world_size, in_fp32,
            self._muon_parameters,
        )  # fmt: skip

    def _activations(self) -> ActivationMemory:
        return activation_memory(
            self.shape,
            self.block_length,
            self.batches.micro_batch,
            self.mask_schedule.most_masked,
            self.recipe.objective.method,
            self.exits,
            self.recipe.training.precision,
            self.recipe.training.activation_checkpointing,
            workspace_bytes=self.recipe.objective.loss_workspace_bytes(device_memory()),
        )

    def planned_memory(self, sharding: Sharding) -> int:
        states = self._states(sharding.stage)
        in_host = states.optimizer * sharding.offloads_optimizer + states.weights * sharding.offloads_weights
        return states.total - in_host + self._activations().total

    def plan(self) -> str:
        """The plan for people: batch, lengths, parameters, FLOPs, memory per rank, checkpoint size."""
        counts, trainable, muon = self._counts, self._trainable, self._muon_parameters
        total = sum(counts.values())
        ranks, precision = self.batches.world_size, self.recipe.training.precision
        states = [self._states(stage).total for stage in range(4)]
        updates, tokens = self.schedule.updates, self.schedule.updates * self.tokens_per_update
        stages = self.mask_schedule.along(updates)
        flops = sum(count * self.flops_per_update(masked) for count, masked in stages)
        blocks = sum(len(text.train) for text in self.texts)
        groups = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
        trained = "" if trainable == total else f"; {trainable:,} train"
        stage_bytes = ", ".join(f"ZeRO-{stage} {in_bytes(size)}" for stage, size in enumerate(states))
        return plan_table(
            {
                "update": f"{self.tokens_per_update:,} tokens = {self.batches.global_batch} blocks of "
                f"{self.block_length}: {ranks} ranks x {self.batches.accumulation} accumulation x "
                f"{self.batches.micro_batch} blocks",
                **self.prediction_row(),
                "run": f"{updates:,} updates = {tokens:,} tokens = {updates * self.batches.global_batch / blocks:.1f} "
                f"passes over {blocks:,} blocks",
                "parameters": f"{total:,}: {groups}{trained}",
                "compute": f"{flops / tokens:.3g} FLOPs a token, {flops:.3g} in all",
                **self._optimizer_rows(flops / updates),
                "model states": f"{stage_bytes} on each rank ({precision})",
                "activations": f"{in_bytes(self._activations().total)} on each rank",
                "building": f"{in_bytes(4 * total)} of the host's memory for each rank at ZeRO-0 to 2, which have the "
                f"whole model in fp32 there first; {in_bytes(4 * largest_part(counts, self.shape.layers))} at ZeRO-3",
                "checkpoint": f"{in_bytes(checkpoint_bytes(trainable, muon))}, {self.checkpoint_plan()}",
            }
        )


def build_setup(recipe: Recipe, world_size: int) -> PretrainingSetup:
    """Check a recipe against its data and the number of ranks; `UserError` where they do not fit."""
    recipe = resolve_block_order(recipe)
    training, causal = recipe.training, is_causal(recipe.model)
    if problem := recipe.objective.problem_of(causal):
        raise UserError(problem)
    texts, measured = (
        tuple(open_text(path, recipe.objective, training.seed, training.global_batch, causal) for path in paths)
        for paths in (recipe.data.paths, recipe.data.measured)
    )
    text, *others = (*texts, *measured)
    for number, other in enumerate(others):
        key = "data.path" if number + 1 < len(texts) else "data.measured"
        _check_same(text, other, key)
        if twice := [one for one in (text, *others[:number]) if one.language == other.language]:
            _refuse_twice(twice[0], other, key)
    batches = plan_batches(training.global_batch, training.micro_batch, world_size)
    tokens_per_update = batches.global_batch * text.block_length
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, tokens_per_update)
    check_mask_stages(text.mask_schedule, schedule.updates)
    config = model_config(recipe.model, text.tokenizer, text.block_length)
    check_read_again(text.tokenizer, config, f"data.path: {text.path}")
    return PretrainingSetup(
        recipe=recipe,
        batches=batches,
        block_length=text.block_length,
        schedule=schedule,
        mask_schedule=text.mask_schedule,
        intervals=resolve_intervals(recipe, tokens_per_update),
        forgetting=build_forgetting(
            recipe.objective.forgetting,
            tokens_per_update,
            schedule.updates,
            training.seed,
            pad_alone(text.tokenizer),
            config.initializer_range,
        ),
        texts=texts,
        measured=measured,
        shape=BodyShape.from_config(config, recipe.model.attention, lora_rank(recipe)),
        shares=Shares(recipe.data.weights or [len(one.train) for one in texts], batches.global_batch),
    )


def _check_same(text: Text, other: Text, key: str) -> None:
    """Raise `UserError`, which begins with the recipe's key of the other, where two texts cannot be read by one model,
    or together in one batch."""
    both = f"{text.path} and {other.path}"
    if text.train.manifest["tokenizer_fingerprint"] != other.train.manifest["tokenizer_fingerprint"]:
        raise UserError(f"{key}: {both} have different tokenizers; prepare the second with --tokenizer {text.path}")
    if text.block_length != other.block_length:
        raise UserError(
            f"{key}: {both} have blocks of {text.block_length} and {other.block_length}; prepare one of them again "
            "with the other's --block-length"
        )


def _refuse_twice(text: Text, other: Text, key: str) -> None:
    advice = "prepare them together as one" if key == "data.path" else "a language is measured once: leave one out"
    raise UserError(f"{key}: {text.path} and {other.path} are both of language '{text.language}'; {advice}")
