"""Relearning over a tokenizer with replaced pieces, source text mixed in; the report shows what is forgotten."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import megamini
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from megamini.adaptation.starts import starting_point
from megamini.commands.report import main as report
from megamini.data.preparation.prepare import Settings, prepare
from megamini.errors import UserError
from megamini.recipes.recipe import load_recipe
from megamini.training.finished.weights import load_run
from megamini.training.run import pretrain_plain
from tests.data.vocabulary.languages import ENGLISH
from tests.integration.adapting import UPDATES, Workshop
from tests.integration.cases import BLOCK_LENGTH, Case
from tests.integration.conftest import _PROSE, Lab
from tests.integration.launching import read_scalars
from tests.integration.test_decoders import plain_loss

SHORT = "рука река кара сука рак сера рукасера реке руке каре раке"  # few letters

pytestmark = pytest.mark.launched


class _Workshop(Workshop):
    def mixed(self, language: str, source: Path | None = None) -> Path:
        """Russian by a tokenizer of `source`, by default the primary, with 20 replaced pieces, or English by the same
        one."""
        source = source or self.primary
        out = self.folder / f"data-mixed-{language}-{source.name}"
        how = {"block_length": BLOCK_LENGTH, "validation_share": 0.2}
        if out.exists():
            return out
        if language == "ru":
            lines = [f"{n} {SHORT}\n\n{n} {line}" for n, line in enumerate(ENGLISH.splitlines()) if line]
            (self.folder / "ru.txt").write_text("\n\n".join(lines), encoding="utf-8")
            how |= {"tokenizer": str(source), "replace_least_used": 20, "old_text": [str(_PROSE)]}
            prepare([str(self.folder / "ru.txt")], out, Settings("ru", **how), processes=1)
        else:
            prepare([str(_PROSE)], out, Settings("en", tokenizer=str(self.mixed("ru", source)), **how), processes=1)
        return out


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> _Workshop:
    return _Workshop(lab, tmp_path_factory.mktemp("replacement"))


def relearned(shop: _Workshop, name: str, share: float) -> Path:
    return shop.adapted(
        name, data__path=str(shop.mixed("ru")), data__source=str(shop.mixed("en")), data__source_share=share
    )


def test_the_pack_holds_the_replaced_rows_and_all_shapes_stay(shop: _Workshop) -> None:
    pack = LanguagePack.load(relearned(shop, "alone", 0.0) / "packs/ru")
    assert pack.kind == "replacement" and len(pack.token_embeddings) == 20 == len(pack.ids)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(shop.primary), AutoTokenizer.from_pretrained(shop.primary)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mixed = megamini.plug(model, tokenizer, pack)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    now, matrix = model.get_input_embeddings().weight, before["roberta.embeddings.word_embeddings.weight"]
    assert (now != matrix).any(1).nonzero().flatten().tolist() == pack.ids.tolist()
    assert len(mixed("рука река")["input_ids"]) < len(tokenizer("рука река")["input_ids"])


def test_a_start_changes_the_replaced_rows_alone(shop: _Workshop) -> None:
    setup = build_setup(load_adaptation_recipe(shop.recipe("start", {"data.path": str(shop.mixed("ru"))})))
    start, source, ids = starting_point(setup, "ru"), setup.source.vocabulary, setup.own["ru"]
    others = torch.ones(len(source.matrix), dtype=torch.bool).index_fill(0, ids, False)
    assert torch.equal(start.matrix[others], source.matrix[others])
    assert torch.equal(start.bias[others], source.output_bias[others])
    assert not torch.equal(start.matrix[ids], source.matrix[ids])


def test_source_text_is_measured_all_along_and_mixed_in_by_its_share(shop: _Workshop) -> None:
    alone, mixed = (relearned(shop, name, share) for name, share in (("alone", 0.0), ("half", 0.5)))
    plain = read_scalars(shop.adapted("plain", data__path=str(shop.mixed("ru"))))
    curves = read_scalars(alone), read_scalars(mixed)
    for name in ("train/loss_ru", "validation/loss_ru", "validation/loss_ru_primary"):
        assert curves[0][name] == plain[name], "measuring changes nothing"
        assert curves[1][name] != plain[name]
    for curve in curves:
        for name in ("loss_ru_of_source", "bits_per_byte_ru_of_source", "loss_ru_of_source_primary"):
            assert set(curve[f"validation/{name}"]) == {0, 4, UPDATES}


def test_the_plan_and_the_pack_tell_of_the_text_that_is_mixed_in(shop: _Workshop) -> None:
    changes = {"data.path": str(shop.mixed("ru")), "data.source": str(shop.mixed("en"))}
    alone, mixed = (
        build_setup(load_adaptation_recipe(shop.recipe("told", changes | {"data.source_share": share})))
        for share in (0.0, 0.25)
    )
    blocks = alone.schedule.updates * alone.batches.global_batch
    own, source = len(mixed.texts["ru"].train), len(mixed.source_text.train)
    assert f" = {blocks / own:.1f} passes; " in alone.plan()
    assert f", 25% of the source = {0.75 * blocks / own:.1f} passes, " in mixed.plan()
    assert f", {0.25 * blocks / source:.1f} over the source; " in mixed.plan()
    files = [
        [Path(file["file"]).name for file in LanguagePack.load(relearned(shop, *run) / "packs/ru").details["text"]]
        for run in (("alone", 0.0), ("half", 0.5))
    ]
    assert files == [["ru.txt"], ["ru.txt", _PROSE.name]]


def test_pretraining_goes_on_over_a_mixture_and_measures_both_languages(shop: _Workshop) -> None:
    """From the model with the replaced rows in it: by shares; or on new text alone, with English measured."""
    pack = relearned(shop, "alone", 0.0) / "packs/ru"
    model = shop.exported("with-pack", "--pack", str(pack), source=shop.primary)
    for name, data in {
        "mixture": {"path": [str(shop.mixed("en")), str(shop.mixed("ru"))], "weights": [3.0, 1.0]},
        "new-alone": {"path": str(shop.mixed("ru")), "measured": [str(shop.mixed("en"))]},
    }.items():
        recipe = Case(stage=None, ranks=1).recipe(shop.mixed("ru"), shop.folder)
        recipe |= {"name": name, "model": {"from_checkpoint": str(model), "dropout": 0.0}, "data": data}
        recipe["objective"] = {"method": "mlm", "mask_share": 0.15}
        path = shop.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        pretrain_plain(load_recipe(path))
        curves = read_scalars(shop.folder / name)
        for language in ("en", "ru"):
            assert len(curves[f"validation/loss_primary_{language}"]) >= 1
    weights = load_run(shop.folder / "mixture").model.model.get_input_embeddings().weight
    assert len(weights) == len(AutoTokenizer.from_pretrained(shop.primary))


def test_the_report_shows_fertility_and_the_sources_loss(shop: _Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run = relearned(shop, "half", 0.5)
    out = shop.folder / "report"
    monkeypatch.setattr(sys, "argv", ["report.py", str(run), "--out", str(out)])
    report()
    page = (out / "report.md").read_text(encoding="utf-8")
    facts = json.loads((run / "packs/ru/pack.json").read_text())["vocabulary"]
    assert "old tokenizer | new tokenizer | mixed tokenizer" in page
    for key in ("fertility", "fertility_of_old_text"):
        for value in facts[key].values():
            assert f"{value:.2f}" in page
    last = read_scalars(run)["validation/bits_per_byte_ru_of_source_primary"][UPDATES]
    assert f"{last:.3f}" in page and "| half | 50% |" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.source": "de"}, r"data.source: .*has another tokenizer; prepare it with --tokenizer"),
        ({"data.source": "de", "data.path": "de"}, "has a tokenizer of its own, which reads one language"),
        ({"data.source_share": 0.5}, "data.source_share goes with data.source"),
        ({"data.source": "en", "data.path": ["ru", "de"]}, "data.source goes with one data.path"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(shop: _Workshop, changes: dict, said: str) -> None:
    places = {"de": str(shop.target("de")), "en": str(shop.mixed("en")), "ru": str(shop.mixed("ru"))}
    values = {"data.path": "ru"} | changes

    def placed(value):
        return [places[one] for one in value] if isinstance(value, list) else places.get(value, value)

    recipe = shop.recipe("bad", {key: placed(value) for key, value in values.items()})
    with pytest.raises(UserError, match=said):
        build_setup(load_adaptation_recipe(recipe))


def test_both_matrices_of_an_untied_decoder_change_at_the_replaced_rows(shop: _Workshop) -> None:
    """Beside a language with a vocabulary of its own; the logs' losses are those of the plugged models."""
    run = shop.pretrained("llama")
    primary = shop.exported("llama-primary", source=run)
    data = {"de": shop.target("de"), "ru": shop.mixed("ru", primary)}
    adapted = shop.adapted("llama-both", adaptation__source=str(run), data__path=[str(one) for one in data.values()])
    before, scalars = AutoModelForCausalLM.from_pretrained(primary), read_scalars(adapted)
    for language, path in data.items():
        pack = LanguagePack.load(adapted / "packs" / language)
        plugged = shop.exported(f"llama-{language}", "--pack", str(adapted / "packs" / language), source=primary)
        model = AutoModelForCausalLM.from_pretrained(plugged)
        loss = plain_loss(model, path)
        assert scalars[f"validation/loss_{language}_primary"][UPDATES] == pytest.approx(loss, rel=1e-5)
        if language == "de":
            assert pack.kind == "swapped"
            continue
        for now, was, rows in (
            (model.get_input_embeddings(), before.get_input_embeddings(), pack.token_embeddings),
            (model.get_output_embeddings(), before.get_output_embeddings(), pack.output_embeddings),
        ):
            assert (now.weight != was.weight).any(1).nonzero().flatten().tolist() == pack.ids.tolist()
            assert torch.equal(now.weight[pack.ids], rows)
