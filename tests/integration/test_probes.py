"""`initialise: auto`: every start is tried for some updates; what is chosen, why, and what that cost is in the pack."""

import json
import random

import pytest
import torch

from megamini.adaptation import probes, starts
from megamini.adaptation.candidates import Candidate, candidates, probe_updates
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import AdaptationSection, load_adaptation_recipe
from megamini.adaptation.relearn_setup import build_setup
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
        "auto", adaptation__initialise="auto", adaptation__focus_through=FOCUS, schedule__duration="200 updates"
    )
    pack = LanguagePack.load(run / "packs/de")
    facts = pack.details["starting_point"]
    found = facts["probes"]
    assert set(found["candidates"]) == {"subword", "focus"} and found["updates_each"] == 10
    assert (
        found["chosen"] == facts["kind"] == min(found["candidates"], key=lambda one: found["candidates"][one]["loss"])
    )
    own = build_setup(load_adaptation_recipe(run / "recipe.yaml"))
    assert found["flops"] == 2 * own.flops("de", 10) <= 0.1 * own.flops("de", 200)
    ledger = json.loads((run / "compute.json").read_text())
    assert ledger["flops"] == own.flops("de", 200) + found["flops"] == pack.details["ledger"]["flops"]
    assert ledger["tokens"] == 220 * own.tokens_per_update == pack.details["ledger"]["tokens"]
    # It starts exactly where the recipe that names that start does.
    named = build_setup(
        load_adaptation_recipe(run / "recipe.yaml", [f"adaptation.initialise={facts['kind']}"])
    ) if facts["kind"] == "focus" else None  # fmt: skip
    if named is not None:
        kept = LanguagePack.load(run / "starts/de")
        assert torch.equal(kept.token_embeddings, starts.starting_point(named, "de").matrix)


def test_a_probe_is_not_repeated_and_leaves_the_body_as_it_was(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    changes = {"adaptation.initialise": "auto", "adaptation.focus_through": FOCUS, "schedule.duration": "200 updates"}
    setup = build_setup(load_adaptation_recipe(shop.recipe("again", changes)))
    before = {name: value.clone() for name, value in setup.source.body.state_dict().items()}
    first = starts.starting_points(setup)["de"]
    assert all(torch.equal(value, before[name]) for name, value in setup.source.body.state_dict().items())
    monkeypatch.setattr(starts, "best_start", lambda *_, **__: pytest.fail("probed again"))
    assert torch.equal(starts.starting_points(setup)["de"].matrix, first.matrix)
    assert (
        "probes" in setup.plan() and "2 starts (subword; focus), 10 updates from each: 10% of the run" in setup.plan()
    )


def test_held_out_lines_decide_where_there_is_parallel_text(shop: Workshop, tmp_path):
    draw, words = random.Random(0), ["the", "bread", "flour", "water", "salt", "oven", "and", "with", "warm", "yeast"]
    lines = [" ".join(draw.choices(words, k=6)) for _ in range(600)]
    for name in ("ours", "theirs"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    changes = {
        "adaptation.initialise": "auto",
        "adaptation.parallel": [str(tmp_path / "ours"), str(tmp_path / "theirs")],
        "schedule.duration": "300 updates",
    }
    start = starts.starting_point(build_setup(load_adaptation_recipe(shop.recipe("parallel", changes))), "de")
    found = start.facts["probes"]
    assert found["by"] == "retrieval" and set(found["candidates"]) == {"subword", "focus", "focus with parallel text"}
    shares = {name: values["retrieval"] for name, values in found["candidates"].items()}
    assert shares[found["chosen"]] == max(shares.values()) and all(0 <= share <= 1 for share in shares.values())


def test_a_run_too_short_for_probes_says_how_long_is_enough(shop: Workshop):
    with pytest.raises(UserError, match=r"8 updates are too few for 2 probes.*200 updates or more"):
        build_setup(load_adaptation_recipe(shop.recipe("short", {"adaptation.initialise": "auto"})))
    assert probe_updates(100_000, 4) == 50 and probe_updates(1500, 5) == 30 and probe_updates(200, 2) == 10


def test_candidates_are_those_that_the_data_allow():
    section = {"source": "x", "method": "mini", "initialise": "auto"}
    names = [one.name for one in candidates(AdaptationSection(**section, lexicon="l", parallel=["a", "b"]))]
    assert names == [
        "subword", "focus", "focus with word list", "focus with parallel text",
        "focus with word list and parallel text",
    ]  # fmt: skip
    assert candidates(AdaptationSection(**section)) == [Candidate("subword"), Candidate("focus")]


def test_lines_find_their_translations():
    theirs = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert probes._found(theirs * 2 + 3, theirs) == 1
    assert probes._found(theirs.roll(1, 0), theirs) == 0
    seen, held = probes._split([(str(n), str(n)) for n in range(1000)])
    assert len(held) == 100 and len(seen) == 900 and not set(held) & set(seen)
    assert probes._split([("a", "b")] * 499) == ([("a", "b")] * 499, [])
