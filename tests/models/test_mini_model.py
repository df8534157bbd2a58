"""Mini-models: of an exit, and bridged. What is copied is the primary's to the bit, and nothing else trains."""

from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from megamini.errors import UserError
from megamini.models import build
from megamini.models.build import build_primary
from megamini.models.families import family_of
from megamini.models.materialise import materialise
from megamini.models.mini_model import bottom_weights, extract_mini_model, mini_config
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.recipe import Recipe
from tests.models import bodies


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_a_mini_models_logits_are_those_of_the_bottom_layers_and_the_exits_head(family):
    model = bodies.small_model(family)
    primary = PrimaryModel(model, (1, 3)).eval()
    for number, layer in enumerate((1, 3)):
        mini = extract_mini_model(primary, layer)
        ids, _, _, mask = bodies.small_batch(padded=True)
        everywhere = torch.arange(ids.numel())
        output = model.get_output_embeddings()
        with torch.no_grad():
            rows = primary.head_rows(ids, everywhere, mask).chunk(3)[number]
            expected = functional.linear(rows, output.weight, output.bias).view(*ids.shape, -1)
            assert torch.equal(mini(ids, attention_mask=mask).logits, expected)
        if family in bodies.UNTIED:
            assert torch.equal(mini.get_output_embeddings().weight, output.weight)
        assert mini.config.num_hidden_layers == layer == len(family_of(mini.config).layer_list(mini))


def bridged_mini_model(model, layer, bridge_layers):
    """The bottom layers of a model in memory, and fresh ones."""
    with torch.device("meta"):
        mini = bodies.auto_class(model.config.model_type).from_config(mini_config(model.config, layer + bridge_layers))
    family = family_of(model.config)
    materialise(mini, mini, family.layer_list(mini), None, bottom_weights(model.state_dict().get, family, layer))
    return mini


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_a_bridge_of_nothing_over_all_layers_is_the_primary(family):
    model = bodies.small_model(family)
    ids, _, _, mask = bodies.small_batch(padded=True)
    bridged = bridged_mini_model(model, bodies.LAYERS, 0).eval()
    with torch.no_grad():
        assert torch.equal(bridged(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_a_bridge_is_fresh_and_the_rest_a_copy(family):
    model = bodies.small_model(family)
    torch.manual_seed(3)
    mini = bridged_mini_model(model, 2, 1)
    assert mini.config.num_hidden_layers == 3
    tied = mini.get_output_embeddings().weight is mini.get_input_embeddings().weight
    assert tied == (family not in bodies.UNTIED)
    if family == "modernbert":
        assert mini.config.layer_types == model.config.layer_types[:3]
    bridge = f"{family_of(model.config).layers}.2."
    theirs = model.state_dict()
    for name, tensor in mini.state_dict().items():
        if not name.startswith(bridge):
            assert torch.equal(tensor, theirs[name]), name
            assert tensor.data_ptr() != theirs[name].data_ptr(), name
        elif name.endswith("weight") and tensor.dim() == 2:
            assert 0 < tensor.std() < 0.05 and not torch.equal(tensor, theirs[name]), name


def frozen_recipe(folder, method, **model):
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"from_checkpoint": str(folder), **model},
            "data": {"path": "data"},
            "objective": {"method": method},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"duration": "10 updates", "warmup": "1 updates"},
            "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        }
    )


