"""Step 4: swap a language's embeddings into a model, and put the source's back exactly."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.packs.language_pack import DESCRIPTION, LanguagePack, fitted, pack_fingerprint
from megamini.adaptation.packs.plugging import plugged
from megamini.data.tokenizer import special_roles
from megamini.downstream.results import Learned
from megamini.errors import UserError
from megamini.files import fingerprint_of
from megamini.languages.codes import closest
from megamini.models.lineage import declared_lineage, lineage_of
from megamini.models.pretrained import outline_with_embeddings

# A language, and the name of a pack of it; None for the source language.
LanguageAndPack = tuple[str, str | None]


class Packs:
    """The packs of a recipe by name. Their matrices are read when they are plugged, so that many fit in memory.

    A name with a pattern (`runs/de-mini/packs/de-step-*`) is a series: each pack in it is NAME/FOLDER.
    """

    def __init__(self, folders: dict[str, str]) -> None:
        """Raises UserError for a folder that is not a whole pack, before anything else is done."""
        self._folders: dict[str, Path] = {}
        self.languages: dict[str, str] = {}
        self._beside_source: set[str] = set()
        self.learned: dict[str, Learned] = {}
        self._fingerprints: dict[str, str] = {}
        for series, folder_or_pattern in folders.items():
            for name, folder in _members(series, folder_or_pattern).items():
                pack = LanguagePack.load(folder)
                ledger = pack.details.get("ledger", {})
                costs = {key: ledger[key] for key in ("updates", "tokens", "flops", "seconds") if key in ledger}
                self._folders[name] = folder
                self._fingerprints[name] = pack_fingerprint(folder)
                self.languages[name] = pack.language
                if pack.kind != "swapped":
                    self._beside_source.add(name)
                self.learned[name] = Learned(series, pack.details.get("method"), **costs)

    def of_languages(
        self, languages: Sequence[str], source: str, key: str, source_through_packs: bool = False
    ) -> list[LanguageAndPack]:
        """Each of `languages` with each of its packs; without any given, the source language and all that there are
        packs of. A pack may name its language by another code; the closest counts. source_through_packs: the source
        language also with each pack that reads it beside its own (extensions, replacements). Raises UserError, with the
        recipe's `key`, for a language that no pack is of."""
        found: list[LanguageAndPack] = []
        for language in languages or dict.fromkeys((source, *self.languages.values())):
            own = closest(language, self.languages.values(), f"{key}: `packs`")
            names = [name for name, language_of in self.languages.items() if language_of == own]
            if language == source or (not names and closest(language, [source], key)):
                found.append((language, None))
                through = self._beside_source if source_through_packs and language == source else ()
                found += [(language, name) for name in self.languages if name in through]
            elif not names:
                known = ", ".join(sorted(set(self.languages.values()))) or "none"
                raise UserError(f"{key}: no pack in `packs` is of language '{language}'; there are {known}")
            else:
                found += [(language, name) for name in names]
        return found

    def load(self, name: str) -> LanguagePack:
        """The pack of that name."""
        return LanguagePack.load(self._folders[name])

    def fingerprint(self, name: str | None) -> str:
        """Of the pack of that name; empty for none."""
        return "" if name is None else self._fingerprints[name]

    @contextmanager
    def swapped_in(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None
    ) -> Iterator[PreTrainedTokenizerBase]:
        """Within, `model` has the pack `name` swapped in, or is as it is without one; yields the tokenizer to use."""
        if name is None:
            yield tokenizer
        else:
            with plugged(model, tokenizer, self.load(name)) as own:
                yield own


class Lineages:
    """Models and the packs that are to be plugged into them: whether all fit is known before anything is measured."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, str]]] = {}

    def add(
        self,
        model_class: Any,
        checkpoint: str,
        config: PretrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        names: Iterable[str | None],
    ) -> None:
        """A model and the names of its packs; None for none. Of models with one lineage the first is kept, with its
        token embeddings alone. Raises UserError for torn files."""
        outline = outline_with_embeddings(model_class, checkpoint, config, checkpoint)
        key = fingerprint_of([declared_lineage(outline), lineage_of(outline, tokenizer), special_roles(tokenizer)])
        _, _, wanted = self._models.setdefault(key, (outline, tokenizer, {}))
        for name in names:
            if name is not None:
                wanted.setdefault(name, checkpoint)

    def check(self) -> None:
        """Raises UserError, which names model and pack, for a pack that does not fit."""
        for name in dict.fromkeys(name for *_, wanted in self._models.values() for name in wanted):
            pack = self._packs.load(name)
            for model, tokenizer, wanted in self._models.values():
                if name in wanted:
                    try:
                        fitted(model, tokenizer, pack)
                    except UserError as error:
                        raise UserError(f"packs.{name}, {wanted[name]}: {error}") from None


def _members(series: str, pattern: str) -> dict[str, Path]:
    """The packs that a recipe names under `series`: a folder, or all that a pattern matches."""
    if not any(character in pattern for character in "*?["):
        return {series: Path(pattern)}
    folders = sorted(path.parent for path in map(Path, glob(f"{pattern}/{DESCRIPTION}")))  # noqa: PTH207 (a pattern with folders)
    if not folders:
        raise UserError(f"packs.{series}: {pattern}: no language pack there")
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"packs.{series}: {pattern}: several folders named {twice}; give each run a name of its own")
    return {f"{series}/{folder.name}": folder for folder in folders}
