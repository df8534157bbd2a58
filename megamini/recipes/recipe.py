"""Recipes: YAML checked by frozen models, so that a mistyped key or value ends the run before anything heavy starts.

A recipe owns training (batch, optimizer, schedule, precision, clipping, durations); the DeepSpeed JSON owns sharding,
offload and communication (`megamini/training/engines/deepspeed_config.py`). The docstring under each field is its
help text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

from pydantic import (
    Field,
    model_validator,
)

from megamini.recipes.file import as_yaml, read_recipe
from megamini.recipes.objective import ObjectiveSection
from megamini.recipes.optimizer import PretrainingOptimizerSection, ScheduleSection
from megamini.recipes.sections import CheckpointSection, DataSection, ModelSection, TelemetrySection, TrainingSection
from megamini.recipes.values import DecoderName, Section


class RunRecipe(Section):
    """What every recipe has: a name, and a section `training` that says where runs lie."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run, and of its directory."""

    @property
    def run_directory(self) -> Path:
        return Path(self.training.runs) / self.name


class Recipe(RunRecipe):
    """All that decides a pretraining run."""

    model: ModelSection
    data: DataSection
    objective: ObjectiveSection
    optimizer: PretrainingOptimizerSection
    schedule: ScheduleSection
    training: TrainingSection
    checkpoint: CheckpointSection = CheckpointSection()
    telemetry: TelemetrySection = TelemetrySection()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        _check_method(self.objective, self.model)
        # That of a checkpoint is known where its configuration is read.
        known = self.model.family is not None
        if known and (problem := self.objective.problem_of(self.model.family in get_args(DecoderName))):
            raise ValueError(problem)
        if self.model.attention == "flash_attention_2" and self.training.precision in ("fp32", "tf32"):
            raise ValueError("model.attention: flash_attention_2 needs training.precision bf16 or fp16")
        if self.optimizer.name == "muon" and self.objective.method in ("lora", "embeddings"):
            raise ValueError("optimizer.name muon: goes with methods that train whole layers; use adamw")
        weights = self.objective.head_weights
        if weights is not None and (len(weights) != self.heads or min(weights) <= 0):
            raise ValueError(f"objective.head_weights needs {self.heads} positive numbers: exits, primary")
        return self

    @property
    def heads(self) -> int:
        """Number of heads whose losses are summed."""
        return len(self.model.exits) + 1 if self.objective.method == "minijoint" else 1

    @property
    def head_weights(self) -> tuple[float, ...]:
        """Weights that sum to 1, exits first, the primary last."""
        weights = self.objective.head_weights or (1.0,) * self.heads
        return tuple(weight / sum(weights) for weight in weights)


def _check_method(objective: ObjectiveSection, model: ModelSection) -> None:
    method = objective.method
    if method == "minipost" and (len(model.exits) != 1 or not model.bridge_layers):
        raise ValueError("objective.method minipost needs one layer in model.exits, and model.bridge_layers")
    if method != "minipost" and model.bridge_layers:
        raise ValueError("model.bridge_layers goes with objective.method minipost")
    if method in ("minipost", "head", "lora", "embeddings") and not model.from_checkpoint:
        raise ValueError(f"objective.method {method} builds on model.from_checkpoint")
    if (method in ("minijoint", "minipost")) != bool(model.exits):
        plain = "mlm" if method == "minijoint" else method
        raise ValueError(f"objective.method minijoint needs model.exits, and {plain} has none")
    if objective.lora is not None and method != "lora":
        raise ValueError("objective.lora goes with objective.method: lora")
    if method in ("minipost", "head") and objective.forgetting:
        raise ValueError(f"objective.forgetting: token embeddings are frozen with objective.method {method}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe of `launch/pretrain.py` and apply `section.key=value` overrides.

    Raises `UserError` naming the file and the key for anything that is not a valid recipe.
    """
    return read_recipe(path, overrides, Recipe)


def dump_recipe(recipe: RunRecipe) -> str:
    """The resolved recipe as YAML that reads back the same."""
    return as_yaml(recipe.model_dump(mode="json"))
