"""Small gradients of many micro-batches in bf16 are summed in fp32, at the default ZeRO stage and at the others."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from megamini.recipes.recipe import Recipe
from megamini.training import run
from megamini.training.engines.deepspeed_config import DEFAULT, zero_stage
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.ranks import Ranks

pytestmark = pytest.mark.launched

ACCUMULATION = 64
JSONS = [DEFAULT, {"zero_optimization": {"stage": 1, "overlap_comm": True}}, {"zero_optimization": {"stage": 2}}]


def test_64_micro_batches_add_up_as_in_fp32(lab: Lab, tmp_path: Path) -> None:
    recipe = Case(stage=1, ranks=1, precision="bf16").recipe(lab.data(), tmp_path)
    recipe["training"] |= {"global_batch": ACCUMULATION, "micro_batch": 1}
    in_bf16 = {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "bf16"}}
    with Ranks(sum_gradients, [recipe, [*JSONS, in_bf16], str(tmp_path)], 1, tmp_path / "logs") as ranks:
        assert ranks.wait() == [0], ranks.printed()
    *errors, of_bf16 = json.loads((tmp_path / "errors.json").read_text())
    # The sum is rounded to bf16 once, on its way to other ranks: 2^-9 in the mean over all its elements at most.
    assert all(error < 2**-9 for error in errors), errors
    assert of_bf16 > 2 * 2**-9, "what a sum in bf16 is off by, or the test could not see it"


# --- in the rank ----------------------------------------------------------------------------------------------------


def sum_gradients(values: dict[str, Any], jsons: list[dict[str, Any]], folder: str) -> None:
    """How far, relatively, the gradients of one update are from the fp32 sum of the bf16 ones of the same model."""
    expected, errors = None, []
    for number, config in enumerate(jsons):
        recipe = Recipe.model_validate(values | {"name": f"run-{number}"})
        with mock.patch.object(run, "execute") as execute:
            run.pretrain_deepspeed(recipe, config, "test")
        (setup, engine, _), _ = execute.call_args
        own = {name: p for name, p in engine.model.named_parameters() if p.requires_grad}
        expected = expected or sums_of(engine.model, own, setup)
        for step in range(ACCUMULATION):
            engine.forward_backward(setup.micro_batches(0)[step])
        found = {name: safe_get_full_grad(p).float() if zero_stage(config) else p.grad for name, p in own.items()}
        flat, whole = (torch.cat([one[name].flatten() for name in own]) for one in (found, expected))
        errors.append(((flat - whole).norm() / whole.norm()).item())
        engine._engine.destroy()
    (Path(folder) / "errors.json").write_text(json.dumps(errors))


def sums_of(model: torch.nn.Module, parameters: dict[str, torch.nn.Parameter], setup) -> dict[str, torch.Tensor]:
    """The same, by PyTorch alone."""
    total = {name: torch.zeros(p.shape) for name, p in parameters.items()}
    for step in range(ACCUMULATION):
        batch = setup.micro_batches(0)[step]
        loss, _ = model(batch.input_ids, batch.positions, batch.labels)
        found = torch.autograd.grad(loss / ACCUMULATION, list(parameters.values()))
        for one, gradient in zip(total.values(), found, strict=True):
            one += gradient.float()
    return total
