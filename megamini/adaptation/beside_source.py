"""What a language has beside the source: the kind of its pack, rows among the source's, text of the source's own."""

import torch

from megamini.adaptation.packs.kinds import Kind, kind_beside
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.source import SourceModel
from megamini.adaptation.starting_points.vocabularies import Source
from megamini.errors import UserError
from megamini.training.text import Text, open_text

_MADE = {
    "extension": ("an extension of", "--extend-tokenizer"),
    "replacement": ("made by replacing pieces of", "--replace-least-used, --tokenizer"),
}


def kind_of(text: Text, source: SourceModel) -> tuple[Kind, torch.Tensor | None]:
    """Raises UserError where the data were made for a pack beside another source."""
    found = kind_beside(text.tokenizer, source.tokenizer)
    wanted = (text.train.manifest.get("vocabulary") or {}).get("kind", found[0])
    if wanted != found[0]:
        made, option = _MADE[wanted]
        raise UserError(
            f"data.path: {text.path}: its tokenizer is {made} another tokenizer than the source's; prepare the data "
            f"with {option} and the source's"
        )
    return found


def source_text(recipe: AdaptationRecipe, text: Text, source: SourceModel, causal: bool) -> Text | None:
    """causal: as `open_text` takes it. Raises UserError where it does not go with the text that is learned."""
    if (path := recipe.data.source) is None:
        return None
    own = open_text(path, recipe.objective, recipe.training.seed, recipe.training.global_batch, causal)
    if own.train.manifest["tokenizer_fingerprint"] != text.train.manifest["tokenizer_fingerprint"]:
        raise UserError(f"data.source: {path}: has another tokenizer; prepare it with --tokenizer {text.path}")
    if own.block_length != text.block_length:
        raise UserError(
            f"data.source: {path}: blocks of {own.block_length}; prepare it with blocks of {text.block_length}"
        )
    if kind_of(text, source)[0] == "swapped":
        raise UserError(f"data.source: {text.path}: has a tokenizer of its own, which reads one language; leave it out")
    return own


def rows_beside_source(
    source: Source, ids: torch.Tensor, rows: torch.Tensor, numbers: torch.Tensor, centred: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and output bias with rows [N, d] and numbers [N] at `ids`, and the source's, bit for bit, elsewhere.
    centred: add the mean of the source's bias to the numbers, whose own is 0."""
    matrix = among(source.matrix, ids, rows)
    bias = torch.zeros(len(matrix))
    if source.output_bias is not None:
        bias[: len(source.matrix)] = source.output_bias.float()
        bias[ids] = numbers + source.output_bias.float().mean() if centred else numbers
    return matrix, bias


def output_beside_source(source: Source, ids: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
    """The output matrix of a source that has one of its own, with rows [N, d] at `ids`; None without such rows."""
    return None if rows is None else among(source.output_matrix, ids, rows)


def among(source: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The source's matrix fp32 with rows [N, d] at `ids`, some of which may lie behind it."""
    matrix = torch.zeros(max(len(source), int(ids.max()) + 1), source.shape[1])
    matrix[: len(source)] = source.float()
    matrix[ids] = rows
    return matrix
