"""Write a model as an ordinary checkpoint of `transformers`, and prove that it is one before calling it done."""

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import encoder
from megamini.errors import UserError, writing
from megamini.models.lineage import declared_lineage, lineage_of
from megamini.models.masked_lm import assert_tied

_PROBE = "The quick brown fox; Übermäßig große Häuser, déjà vu. Привет, мир! 你好 123"


def export_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, description: dict, card: str
) -> None:
    """Write weights (safetensors), configuration, tokenizer and model card into `out`, which must not exist.

    `description` and the lineage are kept in `config.json` under `megamini`; a model with a pack plugged in keeps the
    lineage that it declares. What was written is loaded again with plain `transformers`: nothing missing or unexpected,
    embeddings tied, equal outputs and token ids; else `UserError`.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give another folder, or remove it")
    if model.get_output_embeddings() is not None:
        assert_tied(model)
    lineage = declared_lineage(model) or lineage_of(model, tokenizer)
    model.config.megamini = {**description, "lineage": lineage}
    aside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(out):
        aside.mkdir(parents=True)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")
    _verify(model, tokenizer, aside)
    aside.rename(out)


def _verify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Raise `UserError` unless plain `transformers` gets back what was written."""
    again, report = type(model).from_pretrained(directory, output_loading_info=True, trust_remote_code=False)
    problems = [f"{kind}: {sorted(names)[0]}" for kind, names in report.items() if names]
    if problems:
        raise UserError(f"{directory}: the exported checkpoint does not load cleanly: {'; '.join(problems)}")
    if again.get_output_embeddings() is not None:
        assert_tied(again)
    loaded_tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    ids = encoder(tokenizer).encode(_PROBE).ids
    if encoder(loaded_tokenizer).encode(_PROBE).ids != ids:
        raise UserError(f"{directory}: the exported tokenizer gives other ids than the one of the run")
    probe = torch.tensor([ids[: min(len(ids), model.config.max_position_embeddings // 2)]])
    with torch.no_grad():
        # The first output: logits of a masked LM or a classifier, start logits of a reader.
        difference = (again.eval()(probe)[0] - model.eval()(probe)[0]).abs().max().item()
    if not difference <= 1e-5:
        raise UserError(f"{directory}: the exported model's logits differ by {difference:.2g}")
