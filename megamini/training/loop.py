"""The one loop: pretraining, MiniPost and relearning differ in what trains and which losses are summed, not in here."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from megamini.data.batches import Batch
from megamini.data.hashing import random_bits
from megamini.errors import UserError
from megamini.training.checkpoint import Checkpoints
from megamini.training.engines import Engine, StepResult
from megamini.training.forgetting import Forgetting, fresh_token_embeddings
from megamini.training.schedule import Schedule
from megamini.training.signals import StopFlag
from megamini.training.state import TrainState
from megamini.training.telemetry import Silence, Telemetry

# Keeps dropout's random bits apart from those that order and mask the blocks.
_DROPOUT = 3


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs to know of a run, all in updates."""

    seed: int
    head_weights: tuple[float, ...]
    accumulation: int
    tokens_per_update: int
    flops_per_update: int
    peak_flops: float
    """Of all devices together, in FLOP/s."""
    log_every: int
    validate_every: int | None
    save_every: int | None
    stop_after_nonfinite: int
    loss_is_scaled: bool
    """fp16: gradients that overflow under the loss scale are its business."""
    pad_id: int
    embedding_deviation: float


@dataclass
class _Window:
    """What has happened since the last line of the log."""

    started: float = field(default_factory=time.perf_counter)
    updates: int = 0
    applied: int = 0
    losses: list[float] = field(default_factory=list)
    gradient_norm: float = 0.0

    def add(self, losses: list[float], result: StepResult) -> None:
        self.updates += 1
        if result.applied:
            self.applied += 1
            self.losses = [a + b for a, b in zip(self.losses or [0.0] * len(losses), losses, strict=True)]
            self.gradient_norm += result.gradient_norm


def train(
    engine: Engine,
    settings: LoopSettings,
    schedule: Schedule,
    batches: Iterator[Batch],
    state: TrainState,
    checkpoints: Checkpoints,
    telemetry: Telemetry | Silence,
    validate: Callable[[], dict[str, float]],
    forgetting: Forgetting | None,
    stop: StopFlag,
) -> None:
    """Train from `state` to the end of the schedule, or to the safe point after a stop signal. *All ranks.*

    Raises `UserError` when `settings.stop_after_nonfinite` updates in a row had a loss or gradient that was not
    finite.
    """
    window, started, seconds_before = _Window(), time.perf_counter(), state.seconds
    while state.update < schedule.updates:
        if forgetting and forgetting.is_due(state.update):
            _forget(engine, settings, state)
        losses = torch.zeros(len(settings.head_weights), device=engine.device)
        for step in range(settings.accumulation):
            batch = next(batches).to(engine.device)  # before seeding: a loader's first batch draws from the generator
            _seed_dropout(settings.seed, state.update, step, engine.rank)
            losses += engine.forward_backward(batch)
        result = engine.step(schedule.learning_rate(state.update))
        asked_to_stop, losses = _agree(engine, losses / settings.accumulation, stop)

        state.update += 1
        state.tokens += settings.tokens_per_update
        state.flops += settings.flops_per_update
        state.seconds = seconds_before + time.perf_counter() - started
        window.add(losses, result)
        _count_skipped(state, result, losses, settings, telemetry)
        telemetry.advance(state.update)

        done = state.update == schedule.updates
        saving = done or asked_to_stop or _is_multiple(state.update, settings.save_every)
        if saving or _is_multiple(state.update, settings.log_every):
            # A save ends a line of the log too: what a resumed run writes then begins where this one ended.
            _log(engine, settings, schedule, state, window, telemetry)
            window = _Window()
        paused = time.perf_counter()
        if done or _is_multiple(state.update, settings.validate_every):
            _log_validation(state, validate, telemetry)
        if saving:
            telemetry.flush()
            checkpoints.save(engine, state)
            telemetry.write_ledger(ledger(engine, state))
        window.started += time.perf_counter() - paused
        if asked_to_stop and not done:
            telemetry.say(f"stopped by a signal after update {state.update}; the same command goes on from here")
            return


