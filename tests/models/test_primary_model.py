"""The primary model: one matrix for all heads, its loss, and where it comes from."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM

from megamini.errors import UserError
from megamini.models.build import build_primary
from megamini.models.primary_model import PrimaryModel
from tests.models import bodies


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_all_heads_of_a_decoder_share_the_one_output_matrix(family):
    model = bodies.small_model(family)
    primary = PrimaryModel(model, (1, 2))
    output = model.get_output_embeddings().weight
    assert (output is primary.token_embeddings) == (family not in bodies.UNTIED)
    assert [id(m) for m in primary.token_matrices] == [id(primary.token_embeddings), id(output)][
        : 2 if family in bodies.UNTIED else 1
    ]
    assert not {id(m) for m, _ in primary.hidden_matrices} & {id(m) for m in primary.token_matrices}
    ids, positions, labels, _ = bodies.small_batch()
    rows = primary.head_rows(ids, positions).detach()
    before = functional.cross_entropy(rows @ output.T, labels.repeat(3), reduction="none")
    torch.testing.assert_close(primary(ids, positions, labels)[1].flatten(), before.detach())


@pytest.mark.parametrize("family", bodies.ENCODERS)
def test_all_heads_share_the_one_matrix_and_bias(family):
    model = bodies.small_model(family)
    primary = PrimaryModel(model, (1, 2))
    matrices = [name for name, p in primary.named_parameters() if bodies.VOCAB in p.shape and p.dim() == 2]
    biases = [name for name, p in primary.named_parameters() if p.shape == (bodies.VOCAB,)]
    assert (len(matrices), len(biases)) == (1, 1)
    assert primary.token_embeddings is model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert primary.token_matrix_shape == primary.token_embeddings.shape

    ids, positions, labels, _ = bodies.small_batch()
    with torch.no_grad():
        before = primary(ids, positions, labels)[1]
        model.get_output_embeddings().bias[labels] += 3.0
        after = primary(ids, positions, labels)[1]
    assert (after.mean(1) < before.mean(1) - 1).all(), "every head sees the bias"


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_loss_and_gradients_are_the_weighted_mean_over_heads(family):
    weights = (0.1, 0.3, 0.6)
    model = bodies.small_model(family)
    primary = PrimaryModel(model, (1, 3), weights, workspace_bytes=7 * bodies.VOCAB * 4).eval()
    ids, positions, labels, _ = bodies.small_batch()
    loss, losses = primary(ids, positions, labels)
    loss.backward()
    found = {name: p.grad.clone() for name, p in primary.named_parameters() if p.grad is not None}

    primary.zero_grad()
    output = model.get_output_embeddings()
    logits = functional.linear(primary.head_rows(ids, positions), output.weight, output.bias)
    each = functional.cross_entropy(logits, labels.repeat(3), reduction="none").view(3, -1)
    expected = sum(weight * row.mean() for weight, row in zip(weights, each, strict=True))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses, each.detach())
    assert primary.head_names == ("exit_1", "exit_3", "primary")
    for name, parameter in primary.named_parameters():
        # BERT's pooler and the like take no part.
        assert (parameter.grad is None) == (name not in found), name
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_layers_above_the_exit_learn_from_the_primary_head_alone():
    primary = PrimaryModel(bodies.small_model("roberta"), (2,)).eval()
    ids, positions, _, _ = bodies.small_batch()
    primary.head_rows(ids, positions).chunk(2)[0].sum().backward()
    layers = primary.family.layer_list(primary.model)
    learns = [any(p.grad is not None and p.grad.any() for p in layer.parameters()) for layer in layers]
    assert learns == [True, True, False, False]


def test_without_exits_there_is_one_head():
    model = bodies.small_model("bert")
    primary = PrimaryModel(model)
    assert primary.head_names == ("primary",)
    ids, positions, labels, _ = bodies.small_batch()
    with torch.no_grad():
        loss, losses = primary(ids, positions, labels)
        expected = functional.cross_entropy(model(ids).logits.flatten(0, 1)[positions], labels)
    assert losses.shape == (1, len(labels))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("layer", [0, bodies.LAYERS, bodies.LAYERS + 1, -1])
def test_an_exit_that_is_not_below_the_top_is_refused(layer):
    with pytest.raises(UserError, match=f"model.exits: layer {layer} is not below the top of a body of 4 layers"):
        PrimaryModel(bodies.small_model("roberta"), (layer,))


def test_an_untied_model_is_refused():
    model = AutoModelForMaskedLM.from_config(bodies.small_config("roberta", tie_word_embeddings=False))
    with pytest.raises(UserError, match="not tied"):
        PrimaryModel(model, (2,))


# --- from a configuration -------------------------------------------------------------------------------------------


def build(block_length=bodies.LENGTH, **recipe):
    return build_primary(bodies.small_recipe(**recipe), bodies.small_tokenizer(), block_length)


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_from_scratch_the_data_decides_vocabulary_ids_and_positions(family):
    sizes = {key: value for key, value in bodies.SIZES.items() if key != "max_position_embeddings"}
    primary = build(family=family, config=sizes, dropout=0.0, exits=(2,), head_weights=[1.0, 3.0])
    config = primary.model.config
    assert (config.vocab_size, config.pad_token_id, config.num_hidden_layers) == (bodies.VOCAB, 1, 4)
    assert config.max_position_embeddings == bodies.LENGTH + (2 if "roberta" in family else 0)
    assert primary.head_weights == (0.25, 0.75)
    ids, positions, labels, _ = bodies.small_batch()
    assert primary(ids, positions, labels)[0].isfinite(), "position ids of a full block fit the table"
    again = build(family=family, config=sizes, dropout=0.0, exits=(2,))
    assert all(torch.equal(a, b) for a, b in zip(primary.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"hiden_size": 64}, "unknown key 'model.config.hiden_size'; did you mean 'hidden_size'?"),
        ({"vocab_size": 64}, "model.config.vocab_size: decided by the data; leave it out"),
        ({"is_decoder": True}, "model.config.is_decoder: the body is an encoder that sees both sides; leave it out"),
        ({"pad_token_id": 0}, "model.config.pad_token_id: decided by the data; leave it out"),
        ({"hidden_size": 66, "num_attention_heads": 4}, "model.config.hidden_size: 66 is no multiple of 4 heads"),
        (
            {"max_position_embeddings": 25},
            "25 positions are too few for blocks of 24 tokens; 26 are needed; prepare the data with --block-length 23",
        ),
        ({"hidden_size": "wide"}, "model.config"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config, expected):
    with pytest.raises(UserError) as error:
        build(family="roberta", config=config)
    assert expected in str(error.value)


@pytest.mark.parametrize("family", ["modernbert", "llama", "qwen3", "gemma", "gpt_neox"])
def test_heads_of_odd_width_are_refused_where_positions_turn_pairs_or_run(family):
    odd = {"hidden_size": 15, "num_attention_heads": 5}
    if family == "gpt_neox":  # turns a quarter of a head, which may be as odd as it likes
        primary = build(family=family, config=bodies.SIZES | odd, exits=(2,))
        assert primary.model(bodies.small_batch()[0]).logits.isfinite().all()
        return
    with pytest.raises(UserError, match="heads of 3 have no even width, which rotary positions need"):
        build(family=family, config=bodies.SIZES | odd, exits=(2,))


def test_a_width_of_heads_that_the_recipe_gives_is_checked_too():
    with pytest.raises(UserError, match="heads of 3 have no even width"):
        build(family="llama", config=bodies.SIZES | {"head_dim": 3}, exits=(2,))


# --- from a checkpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_a_checkpoint_gives_its_own_logits(family, tmp_path):
    model = bodies.small_model(family)
    model.save_pretrained(tmp_path)
    primary = build(from_checkpoint=str(tmp_path), exits=(2,)).eval()
    ids, positions, _, _ = bodies.small_batch()
    with torch.no_grad():
        torch.testing.assert_close(primary.model(ids).logits, model(ids).logits, rtol=0, atol=0)
        assert primary.head_rows(ids, positions).isfinite().all()


@pytest.fixture
def checkpoint(tmp_path):
    bodies.small_model("roberta").save_pretrained(tmp_path)
    return tmp_path


def refusal(checkpoint, **recipe):
    """The line with which a checkpoint is refused."""
    with pytest.raises(UserError) as error:
        build(from_checkpoint=str(checkpoint), **recipe)
    assert str(checkpoint) in str(error.value)
    return str(error.value)


def change_tensors(checkpoint, change):
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_another_vocabulary_is_refused(tmp_path):
    bodies.small_model("roberta", vocab_size=121).save_pretrained(tmp_path)
    assert f"its vocabulary has 121 pieces, the data's tokenizer 120; prepare the data with --tokenizer {tmp_path}" in (
        refusal(tmp_path)
    )


def test_another_tokenizer_with_as_many_pieces_is_refused(checkpoint):
    own = bodies.small_tokenizer()
    own.save_pretrained(checkpoint)
    build(from_checkpoint=str(checkpoint))
    text = (checkpoint / "tokenizer.json").read_text()
    piece = next(piece for piece in own.get_vocab() if piece not in own.all_special_tokens)
    (checkpoint / "tokenizer.json").write_text(text.replace(f'"{piece}"', f'"{piece}x"'))
    assert f"other pieces than the data's, as many though they are; prepare the data with --tokenizer {checkpoint}" in (
        refusal(checkpoint)
    )


def test_a_configuration_that_says_untied_is_refused(tmp_path):
    bodies.small_model("roberta", tie_word_embeddings=False).save_pretrained(tmp_path)
    assert "are not tied" in refusal(tmp_path)


def test_a_file_with_an_output_matrix_of_its_own_is_refused(checkpoint):
    def untie(tensors):
        tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"] + 1

    change_tensors(checkpoint, untie)
    assert "lm_head.decoder.weight differs from roberta.embeddings.word_embeddings.weight: not tied" in (
        refusal(checkpoint)
    )


def test_a_file_with_an_equal_copy_of_the_matrix_is_taken(checkpoint):
    def repeat(tensors):
        tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"].clone()

    change_tensors(checkpoint, repeat)
    build(from_checkpoint=str(checkpoint))


def test_missing_tensors_are_named(checkpoint):
    def drop_head(tensors):
        for name in [name for name in tensors if name.startswith("lm_head.dense")]:
            del tensors[name]

    change_tensors(checkpoint, drop_head)
    assert "misses lm_head.dense.bias and 1 other tensors" in refusal(checkpoint)


def test_another_family_is_refused(tmp_path):
    config = AutoConfig.for_model("distilbert", vocab_size=120, dim=16, n_heads=2, n_layers=2, hidden_dim=16)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="family 'distilbert' is not supported"):
        build(from_checkpoint=str(tmp_path))


def test_too_few_positions_are_refused(checkpoint):
    with pytest.raises(UserError, match="40 positions are too few for blocks of 64 tokens; 66 are needed"):
        build(from_checkpoint=str(checkpoint), block_length=64)


def test_an_exit_above_the_checkpoints_layers_is_refused(checkpoint):
    with pytest.raises(UserError, match="layer 4 is not below the top of a body of 4 layers"):
        build(from_checkpoint=str(checkpoint), exits=(4,))


@pytest.mark.parametrize("broken", ["folder", "config", "weights", "torn config", "torn weights"])
def test_what_is_no_checkpoint_is_refused(checkpoint, broken):
    config, weights = checkpoint / "config.json", checkpoint / "model.safetensors"
    if broken == "folder":
        refusal(checkpoint / "none")
    elif broken == "config":
        config.unlink()
    elif broken == "weights":
        weights.unlink()
    elif broken == "torn config":
        config.write_text(config.read_text()[:100])
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    if broken != "folder":
        refusal(checkpoint)
