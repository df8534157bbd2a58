"""`initialise: auto`: every start is tried for some updates; what is chosen, why, and what that cost is in the pack."""

import json
import random
import time

import pytest
import torch

from megamini.adaptation import probes, starts
from megamini.adaptation.candidates import CLOSE_LOSS, CLOSE_RETRIEVAL, Candidate, candidates, choose, probe_updates
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import AdaptationSection, load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from megamini.errors import UserError
from tests.integration.adapting import Workshop
from tests.integration.conftest import Lab

pytestmark = pytest.mark.launched

FOCUS = "scikit-learn"


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("probes"))


def test_the_best_of_the_probes_is_learned_from_and_what_they_cost_is_counted(shop: Workshop):
    run = shop.adapted(
        "auto", adaptation__initialise="auto", adaptation__focus_through=FOCUS, schedule__duration="300 updates"
    )
    pack = LanguagePack.load(run / "packs/de")
    facts = pack.details["starting_point"]
    found = facts["probes"]
    assert set(found["candidates"]) == {"subword", "focus", "combined"} and found["updates_each"] == 10
    losses = {name: values["loss"] for name, values in found["candidates"].items()}
    assert found["chosen"] == facts["kind"] and losses[facts["kind"]] <= min(losses.values()) + CLOSE_LOSS
    own = build_setup(load_adaptation_recipe(run / "recipe.yaml"))
    assert found["flops"] == 3 * own.flops("de", 10) <= 0.1 * own.flops("de", 300)
    ledger = json.loads((run / "compute.json").read_text())
    assert ledger["flops"] == own.flops("de", 300) + found["flops"] == pack.details["ledger"]["flops"]
    assert ledger["tokens"] == 330 * own.tokens_per_update == pack.details["ledger"]["tokens"]
    # It starts exactly where the recipe that names that start does.
    through = [] if facts["kind"] == "subword" else [f"adaptation.focus_through={FOCUS}"]
    changes = [f"adaptation.initialise={facts['kind']}", "adaptation.focus_through=null", *through]
    named = starts.starting_point(build_setup(load_adaptation_recipe(run / "recipe.yaml", changes)), "de")
    assert torch.equal(LanguagePack.load(run / "starts/de").token_embeddings, named.matrix)


