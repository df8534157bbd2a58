"""Numbers that follow from a recipe, its data and the number of ranks, before any model is built."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from megamini.data.batches import BatchPlan, MicroBatches
from megamini.data.masking import MaskSchedule
from megamini.data.next_token import NextTokenSchedule
from megamini.recipes.recipe import RunRecipe
from megamini.training.engines.engine import Engine
from megamini.training.forgetting import Forgetting
from megamini.training.intervals import Intervals
from megamini.training.safety.spikes import SpikeRule
from megamini.training.safety.stopping import StopRules
from megamini.training.schedule import Schedule
from megamini.training.state.train_state import TrainState


class Cost(NamedTuple):
    """Of one update: tokens that the model reads, and FLOPs by formula, the model's and the optimizer's."""

    tokens: int
    flops: int
    optimizer_flops: int = 0


class Sharding(NamedTuple):
    """How a run is spread over ranks. stage: ZeRO's; None without DeepSpeed."""

    stage: int | None = None
    offloads_optimizer: bool = False
    offloads_weights: bool = False


@dataclass(frozen=True)
class RunSetup(ABC):
    """A checked run: everything derived, nothing heavy. Pretraining and relearning each have their own."""

    recipe: RunRecipe
    batches: BatchPlan
    block_length: int
    schedule: Schedule
    mask_schedule: MaskSchedule | NextTokenSchedule
    intervals: Intervals

    forgetting: Forgetting | None = None
    stopping: StopRules = field(default_factory=StopRules)

    @property
    def tokens_per_update(self) -> int:
        """Of one language."""
        return self.batches.global_batch * self.block_length

    @property
    def spent(self) -> Cost:
        """What a new run has cost before its first update."""
        return Cost(0, 0)

    @property
    def measures_the_start(self) -> bool:
        """Whether a new run validates before its first update."""
        return False

    @property
    def spikes(self) -> SpikeRule:
        """What a loss spike is."""
        section = self.recipe.training.spike
        return SpikeRule(section.above, section.window, section.most_roll_backs, self.schedule.warmup)

    def prediction_row(self) -> dict[str, str]:
        """Of the plan: what is masked, or for a decoder that all is predicted."""
        stages = self.mask_schedule.along(self.schedule.updates)
        if isinstance(self.mask_schedule, NextTokenSchedule):
            return {"predicted": f"the next token at {stages[0][1]} positions in every block"}
        return {"masked": masked_in_words(stages)}

    def checkpoint_plan(self) -> str:
        """When checkpoints are written, for people."""
        section = self.recipe.checkpoint
        when = "at the end and on a stop signal"
        if self.intervals.save:
            return f"every {self.intervals.save:,} updates, {when}"
        if section.every_minutes:
            return f"every {section.every_minutes:g} minutes (checkpoint.every_minutes), {when}"
        return f"only {when}: a killed run loses everything (checkpoint.every, checkpoint.every_minutes)"

    @property
    @abstractmethod
    def head_weights(self) -> tuple[float, ...]:
        """The heads' weights in the loss that is logged."""

    @abstractmethod
    def cost(self, stopped: Collection[str], batch: int) -> Cost:
        """Of the update that reads global batch number `batch`, in which the heads in `stopped` take no part."""

    @abstractmethod
    def planned_memory(self, sharding: Sharding) -> int:
        """Bytes on each rank's device by formula: states and activations, without the buffers of collectives."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the checkpoint it goes on from."""

    @abstractmethod
    def plan(self) -> str:
        """The plan for people."""

    @abstractmethod
    def micro_batches(self, rank: int) -> MicroBatches:
        """Every micro-batch of a rank, by number."""

    @abstractmethod
    def validate(self, engine: Engine) -> dict[str, float]:
        """Scalars by TensorBoard name, with `validation/loss_HEAD` for each head. *All ranks.*"""

    def keep_data(self) -> None:  # noqa: B027 (a language pack has all that it needs)
        """Keep in the run directory what export needs of the data. Rank 0 only."""

    def after_update(self, engine: Engine, state: TrainState) -> None:  # noqa: B027 (most runs have nothing to do)
        """Called behind each update, before it is saved. *All ranks.*"""


def plan_table(rows: dict[str, str]) -> str:
    """A plan's rows under one another."""
    return "\n".join(f"  {name:<13} {text}" for name, text in rows.items())


def masked_in_words(stages: list[tuple[int, int]]) -> str:
    """What is masked in the stages (updates, positions in a block) of a run, for people."""
    (updates, masked), *later = stages
    words = f"{masked} positions in every block"
    if later:
        words += f" for {updates:,} updates" + "".join(f", then {masked} for {updates:,}" for updates, masked in later)
    return words


def in_bytes(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
