"""What a task declares: its kind, its labels, where its files lie and where to get them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megamini.downstream.metrics.answers import Normalization, normalize
from megamini.downstream.task_data.examples import Example
from megamini.downstream.task_data.language_files import LANGUAGE, find_paths
from megamini.errors import UserError
from megamini.languages.codes import closest, distance

Kind = Literal["classification", "tagging", "question-answering"]
Reader = Callable[[Path, str], Iterator[Example]]


class MissingDataError(UserError):
    """Files of a task that are not there at all, rather than wrong."""


@dataclass(frozen=True)
class Layout:
    """One way in which a split lies in a folder.

    pattern: a glob relative to the folder, with {language} and {split} in it. read: turns (file, language) into
    examples of that language, which it gets as the file names it. languages: the only ones that such files hold; None
    for any. names: what the files call their languages, where that is no code -> the code.
    """

    pattern: str
    read: Reader
    languages: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def find(self, folder: Path, split: str, language: str) -> tuple[int, str, list[Path]] | None:
        """(how far it is from the language, the language as the files name it, the files in order of their names) of
        the closest language that there are files of; None without any. Raises UserError where several are as close."""
        pattern = self.pattern.replace("{split}", split)
        found = find_paths(folder, pattern, language, self.names)
        found = {name: files for name, paths in found.items() if (files := [path for path in paths if path.is_file()])}
        if found and LANGUAGE not in self.pattern and self.languages:
            found = dict.fromkeys(self.languages, next(iter(found.values())))
        codes = {self.names.get(name, name): name for name in found}
        code = closest(language, codes, f"{folder}/{pattern}")
        return None if code is None else (distance(language, code), codes[code], found[codes[code]])


@dataclass(frozen=True)
class HubData:
    """The task as a `datasets` data set. name and config may hold {language}; splits: ours -> the data set's.

    to_example: turns a record, its class labels already words, into an example, or None to leave it out. language: the
    only one that it holds, where neither name nor config says one.
    """

    name: str
    splits: Mapping[str, str]
    to_example: Callable[[dict[str, Any]], Example | None]
    config: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Task:
    """A task. All it needs beyond its kind is said here.

    labels: the classes or tags in a fixed order; None where the training data decides. metric: the headline one.
    layouts: split -> the ways in which it may lie; that of the closest language wins, of these the first. source:
    where to get the files, in one line. validation_split: what fine-tuning looks at. answer_form: for questions, what
    the task's own script compares of an answer.
    """

    name: str
    kind: Kind
    metric: str
    source: str
    layouts: Mapping[str, tuple[Layout, ...]]
    labels: tuple[str, ...] | None = None
    hub: HubData | None = None
    validation_split: str = "dev"
    answer_form: Normalization = normalize

    def read(self, folder: Path, split: str, language: str) -> list[Example]:
        """All examples of a split in a language.

        Raises UserError naming the file and the row for bad data, and saying where to get a file that is missing.
        """
        if split not in self.layouts:
            there_are = ", ".join(self.layouts)
            raise MissingDataError(
                f"{self.name}: no split '{split}'; there are {there_are}; name one of these as train_split, "
                "validation_split or split"
            )
        if not folder.is_dir():
            raise MissingDataError(f"{folder}: no such folder; {self.source}")
        found = []
        for one in self.layouts[split]:
            if match := one.find(folder, split, language):
                found.append((one, match))
                if match[0] == 0:
                    break
        if not found:
            looked_for = " or ".join(one.pattern.format(language=language, split=split) for one in self.layouts[split])
            raise MissingDataError(
                f"{folder}: no {split} data of {self.name} in language '{language}' (looked for {looked_for}); "
                f"{self.source}"
            )
        layout, (_, name, files) = min(found, key=lambda one: one[1][0])
        # Checked as a whole: a file of all languages may lack this one.
        examples = [example for file in files for example in layout.read(file, name)]
        if not examples:
            raise UserError(f"{files[0]}: no example in language '{language}'")
        return examples
