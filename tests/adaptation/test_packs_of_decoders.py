"""Decoders: embeddings learned as the library's own model would learn them, and packs with one matrix or two."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.plugging import unplug
from megamini.adaptation.relearning.model import RelearnModel
from megamini.adaptation.starting_points.initialise import initialise
from megamini.adaptation.starting_points.vocabularies import Source, Target
from megamini.data.batches import Batch
from megamini.errors import UserError
from megamini.models.lineage import check_lineage, lineage_of, same_lineage
from tests.models import bodies
from tests.models.test_next_token_loss import next_tokens

TOKENIZER = bodies.small_tokenizer()
VOCAB, WIDTH = bodies.VOCAB, bodies.WIDTH
PIECES = VOCAB + 30
OF_PACK = copy.deepcopy(TOKENIZER)
OF_PACK.add_tokens([f"x{number}" for number in range(30)])


def matrices(family, pieces=PIECES, seed=1):
    """A token matrix, and an output matrix or None."""
    draw = torch.Generator().manual_seed(seed)
    matrix, output = (torch.randn(pieces, WIDTH, generator=draw) * 0.3 for _ in range(2))
    return matrix, output if family in bodies.UNTIED else None


def pack_of(model, pieces=PIECES, seed=1):
    matrix, output = matrices(model.config.model_type, pieces, seed)
    return LanguagePack("de", matrix, torch.zeros(pieces), OF_PACK, lineage_of(model, TOKENIZER), {}, output)


def with_matrices(body, matrix, output):
    """The library's own model with these matrices."""
    model = copy.deepcopy(body)
    model.resize_token_embeddings(len(matrix), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(matrix)
    if output is not None:
        model.get_output_embeddings().weight.data.copy_(output)
    return model.eval()


def relearned(body, matrix, output, **options):
    starts = {"de": (matrix.clone(), torch.zeros(len(matrix)))}
    outputs = None if output is None else {"de": output.clone()}
    return RelearnModel(copy.deepcopy(body), starts, train_bias=False, outputs=outputs, **options)


@pytest.mark.parametrize("separators", [True, False])
@pytest.mark.parametrize("family", bodies.DECODERS)
def test_loss_and_gradients_are_those_of_the_librarys_model(family, separators):
    body, (matrix, output) = bodies.small_model(family), matrices(family)
    plain = with_matrices(body, matrix, output)
    ids, positions, labels, weights, _ = next_tokens(separators)
    wanted = ids.clone()
    wanted[:, -1] = -100
    if not separators:
        wanted[wanted == 2] = -100
    expected = plain(input_ids=ids, labels=wanted, use_cache=False).loss
    expected.backward()

    model = relearned(body, matrix, output).eval()
    loss, losses = model(ids, positions, labels, weights=weights * len(weights) / weights.sum())
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses.mean(), expected.detach())
    gradient = plain.get_input_embeddings().weight.grad
    torch.testing.assert_close(model.matrices["de"].grad, gradient, rtol=1e-4, atol=1e-6)
    if output is not None:
        gradient = plain.get_output_embeddings().weight.grad
        torch.testing.assert_close(model.outputs["de"].grad, gradient, rtol=1e-4, atol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"_matrices.0"} | ({"_outputs.0"} if output is not None else set())
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
    assert [len(group) for group in model.clipped_together] == [len(trained)]
    assert len(model.token_matrices) == len(trained)


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_padded_blocks_are_read_as_the_library_reads_them(family):
    body, (matrix, output) = bodies.small_model(family), matrices(family)
    ids, positions, labels, _, mask = next_tokens(padded=True)
    model = relearned(body, matrix, output, primary=bodies.small_model(family)).eval()
    with torch.no_grad():
        logits = with_matrices(body, matrix, output)(ids, attention_mask=mask).logits.flatten(0, 1)[positions]
        expected = functional.cross_entropy(logits, labels, reduction="none")
        for learned_over in (model.body, model.primary):
            found = model.losses_of("de", Batch(ids, positions, labels, attention_mask=mask), learned_over)
            torch.testing.assert_close(found, expected[None])


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_a_plugged_decoder_speaks_with_the_packs_matrices_and_is_unplugged_exactly(family, tmp_path):
    model = bodies.small_model(family)
    before, config = {n: t.clone() for n, t in model.state_dict().items()}, model.config.to_dict()
    pack_of(model).save(tmp_path / "de")
    assert ("output_embeddings" in load_file(tmp_path / "de/embeddings.safetensors")) == (family in bodies.UNTIED)
    pack = LanguagePack.load(tmp_path / "de")
    assert all(a.equal(b) for a, b in zip(pack.tensors, pack_of(model).tensors, strict=True))
    expected = with_matrices(model, pack.token_embeddings, pack.output_embeddings)
    plug(model, TOKENIZER, pack)
    ids = torch.randint(5, PIECES, (2, 12))
    assert torch.equal(model(ids).logits, expected(ids).logits)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (family not in bodies.UNTIED) and model.config.vocab_size == PIECES
    # The body is the source's, bit for bit.
    for name, tensor in model.state_dict().items():
        if not name.endswith(("lm_head.weight", "embed_tokens.weight", "embed_in.weight")):
            assert torch.equal(tensor, before[name]), name
    assert unplug(model) is TOKENIZER
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.config.to_dict() == config


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_a_descendant_of_the_same_embeddings_takes_the_pack(family, tmp_path):
    """As tuned on instructions, or on a task, with frozen token matrices."""
    base = bodies.small_model(family)
    pack = pack_of(base)
    base.save_pretrained(tmp_path)
    of_tokens = ("lm_head.weight", "embed_tokens.weight", "embed_in.weight", "score.weight")
    kinds = [AutoModelForCausalLM.from_pretrained(tmp_path)]
    kinds.append(AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3))
    for tuned in kinds:
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if not name.endswith(of_tokens):
                    parameter.add_(0.01)
        plug(tuned, TOKENIZER, pack)
        assert torch.equal(tuned.get_input_embeddings().weight, pack.token_embeddings)
    if family in bodies.UNTIED:
        assert torch.equal(kinds[0].get_output_embeddings().weight, pack.output_embeddings)


