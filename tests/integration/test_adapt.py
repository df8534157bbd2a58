"""launch/adapt.py as people run it: packs that plug in, runs that resume, languages that do not touch one another."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import megamini
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from megamini.adaptation.relearning.model import RelearnModel
from megamini.adaptation.starts import starting_point
from megamini.data.batches import validation_batches
from megamini.errors import TRY_AGAIN, UserError
from megamini.models.mini_model import extract_mini_model
from megamini.training.finished.weights import load_run
from megamini.training.text import open_text
from tests.integration.adapting import UPDATES, Workshop, adapt, export
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT, read_scalars
from tests.integration.ranks import ENVIRONMENT, Ranks, wait_for_update

pytestmark = pytest.mark.launched


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("adapt"))


def plain_loss(model, text) -> float:
    """Mean validation loss in full logits, by the library's own forward; position by position as the run draws them."""
    total, count = 0.0, 0.0
    for batch in validation_batches(text.validation, text.masking, 2048, 4, 0, 1):
        with torch.no_grad():
            logits = model.eval()(batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)
        losses = functional.cross_entropy(logits[batch.positions], batch.labels, reduction="none")
        total += (losses.double() * batch.weights).sum().item()
        count += batch.weights.sum().item()
    return total / count


def test_a_pack_says_what_it_is_and_its_losses_are_those_of_the_plugged_models(shop: Workshop) -> None:
    """Learned over an exit of a run: by the mini-model and by the primary, with plain transformers."""
    run = shop.adapted("mini")
    pack = LanguagePack.load(run / "packs/de")
    assert pack.language == "de" and pack.details["method"] == "mini"
    assert pack.details["body"]["exit"] == 2 and pack.details["body"]["layers"] == 2
    ledger = json.loads((run / "compute.json").read_text())
    assert pack.details["ledger"]["tokens"] == ledger["tokens"] == UPDATES * 8 * 32
    assert pack.details["ledger"]["flops"] == ledger["flops"]
    assert pack.details["settings"]["adaptation"]["initialise"] == "focus"
    assert pack.details["starting_point"]["kind"] == "focus"

    scalars = read_scalars(run)
    text = open_text(str(shop.target("de")), load_adaptation_recipe(shop.folder / "mini.yaml").objective, 0, 8)
    for name, options in {"loss_de": ("--exit", "2"), "loss_de_primary": ()}.items():
        folder = shop.exported(f"for-{name}", *options)
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        megamini.plug(model, tokenizer, run / "packs/de")
        assert scalars[f"validation/{name}"][UPDATES] == pytest.approx(plain_loss(model, text), rel=1e-5)
    assert set(scalars["validation/bits_per_byte_de"]) == {0, 4, UPDATES}

    start = starting_point(build_setup(load_adaptation_recipe(shop.folder / "mini.yaml")), "de")
    untrained = replace(pack, token_embeddings=start.matrix, output_bias=start.bias)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    megamini.plug(model, tokenizer, untrained)  # into the primary model, the last of the two above
    assert scalars["validation/loss_de_primary"][0] == pytest.approx(plain_loss(model, text), rel=1e-5)


def test_nothing_but_the_pack_has_moved(shop: Workshop) -> None:
    """The body that a run has trained beside is, bit for bit, the one that it was given."""
    setup = build_setup(load_adaptation_recipe(shop.recipe("frozen", {"adaptation.method": "mini"})))
    start = starting_point(setup, "de")
    model = RelearnModel(setup.source.body, {"de": (start.matrix, start.bias)}, primary=setup.source.primary)
    before = {name: p.clone() for name, p in model.named_parameters()}
    from megamini.training.run import execute, plain_engine

    setup.recipe.run_directory.mkdir()
    engine = plain_engine(model, setup)
    execute(setup, engine)
    assert len(engine._optimizer.state) == 2 and len(engine._masters) == 2
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"_matrices.0", "_biases.0"}
    own = extract_mini_model(load_run(shop.run).model, 2).state_dict()
    for name, parameter in model.body.named_parameters():
        if parameter.numel() and "decoder" not in name:
            assert torch.equal(parameter, own[name]), name


