"""A pretraining run from recipe to last checkpoint: build, resume, train."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megamini.costs.flops import measured_matmul_rate, peak_rate
from megamini.data.batches import training_loader
from megamini.errors import TryAgain, UserError
from megamini.files import write_atomically
from megamini.machine import best_device, device_of_sums
from megamini.models.build import build_primary
from megamini.models.trained_model import TrainedModel
from megamini.recipes.recipe import Recipe, RunRecipe
from megamini.training.checkpoints.checkpoint import Checkpoints, newest_first
from megamini.training.checkpoints.identity import defaults_of
from megamini.training.checkpoints.record import adopt_recipe, write_recipe
from megamini.training.device_memory import enough_memory
from megamini.training.engines.deepspeed_config import sharding_of
from megamini.training.engines.engine import DTYPES, Engine
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.engines.precision import resolve_precision, use_kernels_of
from megamini.training.engines.process_group import end_process_group, gather_objects, on_rank_0
from megamini.training.loop import Yardsticks, is_over, ledger, train
from megamini.training.pretraining import build_setup
from megamini.training.profiling import Profile
from megamini.training.safety.run_lock import request_of, run_lock
from megamini.training.safety.safe_point import SafePoint
from megamini.training.safety.same_ranks import check_same_on_all_ranks
from megamini.training.safety.signals import StopFlag
from megamini.training.safety.spikes import RollBack
from megamini.training.safety.watchdog import Watchdog
from megamini.training.setup import RunSetup, Sharding, in_bytes
from megamini.training.state.train_state import TrainState
from megamini.training.telemetry import Silence, Telemetry, write_ledger

_WAIT_FOR_OTHER_RUN = 120  # seconds


def pretrain_plain(recipe: Recipe) -> None:
    """Pretrain in this one process, without DeepSpeed."""
    recipe = resolve_precision(recipe)
    use_kernels_of(recipe.training)
    setup = build_setup(recipe, world_size=1)
    with within_memory(setup, Sharding()), locked_run_directory(setup):
        model = build_primary(recipe, setup.text.tokenizer, setup.block_length)
        execute(setup, plain_engine(model, setup))


def plain_engine(model: TrainedModel, setup: RunSetup, alone: bool = False) -> PlainEngine:
    """The engine without DeepSpeed, on a GPU where there is one. alone: of this process, whatever others there are."""
    device = best_device()
    recipe = setup.recipe
    return PlainEngine(model, recipe.optimizer, recipe.training, setup.batches.accumulation, device, alone)


def pretrain_deepspeed(recipe: Recipe, values: dict[str, Any], source: str) -> None:
    """Pretrain as one rank of a DeepSpeed run; `values` is the user's JSON, read from `source`. All ranks."""
    from megamini.training.engines.deepspeed_config import merge, zero_stage
    from megamini.training.engines.deepspeed_engine import (
        DeepSpeedEngine,
        check_zero_section,
        on_cpu,
        start_process_group,
        zero3_partition,
    )

    check_zero_section(values, source)
    _, world_size = start_process_group(recipe.training.hang_minutes)
    setup = build_setup(recipe, world_size)
    config = merge(values, recipe, setup.batches, on_cpu())
    use_kernels_of(recipe.training)
    own = {**setup.recipe.model_dump(mode="json"), source: values, "data fingerprint": setup.data_fingerprint}
    check_same_on_all_ranks(own, gather_objects)
    try:
        with within_memory(setup, sharding_of(config)), on_rank_0(locked_run_directory(setup)):
            partition = zero3_partition(recipe, config) if zero_stage(config) == 3 else None
            model = build_primary(recipe, setup.text.tokenizer, setup.block_length, partition)
            with closing(DeepSpeedEngine(model, recipe, config)) as engine:
                execute(setup, engine, config)
    except TryAgain:
        # The first rank that ends with its status has the others ended by SIGTERM: then nothing may be left to do.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_process_group()
        raise


def within_memory(setup: RunSetup, sharding: Sharding) -> AbstractContextManager[None]:
    """Context of all that a rank does on its device; `UserError` where its memory does not suffice."""
    batches, planned = setup.batches, in_bytes(setup.planned_memory(sharding))
    spread = (
        "" if sharding.stage is None else ", then spread more (--deepspeed_config ds_configs/zero2.json or zero3.json)"
    )
    return enough_memory(
        f"training.micro_batch: {batches.micro_batch} blocks of {setup.block_length} at once, planned at {planned}",
        "lower training.micro_batch (accumulation makes up for it), then set training.activation_checkpointing: true"
        f"{spread}",
    )


@contextmanager
def locked_run_directory(setup: RunSetup) -> Iterator[None]:
    """Rank 0 only: print the plan, make the run directory, and keep any other run out of it.

    After a signal, DeepSpeed's launcher returns before its ranks have saved; the same command again waits for them.
    """
    print(f"plan of {setup.recipe.name}\n{setup.plan()}", flush=True)
    with run_lock(setup.recipe.run_directory, "training.runs", _WAIT_FOR_OTHER_RUN, can_be_asked=True):
        yield


