"""`training.precision: auto`: what a machine gets, what a run keeps, and who may not ask."""

import pytest
import torch

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
    with pytest.raises(UserError, match="auto is for runs of one process"):
        check_combination({"zero_optimization": {"stage": 2}}, "auto")


def test_a_torn_recipe_of_a_run_is_named(tmp_path):
    asked = recipe(tmp_path)
    asked.run_directory.mkdir()
    for torn in ("", "training: {precis", "- 1", "\x00\xff"):
        (asked.run_directory / "recipe.yaml").write_text(torn)
        with pytest.raises(UserError, match=r"recipe\.yaml: torn"):
            resolve_precision(asked)
