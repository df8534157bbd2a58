"""Measures on the primary model that need no labels, for the source language and every pack."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.blocks import Blocks
from megamini.data.corpus.documents import find_files
from megamini.data.tokenizer import fingerprint, load_tokenizer
from megamini.downstream.evaluation.bits_per_byte import bits_per_byte_of
from megamini.downstream.evaluation.measured import Outcome, Part, Planned
from megamini.downstream.evaluation.retrieval import page_vectors, read_pages, retrieval_accuracy
from megamini.downstream.evaluation.rolling import documents_of, rolling_bits
from megamini.downstream.evaluation.zero_shot import LanguageAndPack, Lineages, Packs
from megamini.downstream.kinds.limits import longest_input
from megamini.downstream.metrics.measurement import ratio
from megamini.downstream.recipe import EvaluateRecipe
from megamini.errors import UserError
from megamini.files import fingerprint_of, sha256_of
from megamini.models.families import family_of
from megamini.models.pretrained import load_config, load_lm, weights_fingerprint


class WithoutLabels(Part, Protocol):
    """A measure."""

    def describe(self) -> str:
        """A line of the plan."""


def measures_without_labels(recipe: EvaluateRecipe, packs: Packs, lineages: Lineages) -> list[WithoutLabels]:
    """Bits per byte and retrieval, where the recipe asks for them. Raises UserError for what cannot be used."""
    measures = recipe.measures
    if not (measures.bits_per_byte or measures.retrieval):
        return []
    primary = _Primary(recipe, packs)
    if measures.retrieval and primary.is_decoder:
        raise UserError(f"measures.retrieval: {primary.name} is a decoder; retrieval is for encoders")
    of_bits = _RollingBits if primary.is_decoder else _Bits
    parts: list[WithoutLabels] = [of_bits(primary)] if measures.bits_per_byte else []
    parts += [_Retrieval(primary)] if measures.retrieval else []
    names = [one.pack for part in parts for one in part.planned]
    lineages.add(family_of(primary.config).auto_class, primary.name, primary.config, primary.tokenizer, names)
    return parts


class _Primary:
    """The model that is measured, loaded when it is needed, and the packs."""

    def __init__(self, recipe: EvaluateRecipe, packs: Packs) -> None:
        self.recipe, self.packs, self.name = recipe, packs, recipe.model.primary
        self._where = f"model.primary: {self.name}"
        self.config = load_config(self.name, self._where, dropout=None)
        self.tokenizer = load_tokenizer(self.name, decoder=family_of(self.config).causal)
        self.is_decoder = family_of(self.config).causal
        self._fingerprint = fingerprint_of([weights_fingerprint(self.name), fingerprint(self.tokenizer)])

    @cached_property
    def model(self) -> PreTrainedModel:
        return load_lm(self.name, self.config, "sdpa", self._where).eval()

    def planned(self, task: str, metric: str, pair: LanguageAndPack, split: str | None, data: str) -> Planned:
        language, pack = pair
        made_from = {"model": self._fingerprint, "pack": self.packs.fingerprint(pack), "data": data}
        return Planned(task, language, metric, self.name, pack, None, split, self.packs.learned.get(pack), made_from)


class _Bits:
    """How well text of each language is predicted."""

    key, of_the_other = "data", ("window",)

    def __init__(self, primary: _Primary) -> None:
        self._primary, self._section = primary, primary.recipe.measures.bits_per_byte
        other = "text" if self.key == "data" else "data"
        kind = "a decoder" if primary.is_decoder else "an encoder"
        if getattr(self._section, other) or not getattr(self._section, self.key):
            raise UserError(f"measures.bits_per_byte: {primary.name} is {kind}; give {self.key}, and no {other}")
        for option in self.of_the_other:
            if getattr(self._section, option) != type(self._section).model_fields[option].default:
                raise UserError(f"measures.bits_per_byte.{option}: {primary.name} is {kind}, which has no use for it")
        key, languages = f"measures.bits_per_byte.{self.key}", tuple(getattr(self._section, self.key))
        languages_and_packs = primary.packs.of_languages(languages, primary.recipe.model.source_language, key)
        self.planned = [
            primary.planned("bits_per_byte", "bits_per_byte", pair, "validation", self._data(pair[0]))
            for pair in languages_and_packs
        ]

    def _data(self, language: str) -> str:
        blocks = Blocks(self._section.data[language], "validation")
        return fingerprint_of([blocks.manifest["fingerprint"], self._section.blocks, self._section.mask_share])

    def describe(self) -> str:
        return f"  bits_per_byte of {self._primary.name}: {', '.join(one.pack or one.language for one in self.planned)}"

    def measure(self, wanted: Sequence[Planned], device: torch.device) -> Iterator[Outcome]:
        primary, section = self._primary, self._section
        model = primary.model.to(device)
        for one in wanted:
            with primary.packs.swapped_in(model, primary.tokenizer, one.pack) as own:
                data = section.data[one.language]
                parts, pieces = bits_per_byte_of(model, own, data, section, primary.recipe.evaluation.batch)
            yield one, one.result({"bits_per_byte": ratio(parts)}, pieces), parts


class _RollingBits(_Bits):
    """The same of a decoder, exactly."""

    key, of_the_other = "text", ("blocks", "mask_share")

    def __init__(self, primary: _Primary) -> None:
        super().__init__(primary)
        window, longest = self._section.window, longest_input(primary.config)
        if window is not None and window > longest:
            raise UserError(f"measures.bits_per_byte.window: {window}, but the model has {longest} positions")

    def _data(self, language: str) -> str:
        files = find_files([self._section.text[language]])
        return fingerprint_of([[sha256_of(file) for file in files], self._section.window])

    def measure(self, wanted: Sequence[Planned], device: torch.device) -> Iterator[Outcome]:
        primary, section = self._primary, self._section
        model = primary.model.to(device)
        for one in wanted:
            with primary.packs.swapped_in(model, primary.tokenizer, one.pack) as own:
                path = section.text[one.language]
                where, batch = f"measures.bits_per_byte.text: {path}", primary.recipe.evaluation.batch
                parts, tokens = rolling_bits(model, own, documents_of(path), where, batch, section.window)
            yield one, one.result({"bits_per_byte": ratio(parts)}, tokens), parts


class _Retrieval:
    """Which page of the source language is the same as this one?"""

    def __init__(self, primary: _Primary) -> None:
        self._primary, section = primary, primary.recipe.measures.retrieval
        self._source = source = primary.recipe.model.source_language
        languages_and_packs = primary.packs.of_languages(section.languages, source, "measures.retrieval.languages")
        targets = [(language, pack) for language, pack in languages_and_packs if pack is not None]
        pages = {language: read_pages(section.files, language) for language in (source, *dict(targets))}
        shared = [page for page in pages[source] if all(page in other for other in pages.values())][: section.pages]
        if len(shared) < 2:
            raise UserError(f"measures.retrieval.files: the languages share {len(shared)} pages; at least 2 are needed")
        self._texts = {language: [own[page] for page in shared] for language, own in pages.items()}
        layers = primary.config.num_hidden_layers
        self._layer = layers // 2 if section.layer is None else section.layer
        if self._layer > layers:
            raise UserError(f"measures.retrieval.layer: {self._layer}, but the model has {layers} layers")
        self.planned = [primary.planned("retrieval", "accuracy", pair, None, self._data(pair[0])) for pair in targets]

    def _data(self, language: str) -> str:
        content = repr([self._layer, self._texts[self._source], self._texts[language]])
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def describe(self) -> str:
        return f"  retrieval of {self._primary.name}: {', '.join(one.pack for one in self.planned)}"

    def measure(self, wanted: Sequence[Planned], device: torch.device) -> Iterator[Outcome]:
        primary = self._primary
        model, longest = primary.model.to(device), longest_input(primary.config)

        def vectors(language: str, own: PreTrainedTokenizerBase) -> torch.Tensor:
            batch = primary.recipe.evaluation.batch
            return page_vectors(model, own, self._texts[language], self._layer, longest, batch)

        reference = vectors(self._source, primary.tokenizer)
        for one in wanted:
            with primary.packs.swapped_in(model, primary.tokenizer, one.pack) as own:
                found = retrieval_accuracy(reference, vectors(one.language, own))
            yield one, one.result(found.values, len(self._texts[one.language])), found.parts[one.metric]