def test_runs_exports_and_minipost_are_learned_over_alike(shop: Workshop) -> None:
    """The exit of a run and its export give the same pack; standard adaptation another one, of the same lineage."""
    from_run = LanguagePack.load(shop.adapted("mini") / "packs/de")
    mini = shop.exported("mini-model", "--exit", "2")
    changes = {"adaptation__source": str(mini), "adaptation__exit": None, "adaptation__primary": str(shop.primary)}
    from_export = LanguagePack.load(shop.adapted("mini-of-export", **changes) / "packs/de")
    assert torch.equal(from_export.token_embeddings, from_run.token_embeddings)
    assert torch.equal(from_export.output_bias, from_run.output_bias)
    assert read_scalars(shop.folder / "mini")["validation/loss_de_primary"] == pytest.approx(
        read_scalars(shop.folder / "mini-of-export")["validation/loss_de_primary"], rel=1e-6
    )
    standard = shop.adapted(
        "standard", adaptation__source=str(shop.primary), adaptation__method="standard", adaptation__exit=None
    )
    pack = LanguagePack.load(standard / "packs/de")
    assert pack.lineage == from_run.lineage and pack.details["body"]["layers"] == 3
    assert not torch.equal(pack.token_embeddings, from_run.token_embeddings)


def test_a_plugged_export_equals_the_live_plugged_model(shop: Workshop) -> None:
    pack = shop.adapted("mini") / "packs/de"
    live, tokenizer = AutoModelForMaskedLM.from_pretrained(shop.primary), AutoTokenizer.from_pretrained(shop.primary)
    german = megamini.plug(live, tokenizer, pack)
    ids = german("Bread is made of flour, water and salt.", return_tensors="pt")
    for number, source in enumerate((shop.run, shop.primary)):
        out = shop.folder / f"plugged-{number}"
        shop.command(export, str(source), str(out), "--pack", str(pack))
        model, report = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
        assert not any(report.values())
        own = AutoTokenizer.from_pretrained(out)
        assert own("Bread is made")["input_ids"] == german("Bread is made")["input_ids"]
        with torch.no_grad():
            assert (model.eval()(**ids).logits - live.eval()(**ids).logits).abs().max() <= 1e-5
        assert model.config.megamini["plugged"] == "de"
        assert "language: de" in (out / "README.md").read_text()
        # It declares its lineage, so another pack of it may follow.
        megamini.plug(model, own, pack)


