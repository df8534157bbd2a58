"""What a recipe may ask of a decoder, and of an encoder: the family decides what is predicted."""

import sys
from pathlib import Path

import pytest

from megamini.commands.planning.subject import subject_of
from megamini.errors import UserError
from megamini.models.build import body_config, build_primary, is_causal
from megamini.recipes.objective import ObjectiveSection
from megamini.recipes.recipe import Recipe, load_recipe
from megamini.recipes.sections import ModelSection
from megamini.recipes.shipped import RECIPES
from megamini.training.checkpoints.identity import check_identity, defaults_of, identity_of
from megamini.training.pretraining import build_setup
from tests.models import bodies


def recipe(objective, **model):
    return Recipe.model_validate(
        {
            "name": "test",
            "model": model,
            "data": {"path": "data"},
            "objective": objective,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"duration": "10 updates", "warmup": "1 updates"},
            "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        }
    )


BAD = [
    ("llama", {"method": "mlm"}, "objective.method mlm: the model is a decoder; use causal"),
    ("roberta", {"method": "causal"}, "objective.method causal: the model is an encoder; use mlm"),
    ("llama", {"method": "causal", "mask_share": 0.3}, "objective.mask_share: a decoder masks nothing"),
    ("gemma", {"method": "causal", "replace_with_mask": 0.5}, "objective.replace_with_mask: a decoder masks nothing"),
    ("bert", {"method": "mlm", "predict_separators": False}, "objective.predict_separators: goes with decoders alone"),
]


@pytest.mark.parametrize("family, objective, words", BAD)
def test_what_goes_with_the_other_kind_is_refused(family, objective, words):
    with pytest.raises(ValueError, match=words):
        recipe(objective, family=family)


@pytest.mark.parametrize(
    "family, objective, words", [*BAD, ("llama", {"method": "head"}, "method head: a decoder has")]
)
def test_so_it_is_where_a_checkpoint_says_what_it_is(family, objective, words, tmp_path):
    bodies.small_config(family).save_pretrained(tmp_path)
    read = recipe(objective, from_checkpoint=str(tmp_path))
    assert is_causal(read.model) == (family in bodies.DECODERS)
    with pytest.raises(UserError, match=words):
        build_setup(read, 1)


def test_the_defaults_of_both_kinds_read_back():
    for family in bodies.FAMILIES:
        method = "causal" if family in bodies.DECODERS else "mlm"
        read = recipe({"method": method}, family=family)
        assert Recipe.model_validate(read.model_dump(mode="json")) == read
        assert ObjectiveSection(method=method).problem_of(family in bodies.DECODERS) is None


def config_of(family, **config):
    section = ModelSection(family=family, config=config)
    return body_config(section, bodies.small_tokenizer(), bodies.LENGTH)


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_heads_that_a_recipe_leaves_open_fit_its_sizes(family):
    """The library's defaults fit its default sizes alone: 32 heads of keys and values, 256 numbers in each."""
    config = config_of(family, hidden_size=48, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64)
    if family != "gpt_neox":
        assert config.num_key_value_heads == 4
    assert getattr(config, "head_dim", 12) == 12
    assert config.pad_token_id == 1 and config.eos_token_id == 2
    assert config.max_position_embeddings == bodies.LENGTH


@pytest.mark.parametrize(
    "config, words",
    [
        ({"num_key_value_heads": 3}, "model.config.num_key_value_heads: 4 heads are no multiple of 3"),
        ({"num_key_value_heads": 0}, "model.config.num_key_value_heads: must be at least 1, not 0"),
        ({"head_dim": 11}, r"model.config: .*RoPE requires an even rotary dimension, but got `head_dim`=11"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: a decoder that sees both sides"),
    ],
)
def test_bodies_that_cannot_be(config, words):
    with pytest.raises(UserError, match=words):
        config_of("gemma", hidden_size=48, num_attention_heads=4, num_hidden_layers=2, **config)


def test_a_checkpoint_that_sees_both_sides_is_refused(tmp_path):
    model = bodies.small_model("gemma")
    model.config.use_bidirectional_attention = True
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"sees both sides \(use_bidirectional_attention\) predicts no next token"):
        build_primary(recipe({"method": "causal"}, from_checkpoint=str(tmp_path)), bodies.small_tokenizer(), 24)


