"""What a task declares: its kind, its labels, where its files lie and where to get them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megamini.downstream.examples import Example
from megamini.errors import UserError

Kind = Literal["classification", "tagging", "question-answering"]
Reader = Callable[[Path, str], Iterator[Example]]


class MissingDataError(UserError):
    """Files of a task that are not there at all, rather than wrong."""


@dataclass(frozen=True)
class Layout:
    """One way in which a split lies in a folder.

    pattern: a glob relative to the folder, with {language} and {split} in it. read: turns (file, language) into
    examples of that language. languages: the only ones that such files hold; None for any.
    """

    pattern: str
    read: Reader
    languages: tuple[str, ...] | None = None

    def find(self, folder: Path, split: str, language: str) -> list[Path]:
        """The files of a split in a language, in order of their names."""
        if self.languages is not None and language not in self.languages:
            return []
        pattern = self.pattern.format(language=language, split=split)
        return sorted(path for path in folder.glob(pattern) if path.is_file())


@dataclass(frozen=True)
class HubData:
    """The task as a `datasets` data set. name and config may hold {language}; splits: ours -> the data set's.

    to_example: turns a record, its class labels already words, into an example, or None to leave it out.
    """

    name: str
    splits: Mapping[str, str]
    to_example: Callable[[dict[str, Any]], Example | None]
    config: str | None = None


@dataclass(frozen=True)
class Task:
    """A task. All it needs beyond its kind is said here.

    labels: the classes or tags in a fixed order; None where the training data decides. metric: the headline one.
    layouts: split -> the ways in which it may lie, first found wins. source: where to get the files, in one line.
    codes: language -> the name that the task's own files give it. validation_split: what fine-tuning looks at.
    """

    name: str
    kind: Kind
    metric: str
    source: str
    layouts: Mapping[str, tuple[Layout, ...]]
    labels: tuple[str, ...] | None = None
    hub: HubData | None = None
    codes: Mapping[str, str] = field(default_factory=dict)
    validation_split: str = "dev"

    def read(self, folder: Path, split: str, language: str) -> list[Example]:
        """All examples of a split in a language.

        Raises UserError naming the file and the row for bad data, and saying where to get a file that is missing.
        """
        if split not in self.layouts:
            raise MissingDataError(f"{self.name}: no split '{split}'; there are {', '.join(self.layouts)}")
        if not folder.is_dir():
            raise MissingDataError(f"{folder}: no such folder; {self.source}")
        code = self.codes.get(language, language)
        for layout in self.layouts[split]:
            if files := layout.find(folder, split, code):
                # Checked as a whole: a file of all languages may lack this one.
                examples = [example for file in files for example in layout.read(file, code)]
                if not examples:
                    raise UserError(f"{files[0]}: no example in language '{language}'")
                return examples
        looked_for = " or ".join(layout.pattern.format(language=code, split=split) for layout in self.layouts[split])
        raise MissingDataError(
            f"{folder}: no {split} data of {self.name} in language '{language}' (looked for {looked_for}); "
            f"{self.source}"
        )
