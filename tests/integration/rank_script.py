"""Ranks that run many recipes, one after the other: starting Python and importing costs more than a run.

    python tests/integration/rank_script.py JOBS.json

Each job is {"recipe": values, "stage": ZeRO stage, or null for the plain engine, "ranks": number, "offload": whether
optimizer states lie in the host's memory}. The ranks are real
processes with the environment that a launcher gives them, forked from this one once all is imported. Behind the run,
which is the real one, the parameters are written to its directory: `master.NAME`, what the optimizer moves, and
`working.NAME`, what the model computes with.
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import deepspeed
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megamini.recipes.recipe import Recipe  # noqa: E402
from megamini.training import run  # noqa: E402
from megamini.training.engines.deepspeed_config import read_deepspeed_json  # noqa: E402
from megamini.training.engines.engine import Engine  # noqa: E402
from megamini.training.engines.plain_engine import PlainEngine  # noqa: E402
from tests.integration.launching import free_port  # noqa: E402


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    sizes = sorted({job["ranks"] for job in jobs})
    codes = [run_ranks([job for job in jobs if job["ranks"] == ranks], ranks) for ranks in sizes]
    sys.exit(max(codes))


def run_ranks(jobs: list[dict[str, Any]], ranks: int) -> int:
    """Fork the ranks and wait for them: 0, or 1 where one failed, which ends the others too."""
    os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(free_port())
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run_rank, args=(jobs, rank), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    while running := [process for process in processes if process.exitcode is None]:
        if any(process.exitcode for process in processes):
            for process in running:
                process.kill()
                process.join()
        multiprocessing.connection.wait([process.sentinel for process in running])
    return int(any(process.exitcode for process in processes))


def run_rank(jobs: list[dict[str, Any]], rank: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for job in jobs:
        recipe = Recipe.model_validate(job["recipe"])
        engine = train_and_keep_engine(recipe, job["stage"], job["offload"])
        tensors = plain_parameters(engine) if job["stage"] is None else deepspeed_parameters(engine, job["stage"])
        if engine.rank == 0:
            save_file(tensors, recipe.run_directory / "parameters.safetensors")
        if job["stage"] is not None:
            engine._engine.destroy()


def train_and_keep_engine(recipe: Recipe, stage: int | None, offload: bool) -> Engine:
    """The run as launch/pretrain.py has it. All ranks."""
    with mock.patch.object(run, "execute", wraps=run.execute) as spy:
        if stage is None:
            run.pretrain_plain(recipe)
        else:
            path = ROOT / f"ds_configs/zero{stage}.json"
            values = read_deepspeed_json(path)
            if stage == 3:  # these models are so small that nothing would be partitioned
                values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
            if offload:
                values["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
            run.pretrain_deepspeed(recipe, values, str(path))
    (_, engine, *_), _ = spy.call_args
    return engine


def plain_parameters(engine: PlainEngine) -> dict[str, torch.Tensor]:
    masters = {id(trained): master for trained, master in zip(engine._trained, engine._masters, strict=True)}
    tensors = {}
    for name, parameter in engine.model.named_parameters():
        tensors[f"master.{name}"] = masters.get(id(parameter), parameter).detach().clone()  # frozen: no master
        tensors[f"working.{name}"] = parameter.detach().clone()
    return tensors


def deepspeed_parameters(engine: Engine, stage: int) -> dict[str, torch.Tensor]:
    """All ranks: stage 3 gathers each parameter."""
    tensors = {}
    for name, parameter in engine.model.named_parameters():
        cut = stage < 3 or engine.world_size == 1 or parameter.ds_tensor.numel() < parameter.ds_numel
        assert cut, f"{name} is not partitioned"
        with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
            tensors[f"working.{name}"] = parameter.detach().clone()
        if stage == 0 or not parameter.requires_grad:
            tensors[f"master.{name}"] = tensors[f"working.{name}"].clone()
        else:
            tensors[f"master.{name}"] = deepspeed.utils.safe_get_full_fp32_param(parameter).detach().clone()
    return tensors


if __name__ == "__main__":
    main()