def test_what_a_pack_does_not_fit_is_refused(shop: Workshop) -> None:
    pack = shop.adapted("mini") / "packs/de"
    tokenizer = AutoTokenizer.from_pretrained(shop.primary)
    task = AutoModelForSequenceClassification.from_pretrained(shop.primary, num_labels=3)
    megamini.plug(task, tokenizer, pack)  # a fine-tuned primary accepts it

    other = shop.exported("other-seed", source=shop.pretrained("roberta", seed=4))
    with pytest.raises(UserError, match="other token embeddings"):
        megamini.plug(AutoModelForMaskedLM.from_pretrained(other), AutoTokenizer.from_pretrained(other), pack)
    trained_since = AutoModelForMaskedLM.from_pretrained(shop.primary)
    trained_since.get_input_embeddings().weight.data[9] *= 1.1
    with pytest.raises(UserError, match="trained since"):
        megamini.plug(trained_since, tokenizer, pack)
    with pytest.raises(UserError, match="another tokenizer"):
        megamini.plug(
            AutoModelForMaskedLM.from_pretrained(shop.primary), AutoTokenizer.from_pretrained(shop.target("de")), pack
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_killed_and_stopped_ends_as_an_uninterrupted_one(shop: Workshop, precision: str) -> None:
    settings = {
        "adaptation.dropout": 0.1,
        "data.workers": 2,
        "schedule.duration": "40 updates",
        "checkpoint.every": "5 updates",
        "telemetry.validate_every": None,
        "training.precision": precision,
        "adaptation.pack_every": "20 updates",
    }
    runs = {name: shop.recipe(f"{name}-{precision}", settings) for name in ("whole", "broken")}
    shop.command(adapt, runs["whole"])
    directory = shop.folder / f"broken-{precision}"
    statuses = {signal.SIGKILL: -9, signal.SIGTERM: 0, signal.SIGUSR1: TRY_AGAIN}
    for update, name in zip((8, 18, 28), statuses, strict=True):
        with Ranks(adapt, [runs["broken"]], None, shop.folder / "logs") as running:
            wait_for_update(directory, update, running)
            os.kill(running.pids[0], name)
            assert running.wait() == [statuses[name]], running.printed()
        assert not (directory / "packs/de").exists()
    assert "resuming from checkpoint" in shop.command(adapt, runs["broken"])
    for name in ("de", "de-step-00000020"):
        packs = [
            load_file(shop.folder / f"{run}-{precision}/packs/{name}/embeddings.safetensors")
            for run in ("whole", "broken")
        ]
        assert all(torch.equal(packs[0][key], packs[1][key]) for key in packs[0])
    curves = [read_scalars(shop.folder / f"{run}-{precision}") for run in ("whole", "broken")]
    for name in curves[0].keys() - {"train/tokens_per_second", "train/mfu", "train/waiting_for_data"}:
        assert curves[0][name] == curves[1][name], name
    written = {path: path.read_bytes() for path in (directory / "recipe.yaml", directory / "packs/de/pack.json")}
    (directory / "recipe.yaml").write_bytes(b"torn\xff")
    changed = {"schedule.duration": "30 updates", "optimizer.learning_rate": 1e-4}
    said = shop.command(adapt, shop.recipe(directory.name, settings | changed))
    assert "is complete: 40 updates; not trained with optimizer.learning_rate: " in said
    assert all(path.read_bytes() == content for path, content in written.items()), "says how it was trained"


def test_each_language_learned_beside_others_is_the_one_learned_alone(shop: Workshop) -> None:
    """Clipping, schedule and random numbers are each language's own; vocabularies differ in size."""
    paths = {"de": shop.target("de"), "it": shop.target("it", 450), "da": shop.target("da", 400)}
    together = shop.adapted("together", data__path=[str(path) for path in paths.values()], optimizer__clip_norm=0.1)
    scalars = read_scalars(together)
    for language, path in paths.items():
        alone = shop.adapted(f"alone-{language}", data__path=str(path), optimizer__clip_norm=0.1)
        packs = [LanguagePack.load(run / "packs" / language) for run in (together, alone)]
        torch.testing.assert_close(packs[0].token_embeddings, packs[1].token_embeddings, rtol=0, atol=2e-5)
        torch.testing.assert_close(packs[0].output_bias, packs[1].output_bias, rtol=0, atol=2e-5)
        own = read_scalars(alone)
        for name in (f"train/loss_{language}", f"validation/loss_{language}", f"validation/loss_{language}_primary"):
            assert scalars[name] == pytest.approx(own[name], rel=1e-5), name
        assert packs[0].details["ledger"]["flops"] == packs[1].details["ledger"]["flops"]
        assert packs[0].details["ledger"]["languages_side_by_side"] == 3
        assert max(own["train/grad_norm"].values()) > 0.1, "clipping takes part"


def test_a_plateau_stops_one_language_and_the_others_go_on(shop: Workshop) -> None:
    """A least gain that no language can reach: each stops after `patience` validations, with its own ledger."""
    changes = {
        "data__path": [str(shop.target("de")), str(shop.target("it", 450))],
        "adaptation__stop": {"plateau": {"patience": 2, "least_gain": 50.0}},
        "telemetry__validate_every": "1 updates",
    }
    run = shop.adapted("plateau", **changes)
    assert json.loads((run / "compute.json").read_text())["updates"] == 3  # the first is the best there was
    assert LanguagePack.load(run / "packs/de").details["ledger"]["updates"] == 3


def test_flops_and_seconds_end_a_run(shop: Workshop) -> None:
    full = json.loads((shop.adapted("mini") / "compute.json").read_text())
    cut = shop.adapted("flops", adaptation__stop={"flops": full["flops"] * 0.6})
    ledger = json.loads((cut / "compute.json").read_text())
    assert ledger["updates"] == int(UPDATES * 0.6) and ledger["flops"] <= full["flops"] * 0.6
    rates = read_scalars(cut)["train/lr"]
    assert rates[ledger["updates"]] <= max(rates.values()) / 2, "the schedule is shortened with it"
    timed = shop.adapted("seconds", adaptation__stop={"seconds": 0.001}, schedule__duration="1000 updates")
    assert json.loads((timed / "compute.json").read_text())["updates"] == 1
    assert (timed / "packs/de/pack.json").is_file()


def test_a_mask_share_that_changes_costs_what_its_stages_cost(shop: Workshop) -> None:
    stages = [{"share": 0.4, "until": "3 updates"}, {"share": 0.15}]
    ledgers = {}
    for name, share in {"falling": stages, "high": 0.4, "mini": 0.15}.items():
        run = shop.adapted(name, objective__mask_share=share)
        ledgers[name] = json.loads((run / "compute.json").read_text())["flops"]
        assert LanguagePack.load(run / "packs/de").details["ledger"]["flops"] == ledgers[name]
    high, low = ledgers["high"] // UPDATES, ledgers["mini"] // UPDATES
    assert ledgers["falling"] == 3 * high + (UPDATES - 3) * low
    assert high - low == 8 * (12 - 4) * (2 * 2 * 32**2 + 3 * 2 * 32 * 420), "8 blocks of 12 and of 4 masked positions"

    def most(flops: float):
        changes = {"objective.mask_share": stages, "adaptation.stop": {"flops": flops}}
        return build_setup(load_adaptation_recipe(shop.recipe("most", changes)))

    setup = most(ledgers["falling"])
    assert setup.schedule.updates == UPDATES
    assert "12 positions in every block for 3 updates, then 4 for 5" in setup.plan()
    assert f"{ledgers['falling']:.3g} in all" in setup.plan()
    assert most(3 * high + 2 * low).schedule.updates == 5
    assert most(3 * high + 2 * low - 1).schedule.updates == 4
    with pytest.raises(
        UserError, match=r"objective\.mask_share: the stage of share 0\.4 ends after 3 updates, and the"
    ):
        most(3 * high)
    with pytest.raises(UserError, match=re.escape(f"are too few for one update of {high:.3g}")):
        most(high - 1)


@pytest.mark.parametrize("kind", ["random", "unigram", "overlap", "subword", "focus", "combined", "lexicon", "pack"])
def test_every_starting_point_is_learned_from(shop: Workshop, kind: str) -> None:
    more = {"focus": {"adaptation__focus_through": "scikit-learn"}}
    if kind == "lexicon":
        (shop.folder / "words.tsv").write_text("the\tand\nbread\twater\n")
        more["lexicon"] = {"adaptation__lexicon": str(shop.folder / "words.tsv")}
    if kind == "pack":
        more["pack"] = {"adaptation__pack": str(shop.adapted("mini") / "packs/de")}
    run = shop.adapted(f"from-{kind}", adaptation__initialise=kind, **more.get(kind, {}))
    assert LanguagePack.load(run / "packs/de").details["starting_point"]["kind"] == kind
    losses = read_scalars(run)["train/loss_de"]
    if kind == "pack":
        assert losses[1] < read_scalars(shop.adapted("mini"))["train/loss_de"][1] - 0.1, "it goes on from there"


def test_a_word_list_counts_by_what_it_says(shop: Workshop, capfd: pytest.CaptureFixture) -> None:
    """Mixed from too by focus; a run goes on with a copy of its list, and not with a changed one."""
    words = shop.folder / "listed.tsv"
    words.write_text("the\tand\nbread\twater\n")
    said = shop.command(adapt, shop.recipe("listed", {"adaptation.lexicon": str(words)}))
    run = shop.folder / "listed"
    facts = LanguagePack.load(run / "packs/de").details["starting_point"]
    assert facts["kind"] == "focus" and facts["lexicon_whole_words"] > 0 and facts["through"] == "scikit-learn"
    assert f"{facts['lexicon_token_share']:.0%} of the text as whole words" in said
    assert ("(few: is it a list of this language" in said) == (facts["lexicon_token_share"] < 0.1)
    copied = words.rename(shop.folder / "copied.tsv")
    longer = {"schedule.duration": f"{UPDATES + 1} updates"}
    change = f"schedule.duration: {UPDATES} updates -> {UPDATES + 1} updates"
    said = shop.command(adapt, shop.recipe("listed", {"adaptation.lexicon": str(copied), **longer}))
    assert f"goes on with a changed recipe: {change}\n" in said
    assert LanguagePack.load(run / "packs/de").details["settings_changed"] == [f"after update {UPDATES}: {change}"]
    copied.write_text("the\tof\n")
    with pytest.raises(SystemExit) as ended:
        adapt(shop.recipe("listed", {"adaptation.lexicon": str(copied), **longer}))
    assert ended.value.code == 2
    assert re.search(r"adaptation.lexicon is sha256 .* was trained with sha256 .* another name", capfd.readouterr().err)


def test_without_deepspeed(shop: Workshop) -> None:
    """The same command where importing deepspeed fails; its packs are those of any other run."""
    recipe = shop.recipe("without-deepspeed", {})
    script = "import runpy, sys; sys.modules['deepspeed'] = None; sys.argv = ['adapt.py', sys.argv[1]]; "
    script += "runpy.run_path('launch/adapt.py', run_name='__main__')"
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", script, recipe], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    packs = [LanguagePack.load(shop.folder / name / "packs/de") for name in ("without-deepspeed", "mini")]
    shop.adapted("mini")
    assert torch.equal(packs[0].token_embeddings, packs[1].token_embeddings)


def test_dry_run_and_usage(shop: Workshop, tmp_path: Path) -> None:
    printed = shop.command(adapt, shop.recipe("planned", {}), "--dry-run", "training.precision=auto")
    assert re.search(r"training.precision: auto is (fp32|bf16) here \(matrix products .* measured\)", printed)
    assert "x less than over the 3 layers of the primary model" in printed and "initialise: focus" in printed
    assert not (shop.folder / "planned").exists()
    assert "launch/recipes/quickstart/adapt_mini.yaml" in shop.command(adapt)


def test_going_on_from_a_pack_adds_to_what_it_has_cost(shop: Workshop) -> None:
    first = LanguagePack.load(shop.adapted("mini") / "packs/de")
    run = shop.adapted(
        "on",
        adaptation__initialise="pack",
        adaptation__pack=str(shop.adapted("mini") / "packs/de"),
        adaptation__pack_every="4 updates",
    )
    start = LanguagePack.load(run / "packs/de-step-00000000")
    assert torch.equal(start.token_embeddings, first.token_embeddings)
    assert torch.equal(start.output_bias, first.output_bias)
    for name in ("updates", "tokens", "flops"):
        before, after = (pack.details["ledger"][name] for pack in (first, LanguagePack.load(run / "packs/de")))
        assert start.details["ledger"][name] == before and after == 2 * before
