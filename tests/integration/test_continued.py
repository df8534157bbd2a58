"""A plugged decoder learns its language further in the case study's three modes, then both: by the recipes that come
along, shortened, each exported and measured in both languages before and after."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megamini.data.preparation.prepare import Settings, prepare
from megamini.recipes.shipped import RECIPES
from tests.integration.adapting import Workshop
from tests.integration.cases import BLOCK_LENGTH
from tests.integration.conftest import _PROSE, Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import pretrain
from tests.integration.test_decoders import plain_loss

pytestmark = pytest.mark.launched
pytest.importorskip("peft")

UPDATES = 24
MODES = {"continue": "decoder-de-more", "lora": "decoder-de-lora", "embeddings": "decoder-de-embeddings"}


@pytest.fixture(scope="module")
def home(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugged decoder `decoder-de` and, read by its pieces, text of both languages."""
    shop = Workshop(lab, tmp_path_factory.mktemp("continued"))
    run = shop.pretrained("llama")
    pack = shop.adapted("pack", adaptation__source=str(run)) / "packs/de"
    plugged = shop.exported("decoder-de", "--pack", str(pack), source=shop.exported("primary", source=run))
    english = _PROSE.read_text(encoding="utf-8")
    # A language of its own, of the same pieces: every line backwards, word by word.
    other = "\n".join(" ".join(reversed(line.split())) for line in english.splitlines())
    for language, text in {"en": english, "de": other}.items():
        (shop.folder / f"{language}.txt").write_text(text, encoding="utf-8")
        settings = Settings(language, tokenizer=str(plugged), block_length=BLOCK_LENGTH, validation_share=0.2)
        prepare([str(shop.folder / f"{language}.txt")], shop.folder / f"more-{language}", settings, processes=1)
    return shop.folder


def train_and_export(home: Path, recipe: str, start: Path, name: str) -> Path:
    """The exported model of a recipe of launch/recipes/decoder/, over `start`, in a few updates."""
    changes = {
        "model.from_checkpoint": start,
        "data.path": f"[{home}/more-de, {home}/more-en]",
        "training.runs": home,
        "training.global_batch": 8,
        "training.micro_batch": 8,
        "schedule.duration": f"{UPDATES} updates",
        "schedule.warmup": "4 updates",
        "telemetry.every": 1,
        "telemetry.validate_every": f"{UPDATES // 2} updates",
        "telemetry.peak_tflops": 1.0,
    }
    shop, written = Workshop(None, home), [f"{key}={value}" for key, value in changes.items()]
    shop.command(pretrain, str(RECIPES / f"decoder/{recipe}.yaml"), *written)
    return shop.exported(f"{name}-exported", source=home / name)


def measured(folder: Path, home: Path) -> dict[str, float]:
    """Nats a token of each language's held-out blocks, by the library's own forward."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {language: plain_loss(model, home / f"more-{language}") for language in ("en", "de")}


def test_three_modes_and_the_bilingual_stage(home: Path) -> None:
    start = home / "decoder-de"
    before, model = measured(start, home), AutoModelForCausalLM.from_pretrained(start)
    own = dict(model.named_parameters())
    for recipe, name in MODES.items():
        exported = train_and_export(home, recipe, start, name)
        after = measured(exported, home)
        assert after["de"] < before["de"], recipe
        scalars = read_scalars(home / name)
        for language in ("de", "en"):  # measured along the way, too
            found = scalars[f"validation/loss_primary_{language}"]
            assert found.keys() == {UPDATES // 2, UPDATES}
            assert found[UPDATES] == pytest.approx(after[language], rel=1e-5)
        moved = {
            name
            for name, parameter in AutoModelForCausalLM.from_pretrained(exported).named_parameters()
            if not torch.equal(parameter, own[name])
        }
        of_tokens = {"model.embed_tokens.weight", "lm_head.weight"}
        matrices = {name for name, parameter in own.items() if parameter.dim() > 1}
        assert moved == {"continue": own.keys(), "lora": matrices, "embeddings": of_tokens}[recipe]
    lora = home / "decoder-de-lora-exported"
    both, one = measured(train_and_export(home, "bilingual", lora, "decoder-de-en"), home), measured(lora, home)
    assert both["en"] < one["en"], (both, one)
