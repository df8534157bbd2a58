"""MiniPost by the command: its mini-model is exported and takes a language. `test_parity.py` has what it learns."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from megamini.adaptation.packs.language_pack import LanguagePack
from tests.integration.adapting import Workshop, export
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import pretrain

pytestmark = pytest.mark.launched

STAGES = (None, 2, 3)


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("minipost"))


def bridge(shop: Workshop, stage: int | None, family: str = "roberta", **training: object) -> Path:
    """The directory of a MiniPost run over the exported primary of `family`: 1 layer, 1 bridge layer."""
    primary = shop.exported(f"primary-{family}", source=shop.pretrained(family))
    home = shop.folder / f"minipost-{family}-{stage}-{'-'.join(map(str, training.values()))}"
    case = Case(family, stage=stage, ranks=1 if stage is None else 2, exits=())
    if home.exists():
        return home / str(case)
    home.mkdir()
    recipe = case.recipe(shop.lab.data(), home)
    recipe["model"] = {"from_checkpoint": str(primary), "exits": [1], "bridge_layers": 1, "dropout": 0.0}
    recipe["objective"] = {"method": "minipost"}
    recipe["training"] |= training
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [str(home / "recipe.yaml")]
    if stage is not None:
        zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
        (home / "deepspeed.json").write_text(json.dumps({"zero_optimization": zero}))
        arguments += ["--deepspeed_config", str(home / "deepspeed.json")]
    shop.command(pretrain, *arguments, ranks=None if stage is None else 2)
    return home / str(case)


@pytest.mark.parametrize("stage", STAGES)
def test_the_bridge_learns_and_nothing_else_moves(shop: Workshop, stage: int | None) -> None:
    run = bridge(shop, stage)
    out = shop.folder / f"exported-{stage}"
    shop.command(export, str(run), str(out))
    mini = load_file(out / "model.safetensors")
    primary = load_file(shop.exported("primary-roberta") / "model.safetensors")
    moved = {name for name, tensor in mini.items() if not torch.equal(tensor, primary[name])}
    assert moved and all(name.startswith("roberta.encoder.layer.1.") for name in moved)
    assert not [name for name in mini if "layer.2." in name]
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["megamini"]["role"]) == (2, "mini-model")
    assert (
        config["megamini"]["lineage"]
        == json.loads((shop.folder / "primary-roberta/config.json").read_text())["megamini"]["lineage"]
    )
    assert "bridge layer" in (out / "README.md").read_text()
    model, report = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()) and model.config.num_hidden_layers == 2


def test_a_language_is_learned_over_the_bridged_model_and_plugs_into_the_primary(shop: Workshop) -> None:
    run = shop.adapted(
        "over-minipost",
        adaptation__source=str(bridge(shop, 2)),
        adaptation__exit=None,
        adaptation__primary=str(shop.exported("primary-roberta")),
    )
    pack = LanguagePack.load(run / "packs/de")
    assert pack.details["body"]["bridge_layers"] == 1 and pack.details["body"]["layers"] == 2
    scalars = read_scalars(run)
    assert {"validation/loss_de", "validation/loss_de_primary"} <= scalars.keys()


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "bert", "modernbert"])
@pytest.mark.all_combinations
def test_every_family_is_bridged_and_exported(shop: Workshop, family: str) -> None:
    for stage in (None, 3):
        run = bridge(shop, stage, family, activation_checkpointing=stage == 3)
        out = shop.folder / f"exported-{family}-{stage}"
        shop.command(export, str(run), str(out), "--exit", "1")
