"""Data made once, and runs made once per group of cases, for all integration tests."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from megamini.data.preparation.prepare import Settings, prepare
from megamini.data.tokenizer import load_tokenizer
from megamini.models.build import build_primary
from megamini.recipes.recipe import Recipe
from tests.device import ranks_that_fit
from tests.integration.cases import BLOCK_LENGTH, Case
from tests.integration.launching import read_scalars, run_command
from tests.integration.reference import Curve, train_reference

_PROSE = Path(__file__).parent / "prose.txt"


class Lab:
    """Prepared data, references and real runs, each made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._references: dict[Case, Curve] = {}
        self._launched: dict[tuple[Case, ...], tuple[Path, str]] = {}

    def data(self, vocab_size: int = 400, family: str = "") -> Path:
        """A data directory with so few blocks that 20 updates cross the end of an epoch. Of Qwen2 with a tokenizer like
        Qwen's, since the library reads no other beside such a model."""
        own = family == "qwen2"
        out = self.folder / f"data-{vocab_size}{'-qwen2' * own}"
        if not (out / "manifest.json").exists():
            tokenizer = str(like_qwens(self.folder / f"qwen2-{vocab_size}", vocab_size)) if own else None
            shape = {"block_length": BLOCK_LENGTH, "validation_share": 0.2}
            settings = Settings("en", vocab_size, tokenizer=tokenizer, decoder=own, **shape)
            prepare([str(_PROSE)], out, settings, processes=1)
        return out

    def data_of(self, case: Case) -> Path:
        return self.data(case.vocab_size, case.family)

    def source(self, case: Case) -> None:
        """A checkpoint to start from, where the case's recipe looks for it."""
        folder = self.data_of(case) / case.family
        if case.over_checkpoint and not folder.exists():
            begun = {"minipost": False, "lora": False, "tokens_alone": False}
            plain = replace(case, **begun, exits=(), checkpointing=False, precision="fp32")
            recipe = Recipe.model_validate(plain.recipe(self.data_of(case), self.folder))
            tokenizer = load_tokenizer(self.data_of(case))
            build_primary(recipe, tokenizer, BLOCK_LENGTH).model.save_pretrained(folder)

    def reference(self, case: Case) -> Curve:
        """The curve in plain PyTorch, which the same model and objective share."""
        self.source(case)
        key = replace(case, stage=None, accumulation=1, checkpointing=False, precision="fp32", ranks=1, offload=False)
        if key not in self._references:
            self._references[key] = train_reference(key, self.data_of(case))
        return self._references[key]

    def run(self, case: Case, group: Sequence[Case]) -> Curve:
        """The curve of the real run, made together with the other cases of `group`."""
        if tuple(group) not in self._launched:
            self._launched[tuple(group)] = self._launch(group)
        runs, printed = self._launched[tuple(group)]
        parameters = runs / str(case) / "parameters.safetensors"
        if not parameters.exists():
            pytest.fail(f"{case} has no result; the ranks printed at last:\n{printed}")
        return Curve(read_scalars(runs / str(case)), load_file(parameters))

    def _launch(self, cases: Sequence[Case]) -> tuple[Path, str]:
        """Where the runs are, and what the ranks printed at last."""
        if not all(ranks_that_fit(case.ranks) for case in cases):
            pytest.skip("some of these cases have more ranks than there are GPUs")
        runs = self.folder / f"runs-{len(self._launched)}"
        runs.mkdir()
        for case in cases:
            self.source(case)
        jobs = [
            {
                "recipe": case.recipe(self.data_of(case), runs),
                "stage": case.stage,
                "ranks": case.ranks,
                "offload": case.offload,
            }
            for case in cases
        ]
        (runs / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, "tests/integration/rank_script.py", str(runs / "jobs.json")]
        return runs, run_command(command, timeout=560).stdout[-4000:]


def like_qwens(folder: Path, vocab_size: int) -> Path:
    """A byte-level tokenizer as Qwen2's: one token ends texts, and there is no other special one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=ByteLevel.alphabet())  # fmt: skip
    backend.train_from_iterator(_PROSE.read_text(encoding="utf-8").splitlines(), trainer)
    vocabulary = json.loads(backend.to_str())["model"]
    merges = [tuple(pair) for pair in vocabulary["merges"]]
    Qwen2Tokenizer(vocab=vocabulary["vocab"], merges=merges).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads are slower on models this small, far slower on a busy machine, and add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))
