"""Plans of methods that leave much of a checkpoint frozen: what they hold, send and compute again, by hand."""

import sys

import pytest

from megamini.commands import plan
from megamini.commands.planning.clusters import GPUS, Cluster
from megamini.commands.planning.memory_plan import Layout, bytes_of
from megamini.commands.planning.subject import Subject, subject_of
from megamini.commands.planning.time_plan import communicated_bytes, times_of
from megamini.models.build import outline_of
from megamini.recipes.recipe import load_recipe
from megamini.recipes.shipped import RECIPES
from tests.models import bodies

CLUSTER = Cluster("", GPUS["a100-80gb"], 2)
WAYS = {
    "lora": ("decoder/8b", "llama", ["objective.lora.rank=4"]),
    "embeddings": ("decoder/8b", "llama", ["objective.method=embeddings", "objective.lora=null"]),
    "minipost": ("base/minipost", "roberta", ["model.exits=[1]", "model.bridge_layers=1"]),
}


def planned(way: str, folder) -> Subject:
    recipe, family, changes = WAYS[way]
    bodies.small_model(family, num_hidden_layers=4).save_pretrained(folder)
    recipe = load_recipe(RECIPES / f"{recipe}.yaml", [*changes, f"model.from_checkpoint={folder}"])
    return subject_of(recipe, bodies.VOCAB, bodies.LENGTH)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_is_what_is_built(way, tmp_path):
    """MiniPost has its mini-model in memory, and not the layers above."""
    if way == "lora":
        pytest.importorskip("peft")
    subject = planned(way, tmp_path)
    built = list(outline_of(subject.recipe, bodies.small_tokenizer(), bodies.LENGTH).parameters())
    assert sum(subject.parameters.values()) == sum(one.numel() for one in built)
    assert subject.trainable == sum(one.numel() for one in built if one.requires_grad)
    assert bytes_of(subject, CLUSTER, Layout(0, False, False, 8, 4)).weights == 2 * sum(one.numel() for one in built)


@pytest.mark.parametrize("way", WAYS)
def test_stage_3_gathers_frozen_weights_too(way, tmp_path):
    """In 4 micro-batches: all weights for forward and backward, gradients of what trains; half is another rank's."""
    subject = planned(way, tmp_path)
    whole = sum(subject.parameters.values())
    assert subject.trainable < whole
    sent = communicated_bytes(subject, CLUSTER, Layout(3, False, False, 8, 4))
    assert sent == 4 * (2 * whole + subject.trainable)
    assert communicated_bytes(subject, CLUSTER, Layout(1, False, False, 8, 4)) == 2 * subject.trainable


@pytest.mark.parametrize("way", ["lora", "embeddings"])
def test_checkpointing_computes_the_forward_pass_again(way, tmp_path):
    """Frozen matrices form no gradient of their own, so that the forward pass is half of all."""
    subject = planned(way, tmp_path)
    plain, again = (times_of(subject, CLUSTER, Layout(1, False, one, 8, 4)).compute for one in (False, True))
    assert again == pytest.approx(3 / 2 * plain)


def test_whence_the_number_of_pieces_is(tmp_path, capsys, monkeypatch):
    """What is asked for, else the checkpoint's; that of a plugged vocabulary may be asked for."""
    bodies.small_model("llama").save_pretrained(tmp_path)
    of_checkpoint = "assumed (--block-length; pieces of the checkpoint)"
    for asked, pieces, words in (
        ([], 120, of_checkpoint),
        (["--vocab-size", "90"], 90, "assumed (--vocab-size, --block-length)"),
    ):
        arguments = ["decoder/8b", f"model.from_checkpoint={tmp_path}", "--block-length", "24", *asked]
        monkeypatch.setattr(sys, "argv", ["tools/plan.py", *arguments])
        plan.main()
        printed = capsys.readouterr().out
        assert printed.startswith(f"{pieces} pieces and blocks of 24, {words}; there are no data yet in data/8b-fa")
        assert f"token embeddings {64 * pieces:,}" in printed
