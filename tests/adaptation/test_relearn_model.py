"""Relearning: the library's own model with these embeddings, languages that do not touch one another, a frozen body."""

import copy

import pytest
import torch
from torch.nn import functional

from megamini.adaptation.relearning.model import RelearnModel
from megamini.data.batches import Batch
from megamini.recipes.optimizer import OptimizerSection
from megamini.recipes.sections import TrainingSection
from megamini.training.engines.plain_engine import PlainEngine
from tests.models import bodies


def start(pieces, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(pieces, bodies.WIDTH, generator=draw) * 0.3, torch.randn(pieces, generator=draw)


def plain_model(body, matrix, bias):
    """The library's own masked LM with these embeddings."""
    model = copy.deepcopy(body)
    model.resize_token_embeddings(len(matrix), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(matrix)
    model.get_output_embeddings().bias.data.copy_(bias)
    model.tie_weights()
    return model.eval()


def batch_of(pieces, seed, padded=False):
    ids, positions, labels, mask = bodies.small_batch(padded=padded)
    draw = torch.Generator().manual_seed(seed)
    fresh = torch.randint(5, pieces, ids.shape, generator=draw)
    ids = torch.where(ids == 1, ids, fresh)
    return ids, positions, labels % pieces, mask


def side_by_side(*batches):
    offsets = [number * batches[0][0].numel() for number in range(len(batches))]
    ids, labels = torch.cat([b[0] for b in batches]), torch.cat([b[2] for b in batches])
    return ids, torch.cat([b[1] + offset for b, offset in zip(batches, offsets, strict=True)]), labels


@pytest.mark.parametrize("family", bodies.ENCODERS)
def test_loss_and_gradients_are_those_of_the_librarys_model(family):
    body = bodies.small_model(family)
    matrix, bias = start(90, 1)
    plain = plain_model(body, matrix, bias)
    ids, positions, labels, _ = batch_of(90, 2)
    wanted = torch.full_like(ids, -100).flatten()
    wanted[positions] = labels
    expected = plain(ids, labels=wanted.view_as(ids)).loss
    expected.backward()

    model = RelearnModel(copy.deepcopy(body), {"de": (matrix.clone(), bias.clone())}).eval()
    loss, losses = model(ids, positions, labels)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(losses.mean(), expected.detach())
    gradient = plain.get_input_embeddings().weight.grad.clone()
    ours = model.matrices["de"].grad
    assert not (ids == body.config.pad_token_id).any(), "the library's look-up gives the pad row no gradient"
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.biases["de"].grad, plain.get_output_embeddings().bias.grad, rtol=1e-4, atol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"_matrices.0", "_biases.0"}
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)


@pytest.mark.parametrize("family", bodies.ENCODERS)
def test_padded_blocks_are_read_as_the_library_reads_them(family):
    body = bodies.small_model(family)
    matrix, bias = start(90, 1)
    plain = plain_model(body, matrix, bias)
    ids, positions, labels, mask = batch_of(90, 2, padded=True)
    model = RelearnModel(copy.deepcopy(body), {"de": (matrix, bias)}).eval()
    with torch.no_grad():
        logits = plain(ids, attention_mask=mask).logits.flatten(0, 1)[positions]
        expected = functional.cross_entropy(logits, labels, reduction="none")
        found = model.losses_of("de", Batch(ids, positions, labels, attention_mask=mask), model.body)
    torch.testing.assert_close(found, expected[None])


def test_languages_side_by_side_do_not_touch_one_another():
    body, starts = bodies.small_model("roberta"), {"de": start(90, 1), "it": start(130, 2), "da": start(60, 3)}
    batches = {name: batch_of(len(matrix), n)[:3] for n, (name, (matrix, _)) in enumerate(starts.items())}
    together = RelearnModel(copy.deepcopy(body), copy.deepcopy(starts)).eval()
    loss, losses = together(*side_by_side(*batches.values()))
    loss.backward()
    total = 0.0
    for number, (name, values) in enumerate(starts.items()):
        alone = RelearnModel(copy.deepcopy(body), {name: copy.deepcopy(values)}).eval()
        own, own_losses = alone(*batches[name])
        own.backward()
        total += own.item()
        torch.testing.assert_close(losses[number], own_losses[0])
        for part in ("matrices", "biases"):
            grad, expected = getattr(together, part)[name].grad, getattr(alone, part)[name].grad
            torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)
    assert loss.item() == pytest.approx(total, rel=1e-6)
    assert [len(group) for group in together.clipped_together] == [2, 2, 2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_no_number_holds_up_its_own_language_only(precision):
    """The others move as they do without it, and the update counts as one that was not applied."""
    starts = {"de": start(90, 1), "it": start(130, 2)}
    batch = Batch(*side_by_side(*(batch_of(len(matrix), n)[:3] for n, (matrix, _) in enumerate(starts.values()))))
    training = TrainingSection(global_batch=1, micro_batch=1, precision=precision)
    moved = {}
    for poisoned in (None, "it"):
        model = RelearnModel(bodies.small_model("roberta"), copy.deepcopy(starts))
        engine = PlainEngine(model, OptimizerSection(learning_rate=0.1), training, 1, torch.device("cpu"))
        model.eval()
        for update in range(2):
            engine.forward_backward(batch)
            if poisoned and update == 0:
                engine._masters[1].grad[3, 0] = torch.nan  # the matrix of "it"
            assert engine.step(0.1).applied == (poisoned is None or update > 0)
        moved[poisoned] = {name: engine.trained_value(matrix) for name, matrix in model.matrices.items()}
    assert torch.equal(moved[None]["de"], moved["it"]["de"])
    assert moved["it"]["it"].isfinite().all() and not torch.equal(moved["it"]["it"], moved[None]["it"])


@pytest.mark.parametrize("stopped", ["de", "it", "da"])
def test_a_stopped_language_is_passed_over_and_the_others_go_on_as_before(stopped):
    body, starts = bodies.small_model("roberta"), {"de": start(90, 1), "it": start(130, 2), "da": start(60, 3)}
    batch = side_by_side(*(batch_of(len(matrix), n)[:3] for n, (matrix, _) in enumerate(starts.values())))
    model = RelearnModel(body, starts).eval()
    _, before = model(*batch)
    model.stop_head(stopped)
    loss, after = model(*batch)
    loss.backward()
    for number, name in enumerate(starts):
        if name == stopped:
            assert not after[number].any() and model.matrices[name].grad is None
        else:
            torch.testing.assert_close(after[number], before[number])
            assert model.matrices[name].grad.any()


def test_a_bias_that_stays_gets_no_gradient_and_the_bodys_matrix_is_dropped():
    model = RelearnModel(bodies.small_model("bert"), {"de": start(90, 1)}, train_bias=False)
    model(*batch_of(90, 2)[:3])[0].backward()
    assert model.biases["de"].grad is None and model.matrices["de"].grad is not None
    assert model.clipped_together == [[model.matrices["de"]]]
    assert not [name for name, p in model.body.named_parameters() if bodies.VOCAB in p.shape and p.dim() == 2]


def test_the_primary_stays_in_evaluation_while_the_body_trains():
    model = RelearnModel(bodies.small_model("bert"), {"de": start(90, 1)}, primary=bodies.small_model("bert"))
    model.train()
    assert model.body.training and not model.primary.training
