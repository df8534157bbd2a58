"""Write a model as an ordinary checkpoint of `transformers`, and prove that it is one before calling it done."""

import os
import re
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import encoder
from megamini.errors import UserError, writing
from megamini.models.lineage import lineage_of
from megamini.models.masked_lm import assert_tied

_PROBE = "The quick brown fox; Übermäßig große Häuser, déjà vu. Привет, мир! 你好 123"


def export_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, description: dict, card: str
) -> None:
    """Write weights (safetensors), configuration, tokenizer and model card into `out`, which must not exist.

    `description` and the lineage are kept in `config.json` under `megamini`. What was written is loaded again with
    plain `transformers`: nothing missing or unexpected, embeddings tied, equal logits and token ids; else `UserError`.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give another folder, or remove it")
    assert_tied(model)
    model.config.megamini = {**description, "lineage": lineage_of(model, tokenizer)}
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(out):
        aside.mkdir(parents=True)
        _save(model, tokenizer, aside)
        (aside / "README.md").write_text(card, encoding="utf-8")
    _verify(model, tokenizer, aside)
    aside.rename(out)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Rust's writers report a full disk as errors of their own; here it is an `OSError` as everywhere else."""
    try:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def _verify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Raise `UserError` unless plain `transformers` gets back what was written."""
    again, report = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True, trust_remote_code=False)
    problems = [f"{kind}: {sorted(names)[0]}" for kind, names in report.items() if names]
    if problems:
        raise UserError(f"{directory}: the exported checkpoint does not load cleanly: {'; '.join(problems)}")
    assert_tied(again)
    loaded_tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    ids = encoder(tokenizer).encode(_PROBE).ids
    if encoder(loaded_tokenizer).encode(_PROBE).ids != ids:
        raise UserError(f"{directory}: the exported tokenizer gives other ids than the one of the run")
    probe = torch.tensor([ids[: min(len(ids), model.config.max_position_embeddings // 2)]])
    with torch.no_grad():
        difference = (again.eval()(probe).logits - model.eval()(probe).logits).abs().max().item()
    if not difference <= 1e-5:
        raise UserError(f"{directory}: the exported model's logits differ by {difference:.2g}")
