"""What the study consists of (`study.yaml`): text, primary models, series of adaptation runs, and cells to measure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megamini.recipes.file import read_recipe
from megamini.recipes.values import NotNegative, Positive, Section

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Changes = Annotated[tuple[str, ...], Field(strict=False)]
Seeds = Annotated[tuple[NotNegative, ...], Field(strict=False, min_length=1)]
Layers = Annotated[tuple[Positive, ...], Field(strict=False)]


class TextSection(Section):
    """Real text from Debian's packages; one data directory a language."""

    sources: Names
    """Sources of tools/fetch_text.py; the first one has pages with the same ids in all languages."""
    absent: dict[str, Names] = Field(default={})
    """Language to the sources that do not exist in it."""
    source_language: str
    """Language of pretraining and of fine-tuning."""
    vocab_size: Positive
    """Pieces of each language's tokenizer."""
    block_length: Positive
    """Tokens of a block."""

    def sources_in(self, language: str) -> list[str]:
        """The sources that exist in a language."""
        return [source for source in self.sources if source not in self.absent.get(language, ())]


class TaskSection(Section):
    """A task of fine-tuning and of zero-shot evaluation; its key is that of the recipes."""

    path: str
    """Folder of its files: in the work folder, or with {data} in front in the folder of real evaluation data."""
    languages: Names | None = None
    """Target languages that it is measured in; unset: all."""
    finetune: Changes = ()
    """Overrides of recipes/finetune.yaml."""
    evaluate: Changes = ()
    """Overrides of recipes/evaluate.yaml."""


class PrimarySection(Section):
    """A pretraining run, exported, and fine-tuned on every task."""

    recipe: Literal["pretrain", "bridge"] = "pretrain"
    """Which file of recipes/."""
    changes: Changes = ()
    """Overrides of that recipe."""
    after: str | None = None
    """Another primary model, whose export it starts from."""
    exits: Layers = ()
    """Exits that are exported as mini-models."""
    tasks: bool = True
    """Whether it is fine-tuned; a bridged mini-model is not: its tasks are those of the model it comes from."""


class SeriesSection(Section):
    """Adaptation runs that differ in language and seed only."""

    primary: str
    """Primary model into which the packs are plugged."""
    source: str
    """What is learned over: `PRIMARY`, or `PRIMARY-exit-N`."""
    method: Literal["standard", "mini"]
    """As in a recipe of launch/adapt.py."""
    start: str
    """From where its rows start: series are held against the standard one of the same start."""
    changes: Changes = ()
    """Overrides of recipes/adapt.yaml."""
    word_list: bool = False
    """Whether FOCUS gets a word list (tools/fetch_text.py freedict)."""
    parallel: Positive | None = None
    """Lines of parallel text that the start gets (tools/parallel_text.py), from pages of the first source."""
    after: str | None = None
    """Series that it goes on from, pack by pack: a curriculum."""
    about: str
    """What it is, for the write-up."""


class CellsSection(Section):
    """All combinations of some series, languages and seeds."""

    series: Names
    languages: Names
    seeds: Seeds


class Study(Section):
    """The whole study."""

    text: TextSection
    tasks: Annotated[dict[str, TaskSection], Field(min_length=1)]
    primaries: Annotated[dict[str, PrimarySection], Field(min_length=1)]
    series: Annotated[dict[str, SeriesSection], Field(min_length=1)]
    cells: Annotated[tuple[CellsSection, ...], Field(strict=False, min_length=1)]
    reference: str
    """Standard series that the summary is held against."""

    @model_validator(mode="after")
    def _check(self) -> "Study":
        for name, primary in self.primaries.items():
            if primary.after is not None and primary.after not in self.primaries:
                raise ValueError(f"primaries.{name}.after: no primary '{primary.after}'")
        for name, series in self.series.items():
            for key, wanted in (("primary", series.primary), ("source", primary_in(series.source))):
                if wanted not in self.primaries:
                    raise ValueError(f"series.{name}.{key}: no primary '{wanted}'")
            if series.after is not None and series.after not in self.series:
                raise ValueError(f"series.{name}.after: no series '{series.after}'")
            for key in ("word_list", "parallel"):
                if getattr(series, key) and series.after is not None:
                    raise ValueError(f"series.{name}.{key}: what goes on from '{series.after}' starts from its packs")
        if self.reference not in self.series:
            raise ValueError(f"reference: no series '{self.reference}'")
        for cells in self.cells:
            for name in cells.series:
                if name not in self.series:
                    raise ValueError(f"cells: no series '{name}'")
        return self


def primary_in(source: str) -> str:
    """The primary model that a series' source belongs to."""
    return source.partition("-exit-")[0]


@dataclass(frozen=True)
class Cell:
    """One adaptation run with its evaluation."""

    series: str
    language: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.series}-{self.language}-s{self.seed}"

    @property
    def facts(self) -> dict[str, str | int]:
        """What a ledger says of it."""
        return {"series": self.series, "language": self.language, "seed": self.seed}


def load_study(path: Path) -> Study:
    """Raises UserError naming the key for anything that is no study."""
    return read_recipe(path, (), Study)


def cells_of(study: Study) -> list[Cell]:
    """Every cell once, in order of work; what a cell goes on from stands before it."""
    found: dict[Cell, None] = {}

    def add(cell: Cell) -> None:
        if (before := study.series[cell.series].after) is not None:
            add(Cell(before, cell.language, cell.seed))
        found.setdefault(cell)

    for group in study.cells:
        for seed in group.seeds:
            for language in group.languages:
                for series in group.series:
                    add(Cell(series, language, seed))
    return list(found)