def ledger(engine: Engine, state: TrainState) -> dict[str, int | float | str]:
    """What the run has cost: the content of `compute.json`."""
    return {
        "updates": state.update,
        "tokens": state.tokens,
        "flops": state.flops,
        "seconds": round(state.seconds, 3),
        "device": engine.device.type,
        "ranks": engine.world_size,
        "skipped_updates": state.skipped,
        "scaler_overflows": state.scaler_overflows,
    }


def _is_multiple(update: int, every: int | None) -> bool:
    return every is not None and update % every == 0


def _seed_dropout(seed: int, update: int, step: int, rank: int) -> None:
    """Dropout is a pure function of (seed, update, micro-batch, rank), so that a resumed run draws the same."""
    torch.manual_seed(int(random_bits(_DROPOUT, seed, update, step, rank)) >> 1)


def _agree(engine: Engine, losses: torch.Tensor, stop: StopFlag) -> tuple[bool, list[float]]:
    """Whether any rank was asked to stop, and the heads' mean losses over ranks: one collective, one host read."""
    flag = losses.new_tensor([float(stop.received is not None)])
    # All ranks.
    flag_sum, *sums = engine.sum_over_ranks(torch.cat([flag, losses])).tolist()
    return flag_sum > 0, [total / engine.world_size for total in sums]


def _count_skipped(
    state: TrainState,
    result: StepResult,
    losses: list[float],
    settings: LoopSettings,
    telemetry: Telemetry | Silence,
) -> None:
    """Count an update that was not applied; all ranks see the same numbers, and so decide alike."""
    if result.applied:
        state.skipped_in_a_row = 0
        return
    if settings.loss_is_scaled and all(map(math.isfinite, losses)):
        state.scaler_overflows += 1
        return
    state.skipped += 1
    state.skipped_in_a_row += 1
    telemetry.say(
        f"update {state.update}: loss or gradient not finite, update not applied ({state.skipped} so far); its blocks "
        f"are global batch {state.update - 1}"
    )
    if state.skipped_in_a_row >= settings.stop_after_nonfinite:
        raise UserError(
            f"{state.skipped_in_a_row} updates in a row were not finite, those with global batches "
            f"{state.update - state.skipped_in_a_row} to {state.update - 1}; lower optimizer.learning_rate, or resume "
            "from an earlier checkpoint"
        )


def _log(
    engine: Engine,
    settings: LoopSettings,
    schedule: Schedule,
    state: TrainState,
    window: _Window,
    telemetry: Telemetry | Silence,
) -> None:
    seconds = time.perf_counter() - window.started
    values = {
        "train/lr": schedule.learning_rate(state.update - 1),
        "train/tokens_per_second": window.updates * settings.tokens_per_update / seconds,
        "train/mfu": window.updates * settings.flops_per_update / seconds / settings.peak_flops,
        "train/skipped_updates": state.skipped,
        "compute/flops": state.flops,
        "compute/tokens": state.tokens,
    }
    if window.applied:
        means = [total / window.applied for total in window.losses]
        values["train/loss"] = sum(w * mean for w, mean in zip(settings.head_weights, means, strict=True))
        values |= {f"train/loss_{name}": mean for name, mean in zip(engine.model.head_names, means, strict=True)}
        values["train/grad_norm"] = window.gradient_norm / window.applied
    telemetry.record(state.update, values)
    losses = "  ".join(
        f"{name} {values[f'train/loss_{name}']:.3f}"
        for name in reversed(engine.model.head_names)
        if f"train/loss_{name}" in values
    )
    telemetry.say(
        f"update {state.update}/{schedule.updates}  {losses}  lr {values['train/lr']:.2e}  "
        f"{values['train/tokens_per_second']:,.0f} tokens/s  {values['train/mfu']:.0%} of peak"
    )


def _log_validation(
    state: TrainState, validate: Callable[[], dict[str, float]], telemetry: Telemetry | Silence
) -> None:
    values = validate()
    telemetry.record(state.update, values)
    shown = "  ".join(f"{name.removeprefix('validation/')} {value:.3f}" for name, value in values.items())
    telemetry.say(f"validation after update {state.update}:  {shown}")


def _forget(engine: Engine, settings: LoopSettings, state: TrainState) -> None:
    shape = engine.model.token_matrix_shape
    engine.replace_token_embeddings(
        fresh_token_embeddings(shape, settings.embedding_deviation, settings.pad_id, settings.seed, state.update)
    )
