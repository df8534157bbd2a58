"""Starting points are part of their run: kept with it, read again, and those of earlier versions as they were."""

import json
from pathlib import Path

import pytest
import torch

from megamini.adaptation import starts
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from tests.integration.adapting import UPDATES, Workshop, adapt
from tests.integration.conftest import Lab

pytestmark = pytest.mark.launched


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("starts"))


def setup_of(shop: Workshop, name: str, **changes):
    return build_setup(load_adaptation_recipe(shop.recipe(name, {k.replace("__", "."): v for k, v in changes.items()})))


def test_a_start_is_computed_once(shop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    setup = setup_of(shop, "once")
    first = starts.starting_points(setup)["de"]
    assert first.facts["calibrated"]
    kept = setup.recipe.run_directory / "starts/de"
    assert torch.equal(LanguagePack.load(kept).token_embeddings, first.matrix)
    monkeypatch.setattr(starts, "initialise", lambda *_, **__: pytest.fail("computed again"))
    again = starts.starting_points(setup)["de"]
    assert torch.equal(again.matrix, first.matrix) and torch.equal(again.bias, first.bias)
    assert again.facts == first.facts
    monkeypatch.undo()
    # Another recipe, nothing trained yet: another start.
    other = starts.starting_points(setup_of(shop, "once", adaptation__initialise="overlap"))["de"]
    assert other.facts["kind"] == "overlap" and not torch.equal(other.matrix, first.matrix)
    # A torn one is said.
    (kept / "embeddings.safetensors").write_bytes(b"torn")
    assert torch.equal(starts.starting_points(setup_of(shop, "once"))["de"].matrix, first.matrix)
    assert "computed again" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_has_the_start_that_it_had(shop: Workshop):
    """It has checkpoints, keeps no start, and knew of no calibration."""
    setup = setup_of(shop, "earlier")
    (setup.recipe.run_directory / "checkpoints/step-00000001").mkdir(parents=True)
    start = starts.starting_points(setup)["de"]
    assert start.facts["calibrated"] is False
    assert not (setup.recipe.run_directory / "starts").exists()
    assert torch.equal(start.matrix, starts.starting_point(setup, "de", calibrate=False).matrix)
    said = setup_of(shop, "earlier", adaptation__calibrate=True)
    assert starts.starting_points(said)["de"].facts["calibrated"] is True


def test_a_run_goes_on_from_no_other_start(shop: Workshop, capfd: pytest.CaptureFixture):
    run = shop.adapted("mini")
    longer = {"schedule.duration": f"{UPDATES + 1} updates"}
    kept = run / "starts/de/pack.json"
    description = json.loads(kept.read_text())
    kept.unlink()  # lost: what is computed in its place is not calibrated, and another one
    with pytest.raises(SystemExit) as ended:
        adapt(shop.recipe("mini", longer))
    assert ended.value.code == 2
    assert "starting_point.sha256" in capfd.readouterr().err
    Path(kept).write_text(json.dumps(description))
    assert "resuming from checkpoint" in shop.command(adapt, shop.recipe("mini", longer))
