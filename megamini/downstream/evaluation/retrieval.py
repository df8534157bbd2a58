"""Sentence retrieval: is the page nearest to a page in another language its translation?

Pages are represented by the mean of a middle layer's hidden states, compared by cosine (as Artetxe and Schwenk 2019 do
with sentence vectors; middle layers as in Pires et al. 2019).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import encode
from megamini.downstream.kinds.forward import Collator
from megamini.downstream.metrics.measurement import Measurement, ratio
from megamini.downstream.task_data.language_files import path_in
from megamini.downstream.task_data.rows import bad_row, read_json_lines
from megamini.errors import UserError


def read_pages(pattern: str, language: str) -> dict[str, str]:
    """Id -> text of a file of pages. Raises UserError for a missing file, a bad row or a repeated id."""
    path = path_in(pattern, language)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file (measures.retrieval.files, language '{language}'); tools/fetch_text.py makes one"
        )
    pages: dict[str, str] = {}
    for row, page in read_json_lines(path, ("id", "text")):
        if page["id"] in pages:
            raise bad_row(path, row, f"id '{page['id']}' appears twice")
        pages[page["id"]] = page["text"]
    return pages


def page_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], layer: int, max_length: int,
    batch_size: int,
) -> torch.Tensor:  # fmt: skip
    """Unit vectors [n, d]: the mean over a text's tokens, special ones left out, of the states behind `layer`."""
    encoded = encode(tokenizer, list(texts), truncation=True, max_length=max_length, return_special_tokens_mask=True)
    inputs = [
        {key: encoded[key][row] for key in ("input_ids", "attention_mask", "special_tokens_mask")}
        for row in range(len(texts))
    ]
    collate = Collator(tokenizer.pad_token_id)
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(inputs), batch_size):
            batch = {key: value.to(model.device) for key, value in collate(inputs[start : start + batch_size]).items()}
            counted = batch["attention_mask"] * (1 - batch.pop("special_tokens_mask"))
            states = model.base_model(**batch, output_hidden_states=True).hidden_states[layer].float()
            total = (states * counted[..., None]).sum(1)
            vectors.append(functional.normalize(total / counted.sum(1, keepdim=True).clamp(min=1), dim=1).cpu())
    return torch.cat(vectors)


def retrieval_accuracy(source: torch.Tensor, target: torch.Tensor) -> Measurement:
    """Accuracy at 1 of finding row i of the other side for row i, both ways, and their mean.

    source, target: unit vectors [n, d] of the same pages.
    """
    similarity = source @ target.T
    own = torch.arange(len(source))
    to_target, to_source = ((similarity.argmax(side) == own).int().tolist() for side in (1, 0))
    parts = {
        "accuracy": [(one + other, 2) for one, other in zip(to_target, to_source, strict=True)],
        "to_target": [(one, 1) for one in to_target],
        "to_source": [(one, 1) for one in to_source],
    }
    return Measurement({name: ratio(own) for name, own in parts.items()}, parts)