def learns(primary):
    """Names of what gets a gradient; the loss is looked at on the way."""
    ids, positions, labels, _ = bodies.small_batch()
    loss, losses = primary(ids, positions, labels)
    assert losses.shape[0] == 1
    loss.backward()
    assert all(p.grad is None for p in primary.parameters() if not p.requires_grad)
    return {name for name, p in primary.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_minipost_trains_the_bridge_alone(family, tmp_path):
    model = bodies.small_model(family)
    model.save_pretrained(tmp_path)
    recipe = frozen_recipe(tmp_path, "minipost", exits=[2], bridge_layers=1)
    primary = build_primary(recipe, bodies.small_tokenizer(), bodies.LENGTH)
    bridge = f"model.{family_of(model.config).layers}.2."
    assert primary.head_names == ("exit_2",)
    found = learns(primary)
    assert found and all(name.startswith(bridge) for name in found)
    assert {name for name, p in primary.named_parameters() if p.requires_grad} >= found


def test_a_bridge_above_the_top_is_refused(tmp_path):
    bodies.small_model("roberta").save_pretrained(tmp_path)
    recipe = frozen_recipe(tmp_path, "minipost", exits=[3], bridge_layers=2)
    with pytest.raises(UserError, match="3 layers and a bridge of 2 are more than the body's 4"):
        build_primary(recipe, bodies.small_tokenizer(), bodies.LENGTH)


@pytest.mark.parametrize("in_one_file", [True, False])
@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_a_checkpoint_read_tensor_by_tensor_is_the_librarys(family, in_one_file, tmp_path):
    """Body and bridge, and what goes on training as a whole; the library's reader is for what has other names."""
    size = "1GB" if in_one_file else "60KB"
    bodies.small_model(family).save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors").exists() == in_one_file
    recipes = [frozen_recipe(tmp_path, "minipost", exits=[2], bridge_layers=1)]
    recipes += [frozen_recipe(tmp_path, "minijoint", exits=[1])]
    for recipe in recipes:
        with mock.patch.object(build, "load_lm", side_effect=AssertionError("read as a whole")):
            ours = build_primary(recipe, bodies.small_tokenizer(), bodies.LENGTH)
        with mock.patch.object(build, "stored_weights", return_value=None):
            theirs = build_primary(recipe, bodies.small_tokenizer(), bodies.LENGTH)
        expected = dict(theirs.named_parameters())
        assert expected.keys() == dict(ours.named_parameters()).keys()
        for name, parameter in ours.named_parameters():
            assert parameter.equal(expected[name]) and parameter.requires_grad == expected[name].requires_grad, name


def test_other_names_than_the_librarys_are_left_to_it(tmp_path):
    """As BERT's first checkpoints have them: gamma and beta, which the library renames."""
    model = bodies.small_model("bert")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(renamed, path, metadata={"format": "pt"})
    primary = build_primary(frozen_recipe(tmp_path, "minijoint", exits=[1]), bodies.small_tokenizer(), bodies.LENGTH)
    for name, tensor in model.state_dict().items():
        assert torch.equal(primary.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_a_fresh_head_trains_alone_over_a_body_that_has_none(family, tmp_path):
    model = bodies.small_model(family)
    model.base_model.save_pretrained(tmp_path)  # as sentence encoders are kept
    primary = build_primary(frozen_recipe(tmp_path, "head"), bodies.small_tokenizer(), bodies.LENGTH)
    for name, parameter in model.base_model.named_parameters():
        if "pooler" not in name:
            assert torch.equal(primary.model.base_model.get_parameter(name), parameter), name
    found = learns(primary)
    body = f"model.{model.base_model_prefix}."
    assert found and not [name for name in found if name.startswith(body)]
    assert any(p.shape == (bodies.VOCAB,) for name, p in primary.named_parameters() if name in found)


def test_a_head_is_neither_made_twice_nor_missing_unnoticed(tmp_path):
    model = bodies.small_model("bert")
    model.save_pretrained(tmp_path / "whole")
    model.base_model.save_pretrained(tmp_path / "bare")
    tokenizer = bodies.small_tokenizer()
    with pytest.raises(UserError, match="has a masked-LM head of its own"):
        build_primary(frozen_recipe(tmp_path / "whole", "head"), tokenizer, bodies.LENGTH)
    bare = frozen_recipe(tmp_path / "bare", "minipost", exits=[2], bridge_layers=1)
    with pytest.raises(UserError, match="train one first"):
        build_primary(bare, tokenizer, bodies.LENGTH)
