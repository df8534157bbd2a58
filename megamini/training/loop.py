"""The one loop: pretraining, MiniPost and relearning differ in what trains and which losses are summed, not in here."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from megamini.costs.flops import model_flops_utilisation
from megamini.costs.hours import in_words
from megamini.data.batches import Batch
from megamini.data.hashing import random_bits
from megamini.errors import TryAgain, UserError
from megamini.machine import device_of_sums
from megamini.training.checkpoints.checkpoint import Checkpoints
from megamini.training.device_memory import memory_scalars
from megamini.training.engines.engine import Engine, StepResult
from megamini.training.profiling import Profile
from megamini.training.safety.safe_point import SafePoint
from megamini.training.safety.spikes import RollBack
from megamini.training.safety.watchdog import Watchdog
from megamini.training.setup import Cost, RunSetup
from megamini.training.state.train_state import TrainState
from megamini.training.telemetry import Silence, Telemetry

# Keeps dropout's random bits apart from those that order and mask the blocks.
_DROPOUT = 3


@dataclass
class _Window:
    """What has happened since the last line of the log."""

    started: float = field(default_factory=time.perf_counter)
    updates: int = 0
    tokens: int = 0
    flops: int = 0
    applied: int = 0
    losses: list[float] = field(default_factory=list)
    gradient_norm: float = 0.0
    waited: float = 0.0
    """Seconds for the loader's batches."""

    def add(self, cost: Cost, losses: list[float], result: StepResult) -> None:
        self.updates += 1
        self.tokens += cost.tokens
        self.flops += cost.flops
        if result.applied:
            self.applied += 1
            self.losses = [a + b for a, b in zip(self.losses or [0.0] * len(losses), losses, strict=True)]
            self.gradient_norm += result.gradient_norm


class Yardsticks(NamedTuple):
    """What a run's numbers are held against: peak FLOP/s of all devices together, and the bytes that were planned for
    each."""

    peak_flops: float
    planned_memory: int


def is_over(setup: RunSetup, engine: Engine, state: TrainState) -> bool:
    """Whether nothing is left to train."""
    return state.update >= setup.schedule.updates or setup.stopping.end_run(state, engine.model.head_names)


def train(
    engine: Engine,
    setup: RunSetup,
    yardsticks: Yardsticks,
    batches: Iterator[Batch],
    state: TrainState,
    checkpoints: Checkpoints,
    telemetry: Telemetry | Silence,
    safe_point: SafePoint,
    watchdog: Watchdog,
    profile: Profile,
) -> None:
    """Train from `state` to the end of the run, or to the safe point where one is asked to stop. *All ranks.*

    Raises `TryAgain` where a scheduler has asked to stop, and `UserError` when `training.stop_after_nonfinite` updates
    in a row had a loss or gradient that was not finite.
    """
    recipe, schedule, forgetting = setup.recipe, setup.schedule, setup.forgetting
    log_every = recipe.telemetry.every
    for head in state.stopped:
        engine.model.stop_head(head)

    if setup.measures_the_start and state.update == 0:
        _measure(engine, setup, state, telemetry)
    window, started, seconds_before, shown = _Window(), time.perf_counter(), state.seconds, False
    done = is_over(setup, engine, state)
    if not done:
        wishes, _ = _agree(engine, safe_point, seconds_before)
        if wishes.stop:  # asked during the start: nothing to save
            _stop(wishes, safe_point, state, telemetry)
            return
    while not done:
        if forgetting and forgetting.is_due(state.update):
            shape, count = engine.model.token_matrix_shape, len(engine.model.token_matrices)
            engine.replace_token_matrices(forgetting.draw_all(shape, state.update, count))
            state.recent_losses = []  # the loss jumps, as it should
        _begin_mask_stage(setup, state, telemetry)
        losses = torch.zeros(len(engine.model.head_names), device=engine.device)
        for step in range(setup.batches.accumulation):
            asked = time.perf_counter()
            batch = next(batches)  # before seeding: a loader's first batch draws from the generator
            window.waited += time.perf_counter() - asked
            batch = batch.to(engine.device)
            _seed_dropout(recipe.training.seed, state.update, step, engine.rank)
            losses += engine.forward_backward(batch)
        result = engine.step(schedule.learning_rate(state.update))
        seconds = seconds_before + time.perf_counter() - started
        wishes, losses = _agree(engine, safe_point, seconds, losses / setup.batches.accumulation)
        state.seconds = wishes.seconds

        state.update += 1
        cost = setup.cost(state.stopped, state.last_batch)
        state.tokens += cost.tokens
        state.flops += cost.flops
        state.optimizer_flops += cost.optimizer_flops * result.applied
        window.add(cost, losses, result)
        _count_skipped(state, result, losses, setup, telemetry)
        _check_for_spike(engine, setup, state, losses, checkpoints, telemetry)
        telemetry.advance(state.update)
        profile.after_update()
        if recipe.training.compile and not shown:
            shown = _say_graphs(telemetry)
        checkpoints.poll()
        watchdog.alive(f"update {state.update}")

        done = is_over(setup, engine, state)
        saving = done or wishes.stop or wishes.save or _is_multiple(state.update, setup.intervals.save)
        validating = done or _is_multiple(state.update, setup.intervals.validate)
        if saving or _is_multiple(state.update, log_every):
            # A save ends a line of the log too: what a resumed run writes then begins where this one ended.
            _log(engine, setup, yardsticks, state, window, telemetry)
            window = _Window()
        paused = time.perf_counter()
        if validating:
            _validate(engine, setup, state, telemetry)
            watchdog.alive(f"the validation after update {state.update}")
            done = is_over(setup, engine, state)
        setup.after_update(engine, state)
        if saving or done:
            telemetry.flush()
            waiting = done or wishes.stop or not recipe.checkpoint.in_background
            (checkpoints.save if waiting else checkpoints.begin)(engine, state)
            safe_point.saved()
            watchdog.alive(f"the save after update {state.update}")
            telemetry.write_ledger(ledger(engine, state))
        window.started += time.perf_counter() - paused
        if wishes.stop and not done:
            _stop(wishes, safe_point, state, telemetry)
            return