def test_another_output_matrix_is_another_lineage():
    model, other = bodies.small_model("llama"), bodies.small_model("llama")
    other.get_output_embeddings().weight.data[7, 3] += 0.5
    assert not same_lineage(lineage_of(model, TOKENIZER), lineage_of(other, TOKENIZER))
    with pytest.raises(UserError, match="learned beside other token embeddings"):
        plug(other, TOKENIZER, pack_of(model))
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert same_lineage(lineage_of(model, TOKENIZER), lineage_of(half, TOKENIZER))
    with pytest.raises(UserError, match="here: not a lineage"):
        check_lineage({**lineage_of(model, TOKENIZER), "output_sha256": 3}, "here")


def test_a_pack_with_one_matrix_for_a_model_with_two_and_the_other_way_round():
    untied, tied = bodies.small_model("llama"), bodies.small_model("qwen3")
    with pytest.raises(UserError, match="holds no output matrix, and this model's is not its token matrix"):
        plug(untied, TOKENIZER, replace(pack_of(untied), output_embeddings=None))
    matrix = torch.randn(PIECES, WIDTH)
    with pytest.raises(UserError, match="holds an output matrix, and this model's is its token matrix"):
        plug(tied, TOKENIZER, replace(pack_of(tied), output_embeddings=matrix))
    with pytest.raises(UserError, match=r"an output matrix of shape .* does not fit token embeddings"):
        replace(pack_of(untied), output_embeddings=matrix[:5])
    with pytest.raises(UserError, match="its output matrix hold values that are no finite numbers"):
        replace(pack_of(untied), output_embeddings=matrix * float("nan"))


@pytest.mark.parametrize("kind", ["random", "overlap", "subword", "combined"])
def test_rows_of_an_output_matrix_start_as_those_of_the_token_matrix_do(kind):
    model = bodies.small_model("llama")
    matrix, output = (m.detach() for m in (model.get_input_embeddings().weight, model.get_output_embeddings().weight))
    texts = np.random.default_rng(0).integers(5, VOCAB, (40, 30))
    target = Target(TOKENIZER, np.bincount(texts.ravel(), minlength=VOCAB), lambda: list(texts))
    own = [initialise(kind, Source(one, None, TOKENIZER), target, seed) for seed, one in ((0, matrix), (1, output))]
    start = initialise(kind, Source(matrix, None, TOKENIZER, output), target, 0)
    assert torch.equal(start.matrix, own[0].matrix) and torch.equal(start.output, own[1].matrix)
    assert not torch.equal(start.matrix, start.output)
    if kind == "overlap":  # the same vocabulary: every row is copied
        assert torch.equal(start.matrix, matrix) and torch.equal(start.output, output)
