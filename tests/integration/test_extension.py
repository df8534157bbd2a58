"""Adaptation over an extended tokenizer: new rows learn, old ones stay to the bit, and one model reads both."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import megamini
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from megamini.adaptation.relearning.model import RelearnModel
from megamini.adaptation.starts import starting_point
from megamini.data.batches import validation_batches
from megamini.data.preparation.prepare import Settings, prepare
from megamini.errors import UserError
from megamini.training.run import execute, plain_engine
from megamini.training.text import open_text
from tests.data.vocabulary.languages import ENGLISH, RUSSIAN
from tests.integration.adapting import UPDATES, Workshop
from tests.integration.cases import BLOCK_LENGTH
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.test_decoders import plain_loss

pytestmark = pytest.mark.launched


class _Workshop(Workshop):
    def extended(self, language: str = "ru", add: int = 60, name: str = "extended", **settings) -> Path:
        """Russian and English text, by the source's tokenizer with further pieces."""
        out = self.folder / f"data-{language}-{name}-{add}"
        if not out.exists():
            lines = [f"{n} {RUSSIAN}\n\n{n} {line}" for n, line in enumerate(ENGLISH.splitlines()) if line]
            (self.folder / "ru.txt").write_text("\n\n".join(lines), encoding="utf-8")
            how = {
                "block_length": BLOCK_LENGTH,
                "validation_share": 0.2,
                "extend_tokenizer": str(self.primary),
                "add": add,
            }
            prepare([str(self.folder / "ru.txt")], out, Settings(language, **(how | settings)), processes=1)
        return out


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> _Workshop:
    return _Workshop(lab, tmp_path_factory.mktemp("extension"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_new_rows_learn_over_the_mini_model_and_old_ones_stay(shop: _Workshop, precision: str) -> None:
    changes = {
        "data.path": str(shop.extended()),
        "training.precision": precision,
        "optimizer.weight_decay": 0.1,
    }
    setup = build_setup(load_adaptation_recipe(shop.recipe(f"frozen-{precision}", changes)))
    kind, own = setup.kinds["ru"]
    old = len(setup.source.tokenizer)
    assert kind == "extension" and own.tolist() == list(range(old, old + 60))
    source = setup.source.vocabulary
    matrix, bias = source.matrix.clone(), source.output_bias.clone()
    start = starting_point(setup, "ru")
    assert torch.equal(start.matrix[:old], matrix) and torch.equal(start.bias[:old], bias)
    model = RelearnModel(setup.source.body, {"ru": (start.matrix, start.bias)}, own=setup.own)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 60 * (matrix.shape[1] + 1)
    setup.recipe.run_directory.mkdir()
    engine = plain_engine(model, setup)
    execute(setup, engine)
    now_matrix, now_output, now_bias = model.vocabulary("ru")
    assert now_output is now_matrix
    assert torch.equal(now_matrix[:old], matrix.to(now_matrix.dtype))
    assert torch.equal(now_bias[:old], bias.to(now_bias.dtype))
    assert not torch.isclose(now_matrix[old:].float(), start.matrix[old:], rtol=1e-2).all(1).any(), "all rows learn"
    assert len(engine._optimizer.state) == 2


def test_the_pack_holds_the_new_rows_and_its_loss_is_that_of_the_plugged_model(shop: _Workshop) -> None:
    run = shop.adapted("extended", data__path=str(shop.extended()))
    pack = LanguagePack.load(run / "packs/ru")
    assert pack.kind == "extension" and pack.details["starting_point"]["kind"] == "focus"
    tensors = load_file(run / "packs/ru/embeddings.safetensors")
    assert {name: len(tensor) for name, tensor in tensors.items()} == {"token_embeddings": 60, "output_bias": 60}
    text = open_text(str(shop.extended()), load_adaptation_recipe(shop.folder / "extended.yaml").objective, 0, 8)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(shop.primary), AutoTokenizer.from_pretrained(shop.primary)
    with megamini.plugged(model, tokenizer, run / "packs/ru"):
        total = count = 0.0
        for batch in validation_batches(text.validation, text.masking, 2048, 4, 0, 1):
            with torch.no_grad():
                logits = model.eval()(batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)
            losses = torch.nn.functional.cross_entropy(logits[batch.positions], batch.labels, reduction="none")
            total, count = total + (losses * batch.weights).sum().item(), count + batch.weights.sum().item()
    assert read_scalars(run)["validation/loss_ru_primary"][UPDATES] == pytest.approx(total / count, rel=1e-5)


def test_a_task_model_answers_in_english_to_the_bit_as_before_and_reads_russian_and_mixed_text(shop: _Workshop) -> None:
    pack = shop.adapted("extended", data__path=str(shop.extended())) / "packs/ru"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(shop.primary, num_labels=3).eval()
    tokenizer = AutoTokenizer.from_pretrained(shop.primary)
    lines = [line for line in ENGLISH.splitlines() if line]

    def logits(own, texts):
        limits = {"truncation": True, "max_length": BLOCK_LENGTH, "padding": True, "return_tensors": "pt"}
        return model(**own(texts, **limits)).logits

    english, mixed = logits(tokenizer, lines), [f"{lines[0][:20]} библиотека открыта", "Мельница у реки"]
    with torch.no_grad(), megamini.plugged(model, tokenizer, pack) as both:
        assert torch.equal(logits(both, lines), english)
        assert all(len(both(text)["input_ids"]) < len(tokenizer(text)["input_ids"]) for text in mixed)
        assert not torch.equal(logits(both, mixed), logits(tokenizer, mixed))
    out = shop.exported("extended-model", "--pack", str(pack), source=shop.primary)
    loaded, report = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()) and "beside its own" in (out / "README.md").read_text()
    assert loaded.config.megamini["pack_kind"] == "extension"
    assert loaded.config.megamini["own_pieces"] == len(tokenizer)


def test_going_on_from_an_extension(shop: _Workshop) -> None:
    first = LanguagePack.load(shop.adapted("extended", data__path=str(shop.extended())) / "packs/ru")
    run = shop.adapted(
        "on",
        data__path=str(shop.extended()),
        adaptation__initialise="pack",
        adaptation__pack=str(shop.folder / "extended/packs/ru"),
        adaptation__pack_every="4 updates",
    )
    start = LanguagePack.load(run / "packs/ru-step-00000000")
    assert start.kind == "extension"
    assert torch.equal(start.token_embeddings, first.token_embeddings)
    assert torch.equal(start.output_bias, first.output_bias)
    assert not torch.equal(LanguagePack.load(run / "packs/ru").token_embeddings, first.token_embeddings)


def test_beside_another_language_it_is_the_one_learned_alone(shop: _Workshop) -> None:
    alone = LanguagePack.load(shop.adapted("extended", data__path=str(shop.extended())) / "packs/ru")
    both = shop.adapted("both", data__path=[str(shop.target("de")), str(shop.extended())])
    packs = {language: LanguagePack.load(both / "packs" / language) for language in ("de", "ru")}
    assert packs["de"].kind == "swapped" and len(packs["de"].token_embeddings) == 420
    torch.testing.assert_close(packs["ru"].token_embeddings, alone.token_embeddings, rtol=0, atol=2e-5)


def test_an_extension_of_another_tokenizer_is_refused(shop: _Workshop) -> None:
    out = shop.folder / "of-another"
    lines = "\n\n".join(f"{n} {RUSSIAN}" for n in range(40))
    (shop.folder / "other.txt").write_text(lines, encoding="utf-8")
    how = {"block_length": BLOCK_LENGTH, "validation_share": 0.2, "extend_tokenizer": str(shop.target("de")), "add": 60}
    prepare([str(shop.folder / "other.txt")], out, Settings("ru", **how), processes=1)
    with pytest.raises(UserError, match=r"data.path: .*of-another: its tokenizer is an extension of another tokenizer"):
        build_setup(load_adaptation_recipe(shop.recipe("refused", {"data.path": str(out)})))


def test_both_matrices_of_an_untied_decoder_get_new_rows(shop: _Workshop) -> None:
    """Old rows of both stay to the bit; the log's loss is that of the plugged model, in the library's own forward."""
    run = shop.pretrained("llama")
    primary = shop.exported("llama-primary", source=run)
    data = shop.extended(name="llama", extend_tokenizer=str(primary))
    adapted = shop.adapted("llama-ru", adaptation__source=str(run), data__path=str(data))
    pack, scalars = LanguagePack.load(adapted / "packs/ru"), read_scalars(adapted)
    assert pack.kind == "extension" and pack.output_embeddings.shape == pack.token_embeddings.shape == (60, 32)
    assert scalars["train/loss"][UPDATES] < scalars["train/loss"][1]
    for suffix, options in (("", ("--exit", "2")), ("_primary", ())):
        folder = shop.exported(f"llama-{suffix}-plain", *options, source=run)
        before = AutoModelForCausalLM.from_pretrained(folder)
        plugged = shop.exported(f"llama-{suffix}-ru", "--pack", str(adapted / "packs/ru"), source=folder)
        model = AutoModelForCausalLM.from_pretrained(plugged)
        loss = plain_loss(model, data)
        assert scalars[f"validation/loss_ru{suffix}"][UPDATES] == pytest.approx(loss, rel=1e-5)
        for now, was, rows in (
            (model.get_input_embeddings(), before.get_input_embeddings(), pack.token_embeddings),
            (model.get_output_embeddings(), before.get_output_embeddings(), pack.output_embeddings),
        ):
            old = len(was.weight)
            assert torch.equal(now.weight[:old], was.weight)
            assert torch.equal(now.weight[old:], rows)
    # It goes on from its own pack.
    further = shop.adapted("llama-ru-more", adaptation__source=str(run), data__path=str(data),
                           adaptation__initialise="pack", adaptation__pack=str(adapted / "packs/ru"))  # fmt: skip
    first = read_scalars(further)["train/loss"][1]
    assert first < scalars["train/loss"][1]
    assert not torch.equal(LanguagePack.load(further / "packs/ru").output_embeddings, pack.output_embeddings)
