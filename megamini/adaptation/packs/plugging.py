"""Packs in models and out again: a context that leaves no trace, and `unplug`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.packs import own_embeddings
from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.own_embeddings import OwnEmbeddings
from megamini.errors import UserError


def unplug(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Take the pack out of `model`, in place: it speaks as before the first `plug`, bit for bit. Returns the tokenizer
    that was given to that. Raises `UserError` for a model in which no pack was plugged in this process."""
    own = own_embeddings.kept(model)
    if own is None:
        raise UserError(
            "unplug: no pack was plugged into this model here, so that its own embeddings are not known; load the "
            "model without a pack"
        )
    tokenizer = own.put_back(model)
    own_embeddings.forget(model)
    return tokenizer


@contextmanager
def plugged(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pack: LanguagePack | str | Path
) -> Iterator[PreTrainedTokenizerBase]:
    """Within, `model` speaks the pack's language with the tokenizer that is yielded; afterwards every weight and the
    configuration are as before, bit for bit, also after an error.

    `pack` may be its folder. Contexts may be nested. Raises `UserError` for a pack that does not fit.
    """
    outer = own_embeddings.kept(model)
    before = None if outer is None else OwnEmbeddings.of(model, tokenizer)
    try:
        yield plug(model, tokenizer, pack)
    finally:
        if before is not None:
            before.put_back(model)
        elif own_embeddings.kept(model) is not None:
            unplug(model)
