"""Cases of real people's checkpoints: matrices larger than their tokenizers, torn indexes, shared pads."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from megamini.errors import UserError
from megamini.models.build import build_primary
from megamini.models.lineage import lineage_of, same_lineage
from megamini.models.pretrained import load_config, load_lm, weights_fingerprint
from megamini.recipes.recipe import Recipe
from tests.models import bodies

VOCAB = bodies.VOCAB


def recipe(checkpoint, method="mlm", **model):
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"from_checkpoint": str(checkpoint), **model},
            "data": {"path": "data"},
            "objective": {"method": method},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"duration": "10 updates", "warmup": "1 updates"},
            "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        }
    )


@pytest.mark.parametrize("rows", [VOCAB + 8, 128, 192])
@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_a_matrix_larger_than_its_tokenizer_trains_without_the_rows_of_no_piece(family, rows, tmp_path):
    whole, tokenizer = bodies.small_model(family, vocab_size=rows), bodies.small_tokenizer()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids, positions, labels, _ = bodies.small_batch()
    plain = "causal" if family in bodies.DECODERS else "mlm"
    for method, model in {
        plain: {},
        "minijoint": {"exits": [2]},
        "minipost": {"exits": [1], "bridge_layers": 1},
    }.items():
        primary = build_primary(recipe(tmp_path, method, **model), tokenizer, bodies.LENGTH).eval()
        matrix, bias = primary.token_embeddings, primary.model.get_output_embeddings().bias
        assert matrix.equal(whole.get_input_embeddings().weight[:VOCAB]) and primary.model.config.vocab_size == VOCAB
        if family in bodies.DECODERS:
            assert bias is None
            output = primary.model.get_output_embeddings().weight
            assert output.equal(whole.get_output_embeddings().weight[:VOCAB])
        else:
            assert bias.equal(whole.get_output_embeddings().bias[:VOCAB])
        loss, _ = primary(ids, positions, labels)
        loss.backward()
        # A pack learned over the one fits the other.
        assert same_lineage(lineage_of(primary.model, tokenizer), lineage_of(whole, tokenizer))
        if method == plain:  # the library's own logits, without the columns that no token has
            torch.testing.assert_close(primary.model(ids).logits, whole(ids).logits[..., :VOCAB])


def test_names_of_an_earlier_library_are_cut_too(tmp_path):
    whole, tokenizer = bodies.small_model("bert", vocab_size=128), bodies.small_tokenizer()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    renamed = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, path, metadata={"format": "pt"})
    primary = build_primary(recipe(tmp_path), tokenizer, bodies.LENGTH)
    assert primary.token_embeddings.equal(whole.get_input_embeddings().weight[:VOCAB])


@pytest.mark.parametrize("rows, words", [(VOCAB - 20, "rows for the 120 pieces"), (64, "rows for the 120 pieces")])
def test_a_matrix_smaller_than_its_tokenizer_is_refused(rows, words, tmp_path):
    bodies.small_model("roberta", vocab_size=rows).save_pretrained(tmp_path)
    bodies.small_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words):
        build_primary(recipe(tmp_path), bodies.small_tokenizer(), bodies.LENGTH)


# --- indexes of shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'{"weight_map": {"a": "model-0',
        b"",
        b"[]",
        b'{"metadata": {}}',
        b'{"weight_map": ["a"]}',
        b'{"weight_map": {"a": 5}}',
        b'{"weight_map": {"a": "../secret.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": {"a": "pytorch_model.bin"}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_torn_or_strange_index_is_one_line(content, tmp_path):
    model = bodies.small_model("roberta")
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    index = tmp_path / "model.safetensors.index.json"
    assert json.loads(index.read_text())["weight_map"]
    bodies.small_tokenizer().save_pretrained(tmp_path)
    index.write_bytes(content)
    config = load_config(str(tmp_path), "here", None)
    for read in (
        lambda: build_primary(recipe(tmp_path), bodies.small_tokenizer(), bodies.LENGTH),
        lambda: load_lm(str(tmp_path), config, "sdpa", "here"),
        lambda: weights_fingerprint(str(tmp_path)),
    ):
        with pytest.raises(UserError, match=r"index\.json: [^\n]*fetch it again$"):
            read()


def test_a_missing_shard_is_one_line(tmp_path):
    bodies.small_model("roberta").save_pretrained(tmp_path, max_shard_size="60KB")
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"^[^\n]*$"):
        build_primary(recipe(tmp_path), bodies.small_tokenizer(), bodies.LENGTH)


# --- pads of another role -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["eos", "bos"])
@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_a_token_that_also_pads_learns_its_row(family, pad, tmp_path):
    tokenizer = bodies.small_tokenizer()
    tokenizer.pad_token = getattr(tokenizer, f"{pad}_token")
    config = {**bodies.SIZES, **bodies.EXTRA.get(family, {})}
    primary = build_primary(bodies.small_recipe(family=family, config=config), tokenizer, bodies.LENGTH)
    number = getattr(tokenizer, f"{pad}_token_id")
    assert primary.model.config.pad_token_id == number
    assert primary.token_embeddings[number].abs().sum() > 0  # drawn, as other rows are
    ids, positions, _, _ = bodies.small_batch()
    ids[:, 0], ids[:, -1] = tokenizer.bos_token_id, tokenizer.eos_token_id
    primary.model.get_output_embeddings().weight.requires_grad_(True)
    rows = primary.head_rows(ids, positions)  # without the output matrix: what comes in through the input
    rows.square().sum().backward()
    assert primary.token_embeddings.grad[number].abs().sum() > 0


def test_a_pad_of_its_own_starts_as_zeros_as_before():
    tokenizer = bodies.small_tokenizer()
    recipe_ = bodies.small_recipe(family="roberta", config=bodies.SIZES)
    primary = build_primary(recipe_, tokenizer, bodies.LENGTH)
    assert primary.token_embeddings[1].abs().sum() == 0
    assert primary.model.get_input_embeddings().padding_idx == 1


def test_auto_reads_what_was_trained(tmp_path):
    """What was cut is an ordinary checkpoint afterwards."""
    from megamini.models.export import export_checkpoint

    bodies.small_model("roberta", vocab_size=128).save_pretrained(tmp_path / "whole")
    tokenizer = bodies.small_tokenizer()
    tokenizer.save_pretrained(tmp_path / "whole")
    primary = build_primary(recipe(tmp_path / "whole"), tokenizer, bodies.LENGTH)
    export_checkpoint(primary.model, tokenizer, tmp_path / "out", {}, "card")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == VOCAB