def test_the_small_decoder_that_comes_along():
    """12 layers or fewer, Muon, an exit; about 6 million parameters with 8,000 pieces."""
    read = load_recipe(RECIPES / "decoder/pretrain.yaml")
    assert read.model.family in bodies.DECODERS and read.optimizer.name == "muon"
    subject = subject_of(read, vocab_size=8_000, block_length=128)
    assert subject.shape.layers <= 12 and subject.shape.tied
    assert sum(subject.parameters.values()) == 6_259_584
    assert subject.mask_schedule.most_masked == 126
    exit_shape, standard = subject.exits, subject.flops("standard", ())
    assert 1.9 < standard / subject.flops("mini", exit_shape) < 1.91  # less than 3: the head is at every position


@pytest.mark.parametrize("began", [True, False])
def test_a_resumed_run_predicts_separators_as_it_began(began):
    """The key is left out where it says nothing new, so that identities of encoders are as ever."""
    one, other = (
        recipe({"method": "causal", "predict_separators": value}, family="llama") for value in (began, not began)
    )
    saved = identity_of(one, "data")
    assert ("predict_separators" in saved["objective"]) == (not began)
    check_identity(identity_of(one, "data"), saved, Path("step-1"), defaults_of(one))
    with pytest.raises(UserError, match=rf"objective\.predict_separators is {not began}, but .* with {began}"):
        check_identity(identity_of(other, "data"), saved, Path("step-1"), defaults_of(other))


CONTINUED = [
    ({"method": "lora"}, {"family": "llama"}, "objective.method lora builds on model.from_checkpoint"),
    ({"method": "embeddings"}, {"family": "llama"}, "objective.method embeddings builds on model.from_checkpoint"),
    ({"method": "lora"}, {"from_checkpoint": "m", "exits": [1]}, "needs model.exits, and lora has none"),
    ({"method": "causal", "lora": {}}, {"family": "llama"}, "objective.lora goes with objective.method: lora"),
    ({"method": "lora", "lora": {"rank": 0}}, {"from_checkpoint": "m"}, "greater than or equal to 1"),
]


@pytest.mark.parametrize("objective, model, words", CONTINUED)
def test_what_continued_training_needs(objective, model, words):
    with pytest.raises(ValueError, match=words):
        recipe(objective, **model)


@pytest.mark.parametrize("method", ["lora", "embeddings"])
def test_continued_training_is_for_decoders_and_adamw(method, tmp_path):
    bodies.small_config("roberta").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"objective.method {method}: goes with decoders alone; .* use mlm"):
        build_setup(recipe({"method": method}, from_checkpoint=str(tmp_path)), 1)
    values = recipe({"method": method}, from_checkpoint="m").model_dump(mode="json")
    with pytest.raises(ValueError, match=r"optimizer\.name muon: goes with methods that train whole layers"):
        Recipe.model_validate({**values, "optimizer": {"name": "muon", "learning_rate": 1e-3}})


def test_lora_without_peft_is_one_line(tmp_path, monkeypatch):
    bodies.small_model("llama").save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs the package peft, which is not installed; pip install peft=="):
        build_primary(recipe({"method": "lora"}, from_checkpoint=str(tmp_path)), bodies.small_tokenizer(), 24)


def test_identity_knows_lora_by_its_settings(tmp_path):
    """Said or by default; and of a run without LoRA it is what it was before there was any."""
    bodies.small_model("llama").save_pretrained(tmp_path)
    default, said, other = (
        identity_of(recipe({"method": "lora", **more}, from_checkpoint=str(tmp_path)), "data")
        for more in ({}, {"lora": {"rank": 8, "alpha": 32}}, {"lora": {"rank": 4}})
    )
    assert default == said
    with pytest.raises(UserError, match=r"objective\.lora is .*4.*, but .* was trained with .*8"):
        check_identity(other, default, Path("step-1"), defaults_of(recipe({"method": "causal"}, family="llama")))
    assert "lora" not in identity_of(recipe({"method": "causal"}, family="llama"), "data")["objective"]
