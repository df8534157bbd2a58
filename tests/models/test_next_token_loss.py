"""The joint loss of a decoder against the library's own, and numbers that must not move."""

import pytest
import torch

from megamini.data.next_token import NextTokenRule
from megamini.models.primary_model import PrimaryModel
from tests.models import bodies

# Of weights, blocks and code as they are: the library's loss of AutoModelForCausalLM, fp32 on a CPU.
FROZEN = {
    "llama": {True: 5.167699, False: 5.156103},
    "qwen2": {True: 4.987072, False: 5.024619},
    "qwen3": {True: 5.116099, False: 5.071081},
    "gemma": {True: 5.344497, False: 5.355805},
    "gpt_neox": {True: 5.314197, False: 5.322201},
}


def next_tokens(separators=True, padded=False):
    """Blocks [3, L] as they are prepared, and (positions, labels, weights, attention mask)."""
    ids, *_ = bodies.small_batch(padded=padded)
    ids[:, 0], ids[0, 7], ids[1, [3, 11]] = 0, 2, 2
    lengths = torch.tensor([bodies.LENGTH, bodies.LENGTH, 16 if padded else bodies.LENGTH])
    ids[range(3), lengths - 1] = 2
    rule = NextTokenRule(2, separators, seed=0)
    found = rule.predict(ids.numpy(), None, None, lengths.numpy())
    offsets = torch.arange(3)[:, None] * bodies.LENGTH
    positions = (torch.from_numpy(found.positions.copy()) + offsets).flatten()
    mask = (torch.arange(bodies.LENGTH) < lengths[:, None]).long() if padded else None
    return ids, positions, torch.from_numpy(found.labels).flatten(), torch.from_numpy(found.weights).flatten(), mask


@pytest.mark.parametrize("separators", [True, False])
@pytest.mark.parametrize("family", bodies.DECODERS)
def test_loss_and_gradients_are_the_librarys(family, separators):
    model = bodies.small_model(family)
    ids, positions, labels, weights, _ = next_tokens(separators)
    wanted = ids.clone()
    wanted[:, -1] = -100  # where the block was cut
    if not separators:
        wanted[wanted == 2] = -100
    theirs = model(input_ids=ids, labels=wanted, use_cache=False).loss
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    primary = PrimaryModel(model, workspace_bytes=7 * bodies.VOCAB * 4).train()
    loss, losses = primary(ids, positions, labels, weights=weights * len(weights) / weights.sum())
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert loss.item() == pytest.approx(FROZEN[family][separators], rel=1e-5)
    assert losses.shape == (1, 3 * (bodies.LENGTH - 2))
    assert losses.mean().item() == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_padded_blocks_are_evaluated_as_if_they_were_alone(family):
    primary = PrimaryModel(bodies.small_model(family)).eval()
    ids, positions, labels, weights, mask = next_tokens(padded=True)
    with torch.no_grad():
        losses = primary(ids, positions, labels, mask)[1].view(3, -1)
        alone = primary.model(ids[2:, :16], use_cache=False).logits[0, :14]
    assert weights.view(3, -1)[2].sum() == 14
    expected = torch.nn.functional.cross_entropy(alone, ids[2, 1:15], reduction="none")
    torch.testing.assert_close(losses[2, :14], expected, rtol=1e-5, atol=1e-5)