def execute(setup: RunSetup, engine: Engine, deepspeed_config: dict[str, Any] | None = None) -> TrainState:
    """Resume or start, then train; where the run stands at the end. All ranks."""
    recipe = setup.recipe
    checkpoints = Checkpoints(
        recipe.run_directory / "checkpoints",
        recipe.checkpoint.keep_last,
        setup.identity(),
        setup.intervals.keep,
        defaults_of(recipe),
    )
    state = _starting_state(setup, engine, checkpoints)
    over = is_over(setup, engine, state)
    changes = adopt_recipe(recipe, state, over)
    if engine.rank == 0:
        write_recipe(recipe, state)
        setup.keep_data()
    if over:
        if engine.rank == 0:
            write_ledger(recipe.run_directory, ledger(engine, state))
            other = f"; not trained with {changes}: give the run another name for that" if changes else ""
            print(f"{recipe.name} is complete: {state.update} updates{other}")
        return state
    if engine.rank == 0:
        if changes:
            print(f"goes on with a changed recipe: {changes}", flush=True)
        if deepspeed_config is not None:
            text = json.dumps(deepspeed_config, indent=2) + "\n"
            write_atomically(recipe.run_directory / "deepspeed.json", text)
    sharding = sharding_of(deepspeed_config) if deepspeed_config is not None else Sharding()
    yardsticks = Yardsticks(_peak_of_all_ranks(recipe, engine), setup.planned_memory(sharding))
    while True:
        try:
            _session(setup, engine, checkpoints, state, yardsticks)
        except RollBack as back:
            before, state = state, checkpoints.resume(engine, _say(engine))
            adopt_recipe(recipe, state, over=False)
            if setup.mask_schedule.share(state.last_batch) != setup.mask_schedule.share(back.batch + 1):
                state.recent_losses = []  # those to come are of another stage
            state.batches_left_out, state.roll_backs = back.batch + 1 - state.update, before.roll_backs + 1
            # What was thrown away has been paid for all the same.
            state.tokens, state.flops, state.seconds = before.tokens, before.flops, before.seconds
            state.optimizer_flops = before.optimizer_flops
        else:
            return state


def _session(
    setup: RunSetup, engine: Engine, checkpoints: Checkpoints, state: TrainState, yardsticks: Yardsticks
) -> None:
    """Train from `state`, which moves along. All ranks. Raises `RollBack` at a loss spike."""
    recipe = setup.recipe
    loader = training_loader(
        setup.micro_batches(engine.rank),
        state.update + state.batches_left_out,
        setup.schedule.updates + state.batches_left_out,
        recipe.data.workers,
        pin_memory=engine.device.type == "cuda",
    )
    with ExitStack() as stack:
        # First in, last out: what a launcher sends while the others close must not end the process.
        stop = stack.enter_context(StopFlag(speaks=engine.rank == 0))
        batches = stack.enter_context(closing(loader))
        stack.callback(checkpoints.abandon)
        telemetry = _telemetry(recipe.run_directory, engine, state, setup.schedule.updates)
        stack.callback(telemetry.close)
        telemetry.say(f"{engine.description}, {recipe.training.precision}, from update {state.update}")
        hang = recipe.training.hang_minutes
        watchdog = stack.enter_context(Watchdog(hang and 60 * hang, engine.rank))
        by_time = None if recipe.checkpoint.every else recipe.checkpoint.every_minutes
        leads = engine.rank == 0
        safe_point = SafePoint(stop, request_of(recipe.run_directory) if leads else None, by_time if leads else None)
        profile = stack.enter_context(Profile(recipe.run_directory, recipe.training.profile if leads else None))
        train(engine, setup, yardsticks, batches, state, checkpoints, telemetry, safe_point, watchdog, profile)


def _say(engine: Engine) -> Callable[[str], None]:
    return partial(print, flush=True) if engine.rank == 0 else lambda _: None


def _starting_state(setup: RunSetup, engine: Engine, checkpoints: Checkpoints) -> TrainState:
    """The state of the newest complete checkpoint, loaded into the engine, or that of a new run. All ranks."""
    recipe, new = setup.recipe, TrainState(tokens=setup.spent.tokens, flops=setup.spent.flops)
    if recipe.checkpoint.resume:
        return checkpoints.resume(engine, _say(engine)) or new
    if newest_first(checkpoints.directory):
        raise UserError(f"{recipe.run_directory} holds checkpoints and checkpoint.resume is false; choose another name")
    return new


def _telemetry(run_directory: Path, engine: Engine, state: TrainState, updates: int) -> Telemetry | Silence:
    return Telemetry(run_directory, state.update, updates) if engine.rank == 0 else Silence()


def _peak_of_all_ranks(recipe: RunRecipe, engine: Engine) -> float:
    """Peak FLOP/s of all devices: as given, as known for the device, or as measured on all ranks at once."""
    precision = recipe.training.precision
    if recipe.telemetry.peak_tflops:
        own = recipe.telemetry.peak_tflops * 1e12
    else:
        name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else ""
        own = peak_rate(name, precision) or measured_matmul_rate(engine.device, DTYPES[precision])
    # All ranks.
    return engine.sum_over_ranks(torch.tensor([own], dtype=torch.float64, device=device_of_sums(engine.device))).item()