def ledger(engine: Engine, state: TrainState) -> dict[str, int | float | str]:
    """What the run has cost: the content of `compute.json`."""
    return {
        "updates": state.update,
        "tokens": state.tokens,
        "flops": state.flops,
        "optimizer_flops": state.optimizer_flops,
        "seconds": round(state.seconds, 3),
        "device": engine.device.type,
        "ranks": engine.world_size,
        "skipped_updates": state.skipped,
        "scaler_overflows": state.scaler_overflows,
    }


def _is_multiple(update: int, every: int | None) -> bool:
    return every is not None and update % every == 0


def _say_graphs(telemetry: Telemetry | Silence) -> bool:
    """Say what the first update has compiled; that it was said."""
    from megamini.training.engines.compiled import graphs_in_words  # seconds of imports, for those who want it

    telemetry.say(graphs_in_words())
    return True


def _begin_mask_stage(setup: RunSetup, state: TrainState, telemetry: Telemetry | Silence) -> None:
    """Say so where the next batch is the first one of a stage, whose losses are others."""
    last, schedule = state.last_batch, setup.mask_schedule
    if schedule.share(last + 1) != schedule.share(last):
        state.recent_losses = []
        telemetry.say(f"after update {state.update}: {schedule.masked(last + 1)} positions of every block are masked")


def _seed_dropout(seed: int, update: int, step: int, rank: int) -> None:
    """Dropout is a pure function of (seed, update, micro-batch, rank), so that a resumed run draws the same."""
    torch.manual_seed(int(random_bits(_DROPOUT, seed, update, step, rank)) >> 1)


class _Wishes(NamedTuple):
    """Of any rank: to stop, and to be started again then; of rank 0's clock: to save, and the seconds on it."""

    stop: bool
    save: bool
    comes_back: bool
    seconds: float


def _agree(
    engine: Engine, safe_point: SafePoint, seconds: float, losses: torch.Tensor | None = None
) -> tuple[_Wishes, list[float]]:
    """What the ranks wish, and the heads' mean losses over ranks: one collective, one host read. A run may end by its
    clock (`adaptation.stop.seconds`), so all go by the same one. *All ranks.*"""
    losses = torch.zeros(0, device=engine.device) if losses is None else losses
    own = [float(wish) for wish in (safe_point.stop(), safe_point.save(), safe_point.comes_back())]
    own.append(seconds if engine.rank == 0 else 0.0)
    device = device_of_sums(losses.device)
    shares = torch.tensor(own, dtype=torch.float64, device=device)  # fp32 has no milliseconds after some hours
    stop, save, comes_back, seconds, *sums = engine.sum_over_ranks(
        torch.cat([shares, losses.to(device).double()])
    ).tolist()
    return _Wishes(stop > 0, save > 0, comes_back > 0, seconds), [total / engine.world_size for total in sums]


def _stop(wishes: _Wishes, safe_point: SafePoint, state: TrainState, telemetry: Telemetry | Silence) -> None:
    """Say so; all that there is has been saved. Raises `TryAgain` where the scheduler has asked. *All ranks.*"""
    telemetry.say(f"stopped by {safe_point.stopped_by} after update {state.update}; the same command continues it")
    if wishes.comes_back:
        raise TryAgain


