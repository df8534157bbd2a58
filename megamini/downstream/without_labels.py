"""Measures on the primary model that need no labels, for the source language and every pack."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.bits_per_byte import bits_per_byte
from megamini.downstream.limits import longest_input
from megamini.downstream.recipe import EvaluateRecipe, RetrievalSection
from megamini.downstream.results import Result
from megamini.downstream.retrieval import page_vectors, read_pages, retrieval_accuracy
from megamini.downstream.zero_shot import Packs
from megamini.errors import UserError
from megamini.models.pretrained import load_config, load_masked_lm


def measure_without_labels(recipe: EvaluateRecipe, packs: Packs, device: torch.device) -> Iterator[Result]:
    """Bits per byte and retrieval, where the recipe asks for them."""
    if not (recipe.measures.bits_per_byte or recipe.measures.retrieval):
        return
    name = recipe.model.primary
    where = f"model.primary: {name}"
    model = load_masked_lm(name, load_config(name, where, dropout=None), "sdpa", where).to(device).eval()
    tokenizer = load_tokenizer(name)
    if recipe.measures.bits_per_byte:
        yield from _bits(recipe, packs, model, tokenizer)
    if recipe.measures.retrieval:
        yield from _retrieval(recipe, recipe.measures.retrieval, packs, model, tokenizer)


def _bits(
    recipe: EvaluateRecipe, packs: Packs, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Result]:
    section = recipe.measures.bits_per_byte
    for language, pack in packs.voices(
        tuple(section.data), recipe.model.source_language, "measures.bits_per_byte.data"
    ):
        with packs.speaking(model, tokenizer, pack) as own:
            value, pieces = bits_per_byte(model, own, section.data[language], section, recipe.evaluation.batch)
        yield Result(
            "bits_per_byte", language, "bits_per_byte", {"bits_per_byte": value}, pieces, recipe.model.primary, pack,
            split="validation", learned=packs.learned.get(pack),
        )  # fmt: skip


def _retrieval(
    recipe: EvaluateRecipe,
    section: RetrievalSection,
    packs: Packs,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[Result]:
    source = recipe.model.source_language
    voices = packs.voices(section.languages, source, "measures.retrieval.languages")
    targets = [(language, pack) for language, pack in voices if pack is not None]
    pages = {language: read_pages(section.files, language) for language in (source, *dict(targets))}
    shared = [page for page in pages[source] if all(page in other for other in pages.values())][: section.pages]
    if len(shared) < 2:
        raise UserError(f"measures.retrieval.files: the languages share {len(shared)} pages; at least 2 are needed")
    layers = model.config.num_hidden_layers
    layer = layers // 2 if section.layer is None else section.layer
    if layer > layers:
        raise UserError(f"measures.retrieval.layer: {layer}, but the model has {layers} layers")

    def vectors(language: str, own: PreTrainedTokenizerBase) -> torch.Tensor:
        texts = [pages[language][page] for page in shared]
        return page_vectors(model, own, texts, layer, longest_input(model.config), recipe.evaluation.batch)

    reference = vectors(source, tokenizer)
    for language, pack in targets:
        with packs.speaking(model, tokenizer, pack) as own:
            values = retrieval_accuracy(reference, vectors(language, own))
        yield Result(
            "retrieval", language, "accuracy", values, len(shared), recipe.model.primary, pack,
            learned=packs.learned.get(pack),
        )  # fmt: skip
