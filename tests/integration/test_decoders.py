"""A decoder from its run to a plugged export that generates: each step by the commands, each against the library."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import megamini
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearn import build_setup
from megamini.data.blocks import Blocks
from megamini.errors import UserError
from megamini.models.mini_model import extract_mini_model
from megamini.training.finished.weights import load_run
from tests.integration.adapting import UPDATES, Workshop
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars

pytestmark = pytest.mark.launched

PROMPTS = ["The baker", "Bread is", "In the morning"]
FAMILIES = ["llama", "gemma"]  # untied; tied, with scaled embeddings


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("decoders"))


def generated(model, tokenizer) -> list[list[int]]:
    """Greedily, 12 tokens behind each prompt."""
    found = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.eval().generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
        found.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return found


def by_logits(model, tokenizer) -> list[list[int]]:
    """The same from logits alone, read anew for each token."""
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        start = len(ids)
        for _ in range(12):
            logits = model.eval()(torch.tensor([ids]), use_cache=False).logits[0, -1].detach()
            logits[tokenizer.eos_token_id] = -torch.inf  # as min_new_tokens does
            ids = [*ids, int(logits.argmax())]
        found.append(ids[start:])
    return found


def plain_loss(model, data: Path) -> float:
    """Mean next-token loss of the validation split, block by block, by the library's own forward."""
    blocks, total, count = Blocks(data, "validation"), 0.0, 0
    for number in range(len(blocks)):
        one = torch.tensor([number]).numpy()
        ids = torch.from_numpy(blocks.read(one).astype("int64"))[:, : int(blocks.lengths(one)[0])]
        with torch.no_grad():
            logits = model.eval()(ids, use_cache=False).logits
        total += functional.cross_entropy(logits[0, :-2], ids[0, 1:-1], reduction="sum").item()
        count += ids.shape[1] - 2
    return total / count


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_generates_as_the_live_model_does(family: str, shop: Workshop) -> None:
    run = shop.pretrained(family)
    live = load_run(run)
    for layer, expected in ((None, live.model.model), (2, extract_mini_model(live.model, 2))):
        options = () if layer is None else ("--exit", str(layer))
        out = shop.exported(f"{family}-{layer}", *options, source=run)
        model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert {kind: names for kind, names in report.items() if names} == {}
        assert (model.config.model_type, model.config.num_hidden_layers) == (family, layer or 3)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert tokenizer("Bread")["input_ids"] == live.tokenizer("Bread")["input_ids"][:-1]
        tokens = generated(model, tokenizer)
        assert tokens == generated(expected, tokenizer) == by_logits(model, tokenizer)
        assert "pipeline_tag: text-generation" in (out / "README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_is_learned_over_the_mini_model_and_plugged_in(family: str, shop: Workshop) -> None:
    run, name = shop.pretrained(family), f"{family}-mini"
    adapted = shop.adapted(name, adaptation__source=str(run))
    pack, scalars = LanguagePack.load(adapted / "packs/de"), read_scalars(adapted)
    assert (pack.output_embeddings is not None) == (family == "llama")
    ledger = json.loads((adapted / "compute.json").read_text())
    assert pack.details["ledger"]["flops"] == ledger["flops"] > 0
    assert scalars["train/loss"][UPDATES] < scalars["train/loss"][1]
    for suffix, options in (("", ("--exit", "2")), ("_primary", ())):
        folder = shop.exported(f"{name}{suffix}-plain", *options, source=run)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        body = {n: p.clone() for n, p in model.base_model.named_parameters() if "embed" not in n}
        tokenizer = megamini.plug(model, tokenizer, adapted / "packs/de")
        loss = plain_loss(model, shop.target("de"))
        assert scalars[f"validation/loss_de{suffix}"][UPDATES] == pytest.approx(loss, rel=1e-5)
        assert all(torch.equal(model.base_model.get_parameter(n), p) for n, p in body.items())
        # Plugged in memory equals plugged and exported.
        packed = shop.exported(f"{name}{suffix}-packed", "--pack", str(adapted / "packs/de"), source=folder)
        again = AutoModelForCausalLM.from_pretrained(packed)
        for (n, mine), (_, theirs) in zip(model.named_parameters(), again.named_parameters(), strict=True):
            assert torch.equal(mine, theirs), n
        own = AutoTokenizer.from_pretrained(packed)
        assert own("Das Brot")["input_ids"] == tokenizer("Das Brot")["input_ids"]
        assert own("Das Brot")["input_ids"][-1] != own.eos_token_id
        assert generated(again, own) == generated(model, tokenizer)


def test_what_goes_with_encoders_is_refused_over_a_decoder(shop: Workshop) -> None:
    source = {"adaptation.source": str(shop.pretrained("llama"))}
    path = shop.recipe("masked", {**source, "objective.mask_share": 0.3})
    with pytest.raises(UserError, match=r"objective\.mask_share: a decoder masks nothing"):
        build_setup(load_adaptation_recipe(path))
    path = shop.recipe("plan", source)
    setup = build_setup(load_adaptation_recipe(path))
    assert "the next token at 30 positions in every block" in setup.plan()
    # Both matrices train; the body's are dropped from what is frozen.
    assert f"{2 * 420 * 32:,} parameters (420 pieces)" in setup.plan()