def test_a_probe_is_not_repeated_and_leaves_the_body_as_it_was(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    changes = {"adaptation.initialise": "auto", "adaptation.focus_through": FOCUS, "schedule.duration": "300 updates"}
    setup = build_setup(load_adaptation_recipe(shop.recipe("again", changes)))
    before = {name: value.clone() for name, value in setup.source.body.state_dict().items()}
    first = starts.starting_points(setup)["de"]
    assert all(torch.equal(value, before[name]) for name, value in setup.source.body.state_dict().items())
    monkeypatch.setattr(starts, "best_start", lambda *_, **__: pytest.fail("probed again"))
    assert torch.equal(starts.starting_points(setup)["de"].matrix, first.matrix)
    assert (
        "probes" in setup.plan()
        and "3 starts (subword; focus; combined), 10 updates from each: at most 10% of the run" in setup.plan()
    )


@pytest.fixture
def parallel(tmp_path) -> list[str]:
    """Files of parallel text."""
    draw, words = random.Random(0), ["the", "bread", "flour", "water", "salt", "oven", "and", "with", "warm", "yeast"]
    lines = [" ".join(draw.choices(words, k=6)) for _ in range(600)]
    for name in ("ours", "theirs"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return [str(tmp_path / "ours"), str(tmp_path / "theirs")]


def test_held_out_lines_decide_where_there_is_parallel_text(shop: Workshop, parallel):
    changes = {
        "adaptation.initialise": "auto",
        "adaptation.parallel": parallel,
        "schedule.duration": "600 updates",
    }
    setup = build_setup(load_adaptation_recipe(shop.recipe("parallel", changes)))
    start = starts.starting_point(setup, "de")
    found = start.facts["probes"]
    assert found["by"] == "retrieval" and set(found["candidates"]) == {
        "subword",
        "focus",
        "combined",
        "combined with parallel text",
        "distil with parallel text",
    }
    shares = {name: values["retrieval"] for name, values in found["candidates"].items()}
    assert shares[found["chosen"]] >= max(shares.values()) - CLOSE_RETRIEVAL
    assert all(0 <= share <= 1 for share in shares.values())
    # What was distilled only to be tried has been paid for too.
    assert found["tokens"] > 5 * 10 * setup.tokens_per_update
    assert 5 * setup.flops("de", 10) < found["flops"] <= setup.flops("de", 60)
    assert "10 updates from each: at most 10% of the run" in setup.plan()


def test_the_seconds_of_a_distillation_that_is_chosen_count_once(shop: Workshop, parallel, monkeypatch):
    only = Candidate("distil", parallel=True)
    monkeypatch.setattr(probes, "candidates", lambda section: [only])
    changes = {
        "adaptation.initialise": "auto",
        "adaptation.parallel": parallel,
        "schedule.duration": "600 updates",
    }
    setup = build_setup(load_adaptation_recipe(shop.recipe("distilled", changes)))
    began = time.perf_counter()
    facts = starts.starting_point(setup, "de").facts
    assert facts["probes"]["seconds"] + facts["distillation"]["seconds"] < time.perf_counter() - began


def test_a_run_too_short_for_probes_says_how_long_is_enough(shop: Workshop):
    with pytest.raises(UserError, match=r"8 updates are too few to try 3 starts.*300 updates or more"):
        build_setup(load_adaptation_recipe(shop.recipe("short", {"adaptation.initialise": "auto"})))
    combined, distil = Candidate("combined"), Candidate("distil", parallel=True)
    assert probe_updates(100_000, [combined] * 4) == 50
    assert probe_updates(1500, [combined] * 5) == probe_updates(1500, [*[combined] * 3, distil]) == 30
    assert probe_updates(200, [combined] * 2) == 10


def test_candidates_are_those_that_the_data_allow():
    section = {"source": "x", "method": "mini", "initialise": "auto"}
    names = [one.name for one in candidates(AdaptationSection(**section, lexicon="l", parallel=["a", "b"]))]
    assert names == [
        "subword", "focus", "combined", "combined with word list", "combined with word list and parallel text",
        "combined with parallel text", "distil with parallel text",
    ]  # fmt: skip
    only_words = candidates(AdaptationSection(**section, lexicon="l"))
    assert [one.name for one in only_words[3:]] == ["combined with word list"]
    assert candidates(AdaptationSection(**section)) == [Candidate("subword"), Candidate("focus"), Candidate("combined")]


def test_of_close_ones_the_last_is_chosen():
    subword, focus, combined = (Candidate(kind) for kind in ("subword", "focus", "combined"))
    close = {subword: {"loss": 6.218}, focus: {"loss": 5.649}, combined: {"loss": 5.661}}  # as measured with German
    assert choose(close) == (combined, "loss")
    assert choose({**close, focus: {"loss": 5.6}}) == (focus, "loss")
    assert choose({**close, subword: {"loss": 5.0}}) == (subword, "loss")
    both = {subword: {"loss": 1, "retrieval": 0.2}, focus: {"loss": 9, "retrieval": 0.8}}
    assert choose(both) == (focus, "retrieval")
    assert choose({**both, combined: {"loss": 9, "retrieval": 0.78}}) == (combined, "retrieval")


def test_lines_find_their_translations():
    theirs = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert probes._found(theirs * 2 + 3, theirs) == 1
    assert probes._found(theirs.roll(1, 0), theirs) == 0
    seen, held = probes._split([(str(n), str(n)) for n in range(1000)])
    assert len(held) == 100 and len(seen) == 900 and not set(held) & set(seen)
    assert probes._split([("a", "b")] * 499) == ([("a", "b")] * 499, [])