def _count_skipped(
    state: TrainState,
    result: StepResult,
    losses: list[float],
    setup: RunSetup,
    telemetry: Telemetry | Silence,
) -> None:
    """Count an update that was not applied; all ranks see the same numbers, and so decide alike."""
    if result.applied:
        state.skipped_in_a_row = 0
        return
    if setup.recipe.training.precision == "fp16" and all(map(math.isfinite, losses)):
        # Gradients that overflow under the loss scale are its business.
        state.scaler_overflows += 1
        return
    state.skipped += 1
    state.skipped_in_a_row += 1
    telemetry.say(
        f"update {state.update}: loss or gradient not finite, update not applied ({state.skipped} so far); its blocks "
        f"are global batch {state.last_batch}"
    )
    if state.skipped_in_a_row >= setup.recipe.training.stop_after_nonfinite:
        raise UserError(
            f"{state.skipped_in_a_row} updates in a row were not finite, those with global batches "
            f"{state.last_batch + 1 - state.skipped_in_a_row} to {state.last_batch}; lower optimizer.learning_rate, or "
            "resume from an earlier checkpoint"
        )


def _check_for_spike(
    engine: Engine,
    setup: RunSetup,
    state: TrainState,
    losses: list[float],
    checkpoints: Checkpoints,
    telemetry: Telemetry | Silence,
) -> None:
    """Report a loss spike, and raise `RollBack` where the recipe wants that; all ranks see the same losses."""
    moving = [
        (weight, loss)
        for name, weight, loss in zip(engine.model.head_names, setup.head_weights, losses, strict=True)
        if name not in state.stopped
    ]
    loss = sum(weight * loss for weight, loss in moving) / sum(weight for weight, _ in moving)
    found = setup.spikes.detect(state, loss) if math.isfinite(loss) else None
    if found is None:
        return
    goes_back = setup.spikes.rolls_back(state) and checkpoints.any()
    telemetry.say(f"{found}{'; going back to the newest checkpoint, and leaving them out' if goes_back else ''}")
    if goes_back:
        checkpoints.finish(engine)
        raise RollBack(state.last_batch)


def _log(
    engine: Engine,
    setup: RunSetup,
    yardsticks: Yardsticks,
    state: TrainState,
    window: _Window,
    telemetry: Telemetry | Silence,
) -> None:
    seconds = time.perf_counter() - window.started
    values = {
        "train/lr": setup.schedule.learning_rate(state.update - 1),
        "train/tokens_per_second": window.tokens / seconds,
        "train/waiting_for_data": window.waited / seconds,
        "train/skipped_updates": state.skipped,
        "train/roll_backs": state.roll_backs,
        "compute/flops": state.flops,
        "compute/tokens": state.tokens,
        **memory_scalars(engine.device, yardsticks.planned_memory),
    }
    utilisation = model_flops_utilisation(window.flops / seconds, yardsticks.peak_flops)
    if utilisation is not None:
        values["train/mfu"] = utilisation
    heads = engine.model.head_names
    if window.applied:
        means = {
            name: (weight, total / window.applied)
            for name, weight, total in zip(heads, setup.head_weights, window.losses, strict=True)
            if name not in state.stopped
        }
        values["train/loss"] = sum(w * mean for w, mean in means.values()) / sum(w for w, _ in means.values())
        values |= {f"train/loss_{name}": mean for name, (_, mean) in means.items()}
        values["train/grad_norm"] = window.gradient_norm / window.applied
    telemetry.record(state.update, values)
    losses = "  ".join(
        f"{name} {values[f'train/loss_{name}']:.3f}" for name in reversed(heads) if f"train/loss_{name}" in values
    )
    share = "peak rate unknown" if utilisation is None else f"{utilisation:.0%} of peak"
    left = (setup.schedule.updates - state.update) * seconds / window.updates
    telemetry.say(
        f"update {state.update}/{setup.schedule.updates}  {losses}  lr {values['train/lr']:.2e}  "
        f"{values['train/tokens_per_second']:,.0f} tokens/s  {share}{f'  {in_words(left)} left' if left else ''}"
    )


def _measure(engine: Engine, setup: RunSetup, state: TrainState, telemetry: Telemetry | Silence) -> dict[str, float]:
    values = setup.validate(engine)
    telemetry.record(state.update, values)
    shown = "  ".join(f"{name.removeprefix('validation/')} {value:.3f}" for name, value in values.items())
    telemetry.say(f"validation after update {state.update}:  {shown}")
    return values


def _validate(engine: Engine, setup: RunSetup, state: TrainState, telemetry: Telemetry | Silence) -> None:
    """Validate, and stop the heads whose loss falls no more."""
    values = _measure(engine, setup, state, telemetry)
    losses = {head: values[f"validation/loss_{head}"] for head in engine.model.head_names}
    for head in setup.stopping.newly_stopped(state, losses):
        engine.model.stop_head(head)
        state.recent_losses = []  # means over other heads
        telemetry.say(f"{head}: stops after update {state.update}, on a plateau of its validation loss")
