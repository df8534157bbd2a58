"""LoRA by peft: every engine trains as plain PyTorch does, resumed equals uninterrupted, and exported is merged."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from megamini.training.finished.weights import load_run
from tests.integration.adapting import UPDATES, Workshop
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import pretrain
from tests.integration.test_decoders import plain_loss
from tests.integration.test_parity import BF16 as BF16_TOLERANCE
from tests.integration.test_parity import (
    RESET_EPS,
    assert_equal_curves,
    assert_model_has_what_the_optimizer_has,
    losses_of,
    relative_differences,
)
from tests.integration.test_resume import Runs, check_interrupted_equals_uninterrupted

pytestmark = pytest.mark.launched
peft = pytest.importorskip("peft")

LORA = {"exits": (), "lora": True}
CASES = [
    Case("llama", None, ranks=1, accumulation=4, **LORA),
    *(Case("llama", stage, accumulation=2, **LORA) for stage in range(4)),
    Case("gemma", 2, checkpointing=True, **LORA),
    Case("gpt_neox", 3, ranks=4, **LORA),
    Case("llama", 3, accumulation=2, forgetting=True, eps=RESET_EPS, **LORA),
    Case("llama", 2, exits=(), tokens_alone=True),
    Case("gemma", 2, exits=(), tokens_alone=True, forgetting=True),
]
BF16 = [
    Case("llama", 2, accumulation=2, precision="bf16", **LORA),
    Case("llama", 3, accumulation=2, precision="bf16", **LORA),
    Case("gemma", 1, exits=(), tokens_alone=True, precision="bf16"),
]


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fp32_equals_plain_pytorch(case: Case, lab: Lab, record_property) -> None:
    assert_equal_curves(lab.run(case, CASES + BF16), lab.reference(case), record_property)


@pytest.mark.parametrize("case", BF16, ids=str)
def test_bf16_follows_plain_pytorch(case: Case, lab: Lab) -> None:
    """Losses; and parameters, but for 1 in 1,000: in a row that is read once, bf16's rounding can decide the sign of a
    gradient, by which AdamW goes (1 of 12,800 token embeddings does so here)."""
    run, reference = lab.run(case, CASES + BF16), lab.reference(case)
    differences = relative_differences(run, reference)
    for name in losses_of(reference):
        assert differences[name] <= BF16_TOLERANCE, name
    for name, expected in reference.parameters.items():
        off = (run.parameters[f"master.{name}"] - expected).abs() > BF16_TOLERANCE
        assert off.float().mean() <= 1e-3, name
    assert_model_has_what_the_optimizer_has(run, torch.bfloat16)


@pytest.mark.parametrize(
    ("case", "signals"),
    [
        (Case("llama", 2, accumulation=2, **LORA), ("SIGKILL", "SIGUSR1")),
        (Case("llama", 3, precision="bf16", **LORA), ("SIGKILL",)),
    ],
    ids=str,
)
def test_interrupted_equals_uninterrupted(case: Case, signals: tuple[str, ...], lab: Lab, tmp_path: Path) -> None:
    lab.source(case)
    check_interrupted_equals_uninterrupted(case, signals, Runs(lab, tmp_path))


def trained(family: str, shop: Workshop) -> tuple[Path, Path]:
    """The checkpoint that a run starts from, and the run."""
    source, run = shop.exported(f"{family}-source", source=shop.pretrained(family)), shop.folder / f"{family}-lora"
    if not run.exists():
        case = Case(family, None, ranks=1, **LORA)
        values = case.recipe(shop.lab.data(), shop.folder) | {"name": run.name}
        values["model"] = {"from_checkpoint": str(source)}
        (shop.folder / f"{family}.yaml").write_text(yaml.safe_dump(values))
        shop.command(pretrain, str(shop.folder / f"{family}.yaml"))
    return source, run


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt_neox"])
def test_exported_is_what_peft_merges(family: str, shop: Workshop) -> None:
    """Plain `transformers` loads it; each matrix is what peft makes of the checkpoint's factors, bit for bit."""
    source, run = trained(family, shop)
    exported = shop.exported(f"{family}-merged", source=run)
    model, report = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values())

    (state,) = sorted((run / "checkpoints").glob("step-*"))[-1].glob("state-*.safetensors")
    saved = {key.split(":")[2].removeprefix("model."): value for key, value in load_file(state).items()
             if key.startswith("weight:")}  # fmt: skip
    before = AutoModelForCausalLM.from_pretrained(source)
    expected = {name: parameter.clone() for name, parameter in before.named_parameters()}
    targets = sorted({name.split(".")[-4] for name in saved if "lora_A" in name})
    adapted = peft.get_peft_model(before, peft.LoraConfig(r=4, lora_alpha=32, target_modules=targets))
    for name, parameter in adapted.get_base_model().named_parameters():
        if name in saved:
            parameter.data.copy_(saved[name].reshape(parameter.shape))
    merged = dict(adapted.merge_and_unload().named_parameters())
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, expected[name])}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, merged[name]), name
        assert (name in moved) == (parameter.dim() > 1), "matrices alone: norms and biases stay"
    # What goes on from the run sees the same model.
    again = load_run(run).model.model
    assert all(torch.equal(again.get_parameter(name), one) for name, one in merged.items())
    assert json.loads((exported / "config.json").read_text())["megamini"]["method"] == "lora"


def test_a_language_is_learned_over_the_merged_model(shop: Workshop) -> None:
    """The run is a source as its export is: a pack learned over it goes into both, and gives the same model."""
    _, run = trained("llama", shop)
    how = {"adaptation__source": str(run), "adaptation__method": "standard", "adaptation__exit": None}
    adapted = shop.adapted("over-lora", **how)
    into_export, into_run = (
        shop.exported(name, "--pack", str(adapted / "packs/de"), source=source)
        for name, source in (("in-export", shop.exported("llama-merged", source=run)), ("in-run", run))
    )
    one, other = (load_file(folder / "model.safetensors") for folder in (into_export, into_run))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    loss = plain_loss(AutoModelForCausalLM.from_pretrained(into_export), shop.target("de"))
    assert read_scalars(adapted)["validation/loss_de"][UPDATES] == pytest.approx(loss, rel=1e-5)
