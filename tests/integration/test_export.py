"""Every run exports to an ordinary checkpoint: plain `transformers` gives the logits that the live engine gave."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from megamini.data.batches import Batch
from megamini.models.primary_model import PrimaryModel
from megamini.training import run as run_module
from megamini.training.engines.engine import Engine
from megamini.training.setup import RunSetup
from megamini.training.state.train_state import TrainState
from tests.integration.cases import BLOCK_LENGTH, DECODERS, FAMILIES, UNTIED, Case
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT
from tests.integration.ranks import ENVIRONMENT, Ranks, pretrain

pytestmark = pytest.mark.launched

UPDATES = 4
# Each family and each stage once at least, and an exit at each layer.
SUBSET = [
    Case("roberta", stage=1),
    Case("xlm-roberta", stage=2, exits=(1, 2)),
    Case("xlm-roberta-xl", stage=3),
    Case("bert", stage=3, exits=(1, 2)),
    Case("modernbert", stage=2, exits=(1, 2)),
    Case("llama", stage=3, exits=(1, 2)),
    Case("gpt_neox", stage=2, exits=(1, 2)),
    Case("gemma", stage=1, exits=(2,)),
]
MATRIX = [
    Case(family, stage, ranks=1 if stage is None else 2, exits=(1, 2))
    for family in (*FAMILIES, *DECODERS)
    for stage in (None, 0, 1, 2, 3)
]


@pytest.mark.parametrize("case", SUBSET, ids=str)
def test_exported_equals_live(case: Case, lab: Lab, tmp_path: Path, record_property) -> None:
    check_exported_equals_live(case, lab, tmp_path, record_property)


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", [case for case in MATRIX if case not in SUBSET], ids=str)
def test_exported_equals_live_everywhere(case: Case, lab: Lab, tmp_path: Path, record_property) -> None:
    check_exported_equals_live(case, lab, tmp_path, record_property)


def check_exported_equals_live(case: Case, lab: Lab, folder: Path, record_property) -> None:
    """Primary model and every mini-model of a short run."""
    live = train(case, lab, folder)
    ids = probe()
    for number, layer in enumerate((*case.exits, None)):
        out = folder / f"export-{layer}"
        export(folder / str(case), out, *(() if layer is None else ("--exit", str(layer))))
        kind = AutoModelForCausalLM if case.causal else AutoModelForMaskedLM
        model, report = kind.from_pretrained(out, output_loading_info=True)
        assert {kind: names for kind, names in report.items() if names} == {}
        assert model.config.model_type == case.family
        assert model.config.num_hidden_layers == (layer or 3)
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert tied == (case.family not in UNTIED)
        with torch.no_grad():
            logits = model.eval()(ids).logits.flatten(0, 1)
        difference = (logits - live[number]).abs().max().item()
        record_property(f"difference of exit {layer}", difference)
        assert live[number].std() > 1e-3, "logits that are all alike would prove nothing"
        assert difference <= 1e-5
        assert_same_tokenizer(out, lab.data_of(case), ends_texts=not case.causal or case.family == "qwen2")
    assert (live[0] - live[-1]).abs().max() > 1e-2, "the heads would not differ"


def test_command_without_our_code(lab: Lab, tmp_path: Path) -> None:
    """`tools/export.py` on one checkpoint, read by a process that cannot import megamini."""
    case = Case(stage=1)
    train(case, lab, tmp_path)
    source, out = tmp_path / str(case) / "checkpoints" / f"step-{UPDATES:08d}", tmp_path / "out"
    done = run([sys.executable, "tools/export.py", str(source), str(out), "--exit", "2"], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: 2 layers from step-{UPDATES:08d}, verified with plain transformers\n"
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    reader = (
        "import importlib.util, sys; assert importlib.util.find_spec('megamini') is None; "
        "from transformers import pipeline; "
        "print(len(pipeline('fill-mask', model='out')(f'Bread is {sys.argv[1]}, water and salt.')))"
    )
    mask = AutoTokenizer.from_pretrained(out).mask_token
    done = run([sys.executable, "-c", reader, mask], tmp_path)
    assert done.stdout.strip() == "5", done.stderr

    again = run([sys.executable, "tools/export.py", str(source), str(out)], ROOT)
    assert again.returncode == 2
    assert again.stderr.strip() == f"error: {out} exists already; give another folder, or remove it"


def train(case: Case, lab: Lab, folder: Path) -> torch.Tensor:
    """Train a short run of `case`; the live engine's logits on `probe()`, fp32 [heads, positions, V]."""
    recipe = case.recipe(lab.data_of(case), folder)
    recipe["model"] |= {"exits": list(case.exits), "dropout": 0.1}
    recipe["schedule"] |= {"duration": f"{UPDATES} updates", "warmup": "1 updates"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [str(folder / "recipe.yaml")]
    if case.stage is not None:
        zero = {"stage": case.stage} | ({"stage3_param_persistence_threshold": 0} if case.stage == 3 else {})
        (folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": zero}))
        arguments += ["--deepspeed_config", str(folder / "deepspeed.json")]
    ranks = None if case.stage is None else case.ranks
    with Ranks(pretrain_and_keep_logits, [str(folder), *arguments], ranks, folder / "logs") as running:
        assert set(running.wait()) == {0}, running.printed()
    return load_file(folder / "logits.safetensors")["logits"]


def probe() -> torch.Tensor:
    """Token ids [2, L] of ordinary pieces."""
    return torch.randint(10, 390, (2, BLOCK_LENGTH), generator=torch.Generator().manual_seed(0))


def export(source: Path, out: Path, *options: str) -> None:
    """`python tools/export.py`, in this process, which has imported everything."""
    with mock.patch.object(sys, "argv", ["tools/export.py", str(source), str(out), *options]):
        runpy.run_path(str(ROOT / "tools/export.py"), run_name="__main__")


def run(arguments: list[str], directory: Path) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in {**os.environ, **ENVIRONMENT}.items() if name != "PYTHONPATH"}
    return subprocess.run(
        arguments, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def assert_same_tokenizer(out: Path, data: Path, ends_texts: bool) -> None:
    """The same special tokens, and the same ids for every line of the corpus and some text that it does not have, but
    for the token that ends a text where there is to be none."""
    exported, original = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(data)
    lines = (ROOT / "tests/integration/prose.txt").read_text().splitlines()
    for line in [*lines, "Größe, déjà vu  Привет 你好 🙂 <mask> </s>\t."]:
        ids = original(line)["input_ids"]
        assert exported(line)["input_ids"] == (ids if ends_texts else ids[:-1]), line
    assert exported.special_tokens_map == original.special_tokens_map
    assert len(exported) == len(original) == 400


# --- in the ranks ---------------------------------------------------------------------------------------------------


def pretrain_and_keep_logits(folder: str, *arguments: str) -> None:
    """The command, and the logits of the engine that has trained, before the command ends the process."""
    execute = run_module.execute

    def execute_and_keep(setup: RunSetup, engine: Engine, *more: Any) -> TrainState:
        state = execute(setup, engine, *more)
        logits = live_logits(engine)
        if engine.rank == 0:
            save_file({"logits": logits.contiguous()}, Path(folder) / "logits.safetensors")
        return state

    with mock.patch.object(run_module, "execute", execute_and_keep):
        pretrain(*arguments)


def live_logits(engine: Engine) -> torch.Tensor:
    """Of all heads at all positions of the probe, [heads, positions, V]. All ranks: ZeRO-3 gathers on the way."""

    def forward(self: PrimaryModel, input_ids, positions, labels, attention_mask=None):
        output = self.model.get_output_embeddings()
        logits = functional.linear(self.head_rows(input_ids, positions), output.weight, output.bias)
        return logits.sum(), logits.view(len(self.head_names), len(positions), -1)

    ids = probe()
    positions = torch.arange(ids.numel())
    with mock.patch.object(PrimaryModel, "forward", forward):
        return engine.evaluate(Batch(ids, positions, labels=torch.zeros_like(positions)))
