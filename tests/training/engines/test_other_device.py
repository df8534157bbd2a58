"""Every path of the engines on a device that is not the CPU: no CPU tensor slips in, and the host reads seldom.

PyTorch's meta device stands in for a GPU: it runs forward, backward and optimizer without numbers. `Elsewhere` looks at
each operation as a GPU would: all its tensors lie there, but for numbers. And what the host reads is counted, since
each read waits for all that the device has been given. Only a GPU can show the rest.
"""

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForSequenceClassification, masking_utils

from megamini.adaptation.relearning.model import RelearnModel
from megamini.data.batches import Batch
from megamini.downstream.finetuning.trainer import freeze_token_embeddings
from megamini.downstream.kinds.forward import Collator, outputs_of
from megamini.models.build import _freeze
from megamini.models.primary_model import PrimaryModel
from megamini.models.trained_model import TrainedModel
from megamini.recipes.objective import LoraSection
from megamini.recipes.optimizer import PretrainingOptimizerSection
from megamini.recipes.sections import TrainingSection
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.loop import _agree
from tests.models.bodies import FAMILIES, LENGTH, VOCAB, small_config, small_model, small_recipe

META = torch.device("meta")
MICRO_BATCH, MASKED, ACCUMULATION = 2, 3, 2


class Elsewhere(TorchDispatchMode):
    """Refuses operations over tensors of several devices, and answers and counts what the host asks."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        there = [one for one in tensors if one.is_meta]
        name = str(func)
        with self:  # what is made of several operations arrives whole under `inference_mode`
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        if name.startswith("aten._local_scalar_dense") and there:
            self.reads.append(name)
            return 1.0 if there[0].is_floating_point() else 1
        if name.startswith("aten._to_copy") and there and kwargs.get("device", META) != META:
            self.reads.append(name)
            return torch.ones(there[0].shape, dtype=kwargs.get("dtype") or there[0].dtype)
        copies = name.startswith(("aten._to_copy", "aten.copy_"))
        if there and not copies and (stray := [one for one in tensors if not one.is_meta and one.dim()]):
            raise AssertionError(f"{name}: a CPU tensor of shape {tuple(stray[0].shape)} among those of the device")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def fused_as_on_a_gpu(monkeypatch):
    devices = [*optimizer._get_fused_kernels_supported_devices(), "meta"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: list(devices))


def primary(family: str = "roberta", **more) -> PrimaryModel:
    return PrimaryModel(small_model(family), (2,), **more)


def partly_frozen(method: str, family: str = "roberta", **objective) -> PrimaryModel:
    """As a recipe of that method trains it."""
    recipe = small_recipe((2,) if method == "minipost" else (), family=family)
    changed = recipe.objective.model_copy(update={"method": method, **objective})
    model = small_model(family)
    _freeze(model, recipe.model_copy(update={"objective": changed}))
    return PrimaryModel(model)


def checkpointed() -> PrimaryModel:
    model = primary()
    model.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def relearning(languages: int, family: str = "roberta") -> RelearnModel:
    starts = {f"l{n}": (torch.randn(VOCAB, 64), torch.randn(VOCAB)) for n in range(languages)}
    return RelearnModel(small_model(family), starts, primary=small_model(family), unplaced={"l0": {0}})


def batch(blocks: int, **more) -> Batch:
    ids = torch.randint(5, VOCAB, (blocks, LENGTH))
    positions = torch.arange(blocks).repeat_interleave(MASKED) * LENGTH + torch.tensor([1, 5, 7]).repeat(blocks)
    return Batch(ids, positions, torch.randint(5, VOCAB, (blocks * MASKED,)), **more)


MODELS: dict[str, tuple[Callable[[], TrainedModel], int]] = {
    **{family: (lambda family=family: primary(family), 1) for family in FAMILIES},
    "checkpointing": (checkpointed, 1),
    "minipost": (lambda: partly_frozen("minipost"), 1),
    "minipost-modernbert": (lambda: partly_frozen("minipost", "modernbert"), 1),
    "head": (lambda: partly_frozen("head"), 1),
    "embeddings": (lambda: partly_frozen("embeddings", "llama"), 1),
    "relearning": (lambda: relearning(1), 1),
    "relearning-3": (lambda: relearning(3), 3),
    "relearning-modernbert": (lambda: relearning(2, "modernbert"), 2),
    "relearning-gemma": (lambda: relearning(2, "gemma"), 2),
}


def engine_of(model: TrainedModel, precision: str, name: str = "adamw") -> PlainEngine:
    training = TrainingSection(global_batch=4, micro_batch=2, precision=precision)
    section = PretrainingOptimizerSection(learning_rate=1e-3, name=name)
    return PlainEngine(model, section, training, ACCUMULATION, META)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_updates_stay_on_the_device(name, precision):
    build, languages = MODELS[name]
    engine, one = engine_of(build(), precision), batch(MICRO_BATCH * languages)
    with Elsewhere() as device:
        for update in range(2):
            losses = torch.zeros(len(engine.model.head_names), device=META)
            for _ in range(ACCUMULATION):
                losses += engine.forward_backward(one.to(META))
            assert device.reads == [], "a micro-batch waits for nothing"
            engine.step(1e-3)
            assert len(device.reads) == 1, f"norms and whether they are finite, in one read: {device.reads}"
            nobody = mock.Mock(stop=lambda: False, save=lambda: False, comes_back=lambda: False)
            _agree(engine, nobody, float(update), losses)
            assert len(device.reads) == 2, f"losses and wishes, in one read: {device.reads}"
            device.reads.clear()
    assert all(master.is_meta for master in engine._masters)


def test_low_rank_updates_too():
    pytest.importorskip("peft")
    engine = engine_of(partly_frozen("lora", "llama", lora=LoraSection(rank=4)), "bf16")
    with Elsewhere() as device:
        weighted = batch(MICRO_BATCH, weights=torch.ones(MICRO_BATCH * MASKED))
        engine.forward_backward(weighted.to(META))
        assert device.reads == []
        engine.step(1e-3)
        assert len(device.reads) == 1


def test_muon_too():
    engine = engine_of(primary(), "bf16", "muon")
    with Elsewhere() as device:
        engine.forward_backward(batch(MICRO_BATCH).to(META))
        engine.step(1e-3)
        assert len(device.reads) == 1


def test_a_language_that_has_stopped_costs_no_read():
    engine = engine_of(relearning(3), "bf16")
    engine.model.stop_head("l1")
    with Elsewhere() as device:
        engine.forward_backward(batch(3 * MICRO_BATCH).to(META))
        assert device.reads == []


@pytest.mark.parametrize("name", ["roberta", "modernbert", "relearning-3"])
def test_validation_stays_on_the_device(name):
    build, languages = MODELS[name]
    engine, one = engine_of(build(), "bf16"), batch(MICRO_BATCH * languages)
    with Elsewhere() as device:
        assert engine.evaluate(one.to(META)).is_meta
        assert device.reads == []


def test_what_is_said_of_a_padded_batch():
    """The library asks whether a mask masks anything: once a batch, in validation and evaluation only."""
    engine, one = engine_of(primary(), "bf16"), batch(MICRO_BATCH)
    padded = replace(one, attention_mask=torch.ones(MICRO_BATCH, LENGTH, dtype=torch.int64))
    with Elsewhere() as device:
        engine.evaluate(padded.to(META))
        assert len(device.reads) <= 1


def test_fine_tuning_and_evaluation_of_tasks():
    model = AutoModelForSequenceClassification.from_config(small_config("roberta", num_labels=3)).to(META)
    freeze_token_embeddings(model)
    inputs = [{"input_ids": [0, *range(5, 5 + n), 2], "attention_mask": [1] * (n + 2), "labels": n % 3} for n in (3, 5)]
    made = {key: value.to(META) for key, value in Collator(1)(inputs).items()}
    with Elsewhere() as device:
        model(**made).loss.backward()
        assert len(device.reads) <= 1, "whether the mask masks anything"
        device.reads.clear()
        without = [{key: one[key] for key in ("input_ids", "attention_mask")} for one in inputs]
        (first, *_) = outputs_of(model, without, 1, 2, "")
        assert isinstance(first[0], np.ndarray) and first[0].shape == (3,)
        assert len(device.reads) <= 2, "and the logits of the batch"


def test_what_a_decoder_is_not_asked_is_left_to_the_library():
    """Rows of several sequences are seen by it as before, outside of training."""
    own = masking_utils.find_packed_sequence_indices
    model = primary("llama")
    ids, of_two = torch.full((1, 6), 9), torch.tensor([[0, 1, 2, 0, 1, 2]])
    for _ in range(2):
        states = model.model.base_model(ids, position_ids=of_two).last_hidden_state
        torch.testing.assert_close(states[0, :3], states[0, 3:])
        with mock.patch.object(model.model.base_model, "forward", side_effect=KeyError), pytest.raises(KeyError):
            model.head_rows(ids, torch.tensor([3]))
    assert masking_utils.find_packed_sequence_indices is own


def test_a_cpu_tensor_among_others_is_seen():
    """The stand-in sees what it is for."""
    model = relearning(1)
    engine = engine_of(model, "fp32")
    model._unplaced = {"l0": {0}}
    own = RelearnModel._positions

    def careless(self, language, ids, body):
        own(self, language, ids, body)
        return torch.zeros(ids.shape, dtype=ids.dtype)

    with mock.patch.object(RelearnModel, "_positions", careless), Elsewhere():
        with pytest.raises(AssertionError, match="a CPU tensor of shape"):
            engine.forward_backward(batch(MICRO_BATCH).to(META))
    with Elsewhere() as device:
        torch.ones(3, device=META).sum().item()
        assert len(device.reads) == 1
