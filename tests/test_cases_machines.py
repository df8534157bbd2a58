"""Cases of other machines: what a system lacks is done without."""

import os
import signal
import threading
from datetime import timedelta

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megamini import machine
from megamini.adaptation.relearning.model import RelearnModel
from megamini.data import batches
from megamini.downstream.finetuning import finetune
from megamini.downstream.finetuning.trainer import training_arguments
from megamini.downstream.recipe import FinetuneRecipe
from megamini.errors import UserError
from megamini.recipes.optimizer import OptimizerSection
from megamini.training.engines import process_group
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.engines.precision import resolve_precision, use_precision
from tests.device import ON_CPU, choose_device, ranks_that_fit
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
    use_precision(recipes["fp32"].training.precision, "training.precision")
    with pytest.raises(UserError, match=r"training\.precision: bf16 .* Apple GPU .*use fp32"):
        use_precision(recipes["bf16"].training.precision, "training.precision")
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


@pytest.mark.parametrize("family", bodies.ENCODERS)
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


def test_kernels_that_add_in_one_order(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    machine.use_deterministic_kernels()
    try:
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_one_switch_for_the_device_of_the_whole_suite(monkeypatch):
    """No test runs on a GPU where others run on the CPU."""
    environment = {}
    choose_device("cpu", environment)
    assert environment == ON_CPU and ranks_that_fit(64, environment)
    assert ON_CPU.items() <= os.environ.items() or os.environ["DS_ACCELERATOR"] == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.UsageError, match="there is no GPU here"):
        choose_device("cuda", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    choose_device("cuda", environment := {})
    assert environment == {"DS_ACCELERATOR": "cuda"}
    assert ranks_that_fit(2, environment) and not ranks_that_fit(3, environment), "NCCL takes no two on one GPU"


def test_a_rank_of_torchrun_uses_the_gpu_of_its_number_before_it_joins_the_others(monkeypatch):
    """Else the first collective of each would go to the first GPU."""
    done = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, timeout: done.append(backend))
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    assert process_group.join_ranks(timedelta(minutes=1)) == (3, 4)
    assert done == [3, "nccl"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="LOCAL_RANK 3: this process sees 2 GPUs"):
        process_group.join_ranks(timedelta(minutes=1))
