"""Cases of other machines: what a system lacks is done without."""

import os
import signal
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megamini import machine
from megamini.adaptation.relearn_model import RelearnModel
from megamini.data import batches
from megamini.downstream.finetuning import finetune
from megamini.downstream.finetuning.trainer import training_arguments
from megamini.downstream.recipe import FinetuneRecipe
from megamini.errors import UserError
from megamini.recipes.sections import OptimizerSection
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.engines.precision import resolve_precision
from megamini.training.run import check_plain
from tests.downstream.workplace import finetune_recipe
from tests.models import bodies


def test_cores_where_the_system_does_not_tell(monkeypatch):
    assert machine.usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.usable_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_workers_where_nobody_says_who_sent_a_signal(monkeypatch):
    monkeypatch.delattr(signal, "sigwaitinfo")
    handlers, threads = {}, threading.active_count()
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: pytest.fail("blocked, and nobody waits for it"))
    batches._leave_signals_to_the_rank(0)
    assert handlers[signal.SIGTERM] is handlers[signal.SIGINT] is signal.SIG_IGN
    assert threading.active_count() == threads


def with_devices(monkeypatch, cuda: bool, mps: bool):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize("cuda, mps, chosen", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_one_place_chooses_the_device(cuda, mps, chosen, monkeypatch):
    with_devices(monkeypatch, cuda, mps)
    assert machine.best_device().type == chosen
    sums = machine.device_of_sums(machine.best_device())
    assert sums.type == ("cpu" if chosen == "mps" else chosen)


def test_an_apple_gpu_computes_in_fp32(tmp_path, monkeypatch, capsys):
    with_devices(monkeypatch, cuda=False, mps=True)
    asked = bodies.small_recipe(family="roberta")
    values = {name: asked.training.model_copy(update={"precision": name, "runs": str(tmp_path)})
              for name in ("auto", "fp32", "bf16")}  # fmt: skip
    recipes = {name: asked.model_copy(update={"training": training}) for name, training in values.items()}
    assert resolve_precision(recipes["auto"]).training.precision == "fp32"
    assert "auto is fp32 here (an Apple GPU)" in capsys.readouterr().out
    check_plain(recipes["fp32"])
    with pytest.raises(UserError, match=r"training\.precision: bf16 .* Apple GPU .*use fp32"):
        check_plain(recipes["bf16"])
    fine = FinetuneRecipe.model_validate(finetune_recipe(tmp_path / "gone", tmp_path))
    arguments = training_arguments(fine, 0, tmp_path, 1, None, "mps")
    assert not (arguments.use_cpu or arguments.bf16 or arguments.dataloader_pin_memory)
    for command in (finetune.finetune, finetune.plan):
        with pytest.raises(UserError, match="bf16 was never tried on an Apple GPU"):
            command(fine.model_copy(update={"training": fine.training.model_copy(update={"precision": "bf16"})}))


def test_batches_are_not_copied_to_an_apple_gpu_behind_the_programs_back(monkeypatch):
    copies = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, where, non_blocking: copies.append((where.type, non_blocking)))
    batch = batches.Batch(*(torch.zeros(2, dtype=torch.int64) for _ in range(3)))
    for name in ("mps", "cuda"):
        batch.to(torch.device(name))
    assert copies == [("mps", False)] * 3 + [("cuda", True)] * 3


class _NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else [result]:
            assert getattr(value, "dtype", None) != torch.float64, func
        return result


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_nothing_of_an_adaptation_is_float64_but_sums(family):
    body = bodies.small_model(family)
    matrix, bias = body.get_input_embeddings().weight.detach().clone(), torch.zeros(bodies.VOCAB)
    model = RelearnModel(body, {"de": (matrix, bias)}, unplaced={"de": {3}})
    training = bodies.small_recipe(family=family).training
    ids, positions, labels, mask = bodies.small_batch(padded=True)
    with _NoFloat64():
        engine = PlainEngine(model, OptimizerSection(learning_rate=0.1), training, 1, torch.device("cpu"))
        engine.forward_backward(batches.Batch(ids, positions, labels))
        assert engine.step(0.1).applied
        engine.evaluate(batches.Batch(ids, positions, labels, attention_mask=mask))
