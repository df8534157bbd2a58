"""`training.precision: auto`: what a machine gets, what a run keeps, and who may not ask; TF32."""

import pytest
import torch

from megamini.downstream.recipe import EvaluateRecipe
from megamini.errors import UserError
from megamini.files import write_atomically
from megamini.training.engines import precision
from megamini.training.engines.deepspeed_config import check_combination
from megamini.training.engines.precision import resolve_precision
from tests.models import bodies


def recipe(tmp_path, value="auto"):
    made = bodies.small_recipe(family="roberta")
    training = made.training.model_copy(update={"precision": value, "runs": str(tmp_path)})
    return made.model_copy(update={"training": training})


def machine(monkeypatch, bf16_over_fp32):
    rates = {torch.float32: 1e11, torch.bfloat16: bf16_over_fp32 * 1e11}
    monkeypatch.setattr(precision, "measured_matmul_rate", lambda device, dtype: rates[dtype])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("gain", "expected"), [(0.2, "fp32"), (1.1, "fp32"), (2.0, "bf16"), (14.0, "bf16")])
def test_a_processor_gets_what_it_is_fast_in(gain, expected, tmp_path, monkeypatch, capsys):
    machine(monkeypatch, gain)
    assert resolve_precision(recipe(tmp_path)).training.precision == expected
    assert f"auto is {expected} here" in (line := capsys.readouterr().out) and f"{gain:.2f} times" in line


def test_a_run_keeps_what_it_began_with(tmp_path, monkeypatch, capsys):
    machine(monkeypatch, 2.0)
    asked = recipe(tmp_path)
    asked.run_directory.mkdir()
    write_atomically(asked.run_directory / "recipe.yaml", "training: {precision: fp32}\n")
    assert resolve_precision(asked).training.precision == "fp32"
    assert "auto is fp32 here (as it began)" in capsys.readouterr().out


def test_what_is_said_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "measured_matmul_rate", None)
    for value in ("fp32", "bf16"):
        assert resolve_precision(recipe(tmp_path, value)).training.precision == value


def test_deepspeed_wants_to_be_told():
    with pytest.raises(UserError, match="auto is for runs without DeepSpeed"):
        check_combination({"zero_optimization": {"stage": 2}}, "auto")


def test_a_torn_recipe_of_a_run_is_named(tmp_path):
    asked = recipe(tmp_path)
    asked.run_directory.mkdir()
    for torn in ("", "training: {precis", "- 1", "\x00\xff"):
        (asked.run_directory / "recipe.yaml").write_text(torn)
        with pytest.raises(UserError, match=r"recipe\.yaml: torn"):
            resolve_precision(asked)


def gpu(monkeypatch, bf16, capability, hip=None):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "hip", hip)


GPUS = [
    (True, (8, 0), None, "bf16", "tf32"),
    (False, (7, 5), None, "fp16", "fp32"),
    (True, (9, 4), "6", "bf16", "fp32"),
]


@pytest.mark.parametrize("bf16, capability, hip, trained, exact", GPUS, ids=["A100", "T4", "MI300X"])
def test_a_gpu_gets_what_it_has_units_for(bf16, capability, hip, trained, exact, monkeypatch):
    gpu(monkeypatch, bf16, capability, hip)
    assert precision.fastest() == (trained, "A GPU")
    assert precision.near_fp32() == (exact, "A GPU")


@pytest.fixture
def products():
    yield torch.get_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


def test_tf32_is_allowed_where_it_is_asked_for_and_forbidden_elsewhere(monkeypatch, products):
    gpu(monkeypatch, True, (8, 0))
    for asked, allowed in (("tf32", "high"), ("fp32", "highest"), ("tf32", "high"), ("bf16", "highest")):
        precision.use_precision(asked, "training.precision")
        assert products() == allowed


def test_what_a_machine_does_not_have_is_refused_or_said(monkeypatch, capsys, products):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for asked in ("fp16", "tf32"):
        with pytest.raises(UserError, match=rf"^evaluation\.precision: {asked} .* use .*fp32"):
            precision.use_precision(asked, "evaluation.precision")
    gpu(monkeypatch, False, (7, 5))
    precision.use_precision("fp16", "training.precision")
    assert capsys.readouterr().out == ""
    precision.use_precision("bf16", "training.precision")
    assert "has no bf16 units, and computes bf16 more slowly than fp32; use auto" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"tf32 needs an NVIDIA GPU of 2020 or later"):
        precision.use_precision("tf32", "training.precision")


def test_a_section_without_a_precision_was_made_in_fp32_by_an_earlier_version(tmp_path, monkeypatch):
    gpu(monkeypatch, True, (8, 0))
    asked = EvaluateRecipe.model_validate(
        {"name": "old", "model": {"primary": "x"}, "evaluation": {"runs": str(tmp_path)},
         "measures": {"bits_per_byte": {"data": {"en": "x"}}}}
    )  # fmt: skip
    assert resolve_precision(asked, "evaluation", precision.near_fp32).evaluation.precision == "tf32"
    asked.run_directory.mkdir()
    (asked.run_directory / "recipe.yaml").write_text("evaluation: {batch: 32}\n")
    assert resolve_precision(asked, "evaluation", precision.near_fp32).evaluation.precision == "fp32"
