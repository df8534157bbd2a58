"""Bytes of model states that each rank really holds, against the plan's formula, for every ZeRO stage."""

import gc
import json
import os
from pathlib import Path
from unittest import mock

import deepspeed
import pytest
import torch
import yaml

from megamini.costs.memory import model_states
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.ranks import Ranks, pretrain

pytestmark = pytest.mark.launched

# Buckets are no model states: small ones, so that what is left of them does not count.
ZERO = {
    "reduce_bucket_size": 20_000,
    "allgather_bucket_size": 20_000,
    "stage3_prefetch_bucket_size": 20_000,
    "stage3_param_persistence_threshold": 0,
}
CASES = [(stage, ranks, precision) for precision in ("fp32", "bf16") for stage in range(4) for ranks in (1, 2, 4, 8)]
CASES = [case for case in CASES if case[0] or case[2] == "fp32"]  # bf16 at stage 0 is refused
SUBSET = [(0, 2, "fp32"), (1, 2, "bf16"), (2, 2, "fp32"), (3, 4, "bf16")]


@pytest.mark.parametrize("stage, ranks, precision", SUBSET)
def test_ranks_hold_what_the_plan_says(stage, ranks, precision, lab: Lab, tmp_path: Path, record_property) -> None:
    check(stage, ranks, precision, lab, tmp_path, record_property)


@pytest.mark.all_combinations
@pytest.mark.parametrize("stage, ranks, precision", [case for case in CASES if case not in SUBSET])
def test_every_stage_and_number_of_ranks(stage, ranks, precision, lab: Lab, tmp_path: Path, record_property) -> None:
    check(stage, ranks, precision, lab, tmp_path, record_property)


def check(stage: int, ranks: int, precision: str, lab: Lab, folder: Path, record_property) -> None:
    case = Case("xlm-roberta-xl", stage, precision=precision, ranks=ranks)
    recipe = case.recipe(lab.data(), folder)
    recipe["model"]["config"] |= {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 16}
    recipe["schedule"] |= {"duration": "2 updates", "warmup": "1 updates"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": stage, **ZERO}}))
    arguments = [str(folder), str(folder / "recipe.yaml"), "--deepspeed_config", str(folder / "deepspeed.json")]
    with Ranks(pretrain_and_count, arguments, ranks, folder / "logs") as running:
        assert set(running.wait()) == {0}, running.printed()
    counted = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    parameters = counted[0]["parameters"]
    planned = model_states(parameters, 0, precision, stage, ranks, fp32_gradients=precision == "bf16")
    for rank, one in enumerate(counted):
        record_property(f"rank {rank} over plan", one["bytes"] / planned.total)
        assert one["bytes"] == pytest.approx(planned.total, rel=0.05), (rank, one, planned)


# --- in the ranks ---------------------------------------------------------------------------------------------------


def pretrain_and_count(folder: str, *arguments: str) -> None:
    """The command. In the second update, when there are moments: the bytes of all tensors that are alive once all
    gradients are there. From stage 2 on, whole ones still on their way to their owners are no model states."""
    counts = []
    exchange = deepspeed.DeepSpeedEngine.allreduce_gradients

    def count_and_exchange(engine: deepspeed.DeepSpeedEngine, *more, **named):
        on_their_way = engine.module.parameters() if engine.zero_optimization_stage() >= 2 else []
        counts.append(live_bytes({id(p.grad) for p in on_their_way}))
        if len(counts) == 2:
            shapes = [getattr(p, "ds_shape", p.shape) for p in engine.module.parameters()]
            found = {"parameters": sum(shape.numel() for shape in shapes), "bytes": counts[-1]}
            (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
        return exchange(engine, *more, **named)

    with mock.patch.object(deepspeed.DeepSpeedEngine, "allreduce_gradients", count_and_exchange):
        pretrain(*arguments)


def live_bytes(but: set[int]) -> int:
    """Of all storages that a tensor of this process refers to, each once, but those of the tensors with these ids."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and not thing.is_meta:
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and id(tensor) not in but:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())
