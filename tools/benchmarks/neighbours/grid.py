"""What is held beside each other (`neighbours.yaml`): ways, languages, and how much of their text each may read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from megamini.recipes.file import read_recipe
from megamini.recipes.values import Positive, Section
from tools.study.grid import Changes, Names, TaskSection

Way = Literal["swapped", "swapped-list", "extension", "replacement", "lexicon"]
Amount = Literal["all", "few", "none"]
Ways = Annotated[tuple[Way, ...], Field(strict=False, min_length=1)]
BESIDE_SOURCE = ("extension", "replacement")


class CellsSection(Section):
    """All combinations of some ways and languages."""

    languages: Names
    """Target languages."""
    text: Amount
    """How much real text of them is read: all pages, a few sentences, none."""
    ways: Ways
    """swapped: a vocabulary of their own. swapped-list: the same, whose rows start with a word list. extension: new
    pieces behind the source's. replacement: new pieces in the place of the least used ones, with source text mixed in.
    lexicon: swapped-list, with pseudo text too."""

    @model_validator(mode="after")
    def _check(self) -> "CellsSection":
        if self.text == "none" and self.ways != ("lexicon",):
            raise ValueError("without text only the way 'lexicon' is left")
        return self


class Grid(Section):
    """The whole comparison."""

    source_language: str
    """Language of the primary model, its tasks, and the pseudo text's source."""
    pages: str
    """Source of tools/fetch_text.py whose pages have the same ids in all languages."""
    sentences: Positive
    """How many sentences `few` are."""
    vocab_size: Positive
    """Pieces of a tokenizer of one language."""
    add: Positive
    """New pieces of an extension."""
    replace: Positive
    """New pieces of a replacement."""
    source_share: Annotated[float, Field(ge=0, lt=1)]
    """Share of source text in an update of a replacement."""
    other_script: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Languages whose extension is made without --old-text."""
    block_length: Positive
    """Tokens of a block."""
    flops: Annotated[float, Field(gt=0)]
    """Model FLOPs of every adaptation."""
    tasks: Annotated[dict[str, TaskSection], Field(min_length=1)]
    """Zero-shot tasks."""
    adapt: Changes = ()
    """Overrides of adapt.yaml."""
    cells: Annotated[tuple[CellsSection, ...], Field(strict=False, min_length=1)]
    """In order of work."""

    def settings(self) -> dict[str, Any]:
        """What is the same in all cells, for the ledger."""
        return self.model_dump(mode="json", exclude={"tasks", "cells"})


@dataclass(frozen=True)
class Cell:
    """One adaptation with its evaluation."""

    way: str
    text: str
    language: str

    @property
    def name(self) -> str:
        return f"{self.way}-{self.text}-{self.language}"

    @property
    def is_beside_source(self) -> bool:
        """Whether one model reads both languages."""
        return self.way in BESIDE_SOURCE

    @property
    def has_list(self) -> bool:
        return self.way in ("swapped-list", "lexicon")


def load_grid(path: Path) -> Grid:
    """Raises UserError naming the key for anything that is no such file."""
    return read_recipe(path, (), Grid)


def cells_of(grid: Grid) -> list[Cell]:
    """Every cell once, in order of work."""
    every = [Cell(way, group.text, one) for group in grid.cells for one in group.languages for way in group.ways]
    return list(dict.fromkeys(every))
