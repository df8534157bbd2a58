"""Learning rate and mask share as pure functions of update and batch: a resumed run needs no scheduler state."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from megamini.data.masking import MaskSchedule, MaskStage
from megamini.data.next_token import NextTokenSchedule
from megamini.errors import UserError
from megamini.recipes.objective import MaskingSection
from megamini.recipes.optimizer import ScheduleSection
from megamini.recipes.values import duration_in_updates


@dataclass(frozen=True)
class Schedule:
    """A warm-up and a shape, in updates.

    `updates` is the length of the run, `warmup` of the linear rise, `decay` of the last stretch (all that follows the
    warm-up except for warmup-stable-decay).
    """

    shape: str
    peak: float
    updates: int
    warmup: int
    decay: int
    final_share: float

    def learning_rate(self, update: int) -> float:
        """Rate of update number `update`, counted from 0."""
        if update < self.warmup:
            return self.peak * (update + 1) / self.warmup
        into_decay = (update - (self.updates - self.decay)) / self.decay if self.decay else 0.0
        progress = min(1.0, max(0.0, into_decay))
        remaining = (1 + math.cos(math.pi * progress)) / 2 if self.shape == "cosine" else 1 - progress
        return self.peak * (self.final_share + (1 - self.final_share) * remaining)


def build_schedule(
    section: ScheduleSection,
    peak: float,
    tokens_per_update: int,
    affordable: Callable[[int], int] | None = None,
) -> Schedule:
    """The schedule of a recipe; `UserError` where its stretches do not fit into the run.

    affordable: how many of the updates that the recipe asks for the run may have; unset, all.
    """
    updates = duration_in_updates(section.duration, tokens_per_update)
    updates = updates if affordable is None else affordable(updates)
    warmup = duration_in_updates(section.warmup, tokens_per_update)
    decay = duration_in_updates(section.decay, tokens_per_update) if section.decay else updates - warmup
    if updates < 1:
        raise UserError("schedule.duration: a run needs at least 1 update")
    if warmup + (decay if section.decay else 0) > updates:
        stretches = f"schedule.warmup of {warmup} updates" + (
            f" and schedule.decay of {decay} are" if section.decay else " is"
        )
        raise UserError(f"{stretches} longer than the run of {updates} updates; shorten, or raise schedule.duration")
    return Schedule(section.shape, peak, updates, warmup, decay, section.final_share)


def build_mask_schedule(
    section: MaskingSection, block_length: int, global_batch: int, causal: bool = False
) -> MaskSchedule | NextTokenSchedule:
    """The mask share of a recipe by global batch, a decoder's being all; `UserError` where a stage has no batch."""
    if causal:
        return NextTokenSchedule(block_length)
    if isinstance(section.mask_share, float):
        return MaskSchedule((MaskStage(section.mask_share),), block_length)
    stages, start = [], 0
    for stage in section.mask_share[:-1]:
        end = duration_in_updates(stage.until, global_batch * block_length)
        if end <= start:
            raise UserError(
                f"objective.mask_share: the stage of share {stage.share:g} until {stage.until} is empty: that is after "
                f"{end} updates, and it begins after {start}; raise its until, or leave the stage out"
            )
        stages.append(MaskStage(stage.share, end))
        start = end
    return MaskSchedule((*stages, MaskStage(section.mask_share[-1].share)), block_length)


def check_mask_stages(schedule: MaskSchedule | NextTokenSchedule, updates: int) -> None:
    """Raise `UserError` where a run of so many updates ends before its last stage, whose share validation has."""
    for stage in schedule.stages[:-1]:
        if stage.end >= updates:
            raise UserError(
                f"objective.mask_share: the stage of share {stage.share:g} ends after {stage.end} updates, and the run "
                f"after {updates}, so that the last share is never used; lower its until, or make the run longer"
            )
