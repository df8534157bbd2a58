"""Step 4: swap a language's embeddings into a model, evaluate, and put the source's back exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.language_pack import LanguagePack, plug


class Packs:
    """The packs of a recipe by name. Their matrices are read when they are plugged, so that many fit in memory."""

    def __init__(self, folders: dict[str, str]) -> None:
        """Raises UserError for a folder that is not a whole pack, before anything else is done."""
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self.languages = {name: LanguagePack.load(folder).language for name, folder in self._folders.items()}

    def load(self, name: str) -> LanguagePack:
        return LanguagePack.load(self._folders[name])

    def of(self, language: str) -> list[str]:
        """Names of the packs of a language."""
        return [name for name, own in self.languages.items() if own == language]


@contextmanager
def plugged(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pack: LanguagePack
) -> Iterator[PreTrainedTokenizerBase]:
    """Within, `model` speaks the pack's language with the tokenizer that is yielded; afterwards every weight and the
    configuration are as before, bit for bit. Raises UserError for a pack of another lineage."""
    embeddings = model.get_input_embeddings()
    # The modules themselves are kept, not copies: plugging a vocabulary of another size puts new ones in their place.
    matrix = embeddings.weight.detach().clone()
    bias = _output_bias(model)
    bias_before = None if bias is None else bias.detach().clone()
    described = getattr(model.config, "megamini", None)
    try:
        yield plug(model, tokenizer, pack)
    finally:
        model.resize_token_embeddings(len(matrix), mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(matrix)
            if bias_before is not None:
                _output_bias(model).copy_(bias_before)
        model.tie_weights()
        model.config.megamini = described


def _output_bias(model: PreTrainedModel) -> torch.Tensor | None:
    output = model.get_output_embeddings()
    return output.bias if isinstance(output, nn.Linear) else None
