"""A decoder from its run to a plugged export that generates: each step by the commands, each against the library."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import megamini
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from megamini.adaptation.relearning.model import RelearnModel
from megamini.adaptation.starts import starting_point
from megamini.data.batches import plan_batches
from megamini.data.blocks import Blocks
from megamini.data.preparation.prepare import Settings, prepare
from megamini.downstream.evaluation.evaluate import evaluate
from megamini.downstream.evaluation.rolling import documents_of, rolling_bits
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from megamini.models.mini_model import extract_mini_model
from megamini.recipes.objective import MaskingSection
from megamini.training.finished.weights import load_run
from megamini.training.setup import Sharding
from megamini.training.text import open_text
from tests.downstream.workplace import finetune_recipe
from tests.integration.adapting import UPDATES, Workshop, export
from tests.integration.cases import BLOCK_LENGTH, Case
from tests.integration.conftest import _PROSE, Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import pretrain

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
def test_the_mini_model_drafts_for_the_primary(family: str, shop: Workshop) -> None:
    """The library's assisted generation: greedily, the primary's own tokens, whatever is drafted."""
    run = shop.pretrained(family)
    primary, mini = (
        AutoModelForCausalLM.from_pretrained(shop.exported(f"{family}-{layer}", *options, source=run)).eval()
        for layer, options in ((None, ()), (2, ("--exit", "2")))
    )
    tokenizer = AutoTokenizer.from_pretrained(shop.folder / f"{family}-None")
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        alone = primary.generate(**inputs, max_new_tokens=10, do_sample=False)
        assert torch.equal(primary.generate(**inputs, max_new_tokens=10, do_sample=False, assistant_model=mini), alone)


def test_the_whole_body_goes_on_from_a_plugged_export(shop: Workshop, tmp_path: Path) -> None:
    """Continued pretraining on the new language, with both matrices and all layers."""
    run = shop.pretrained("llama")
    pack = shop.adapted("llama-mini", adaptation__source=str(run)) / "packs/de"
    packed = shop.exported("llama-for-more", "--pack", str(pack), source=shop.exported("llama-None", source=run))
    data = tmp_path / "data"
    settings = Settings("de", tokenizer=str(packed), block_length=BLOCK_LENGTH, validation_share=0.2)
    prepare([str(_PROSE)], data, settings, processes=1)
    values = Case("llama", None, ranks=1, exits=()).recipe(data, tmp_path)
    values["model"] = {"from_checkpoint": str(packed)}
    values["optimizer"] |= {"name": "muon", "learning_rate": 5e-4}
    values["schedule"] |= {"duration": f"{UPDATES} updates", "warmup": "1 updates"}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({**values, "name": "more"}))
    shop.command(pretrain, str(tmp_path / "more.yaml"))
    scalars, before = read_scalars(tmp_path / "more"), AutoModelForCausalLM.from_pretrained(packed)
    assert scalars["validation/loss_primary"][UPDATES] < plain_loss(before, data)
    after = load_run(tmp_path / "more").model.model
    assert scalars["validation/loss_primary"][UPDATES] == pytest.approx(plain_loss(after, data), rel=1e-5)
    for name, parameter in after.named_parameters():
        assert not torch.equal(parameter, before.get_parameter(name)), name
    # What has been trained further has its own lineage, and no pack plugged in.
    out = shop.exported("llama-more", source=tmp_path / "more")
    said = json.loads((out / "config.json").read_text())["megamini"]
    assert "plugged" not in said
    assert said["lineage"] == lineage_of(after, AutoTokenizer.from_pretrained(out))
    assert said["lineage"]["embeddings_sha256"] != before.config.megamini["lineage"]["embeddings_sha256"]


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
    # Both matrices train; the body's are dropped from what is frozen, and are gone once the model is built.
    assert f"{2 * 420 * 32:,} parameters (420 pieces)" in setup.plan()
    planned, start = setup.planned_memory(Sharding(0, 1)), starting_point(setup, "de")
    RelearnModel(setup.source.body, {"de": (start.matrix, start.bias)}, train_bias=False, outputs={"de": start.output})
    assert setup.planned_memory(Sharding(0, 1)) == planned


def test_bits_per_byte_of_the_source_and_of_a_pack(shop: Workshop, tmp_path: Path) -> None:
    """By the evaluation as it is run: as the formula has it, and known again the second time."""
    primary = shop.exported("llama-None", source=shop.pretrained("llama"))
    pack = shop.adapted("llama-mini", adaptation__source=str(shop.pretrained("llama"))) / "packs/de"
    values = {
        "name": "bits",
        "model": {"primary": str(primary)},
        "packs": {"mini": str(pack)},
        "measures": {"bits_per_byte": {"text": {"en": str(_PROSE), "de": str(_PROSE)}, "window": 20}},
        "evaluation": {"runs": str(tmp_path), "batch": 3},
    }
    results = evaluate(EvaluateRecipe.model_validate(values))
    found = {one.language: one for one in results if one.task == "bits_per_byte"}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(primary), AutoTokenizer.from_pretrained(primary)
    for language in ("en", "de"):
        if language == "de":
            tokenizer = megamini.plug(model, tokenizer, pack)
        parts, tokens = rolling_bits(model, tokenizer, documents_of(str(_PROSE)), "here", 5, 20)
        assert found[language].n == tokens
        assert found[language].values["bits_per_byte"] == pytest.approx(
            sum(bits for bits, _ in parts) / sum(size for _, size in parts), rel=1e-5
        )
    values["measures"]["bits_per_byte"]["window"] = 33
    with pytest.raises(UserError, match="window: 33, but the model has 32 positions"):
        evaluate(EvaluateRecipe.model_validate(values | {"name": "again"}))
    values["measures"]["bits_per_byte"] = {"text": {"en": str(_PROSE)}, "mask_share": 0.3}
    with pytest.raises(UserError, match=r"bits_per_byte\.mask_share: .* is a decoder, which has no use for it"):
        evaluate(EvaluateRecipe.model_validate(values | {"name": "masked"}))
    values["measures"] = {"retrieval": {"files": "pages.{language}.jsonl"}}
    with pytest.raises(UserError, match="is a decoder; retrieval is for encoders"):
        evaluate(EvaluateRecipe.model_validate(values | {"name": "pages"}))


def test_fine_tuning_a_decoder_is_refused(shop: Workshop, tmp_path: Path) -> None:
    primary = shop.exported("llama-None", source=shop.pretrained("llama"))
    recipe = FinetuneRecipe.model_validate(finetune_recipe(primary, tmp_path))
    with pytest.raises(UserError, match="a decoder, and only encoders are fine-tuned here"):
        finetune(recipe)


def end_of_text_alone(folder: Path, **roles: str) -> Path:
    """A Llama with a byte-level tokenizer as GPT-NeoX's and Qwen's are: one token ends texts, and there is no mask."""
    backend = Tokenizer(models.BPE({"<|end|>": 0, **{c: n for n, c in enumerate(sorted(ByteLevel.alphabet()), 1)}}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", **roles)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64, bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_decoder_whose_tokenizer_has_one_special_token(shop: Workshop, tmp_path: Path) -> None:
    """Prepared with it, bridged, and a language with a tokenizer of its own learned over it and plugged in."""
    source, data = end_of_text_alone(tmp_path / "source"), tmp_path / "data"
    with pytest.raises(UserError, match="no bos and no pad and no mask"):
        prepare([str(_PROSE)], data, Settings("en", tokenizer=str(source), block_length=BLOCK_LENGTH), processes=1)
    settings = Settings("en", tokenizer=str(source), decoder=True, block_length=BLOCK_LENGTH, validation_share=0.2)
    manifest = prepare([str(_PROSE)], data, settings, processes=1)
    assert manifest["special_tokens"] == {"bos": 0, "pad": 0, "eos": 0, "unk": None, "mask": None}
    with pytest.raises(UserError, match="has no mask token, so that the data is for decoders alone"):
        open_text(str(data), MaskingSection(), 0, 8)
    text = open_text(str(data), MaskingSection(predict_separators=False), 0, 8, causal=True)
    batch = text.micro_batches(plan_batches(8, 8, 1), 0, "runs")[0]
    assert batch.weights is None or (batch.weights[batch.labels == 0] == 0).all()

    bridge = Case("llama", None, ranks=1, exits=()).recipe(data, tmp_path)
    bridge["model"] = {"from_checkpoint": str(source), "exits": [1], "bridge_layers": 1}
    bridge["objective"] = {"method": "minipost"}
    bridge["schedule"] |= {"duration": "4 updates", "warmup": "1 updates"}
    (tmp_path / "bridge.yaml").write_text(yaml.safe_dump({**bridge, "name": "bridge"}))
    shop.command(pretrain, str(tmp_path / "bridge.yaml"))
    adapted = shop.adapted("one-special", adaptation__source=str(tmp_path / "bridge"), adaptation__exit=None)
    pack = LanguagePack.load(adapted / "packs/de")
    assert pack.output_embeddings is not None

    packed = tmp_path / "packed"
    shop.command(export, str(source), str(packed), "--pack", str(adapted / "packs/de"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(packed), AutoTokenizer.from_pretrained(packed)
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0
    ids = tokenizer("Bread is baked")["input_ids"]
    assert 0 not in ids, "as the model's own tokenizer, nothing around the text"
    assert tokenizer.decode(ids).strip() == "Bread is baked"
    rows = {piece: pack.token_embeddings[n] for piece, n in pack.tokenizer.get_vocab().items()}
    for number in ids:
        assert torch.equal(model.get_input_embeddings().weight[number], rows[tokenizer.convert_ids_to_tokens(number)])
    assert generated(model, tokenizer) == by_logits(model, tokenizer)
