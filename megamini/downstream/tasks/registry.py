"""Every task by its name, and its examples from a folder or from a `datasets` data set."""

from pathlib import Path

from megamini.downstream.task_data.examples import Example
from megamini.downstream.tasks.declaration import Task
from megamini.downstream.tasks.hub import read_hub
from megamini.downstream.tasks.pairs import PAWSX, XNLI
from megamini.downstream.tasks.questions import MLQA, SQUAD, TYDIQA, XQUAD
from megamini.downstream.tasks.tags import PANX, UD_POS
from megamini.downstream.tasks.topics import LIBREOFFICE, SIB200
from megamini.errors import UserError, did_you_mean

TASKS = {task.name: task for task in (XNLI, PAWSX, SQUAD, MLQA, XQUAD, TYDIQA, SIB200, PANX, UD_POS, LIBREOFFICE)}
CUSTOM = "custom"


def find_task(name: str) -> Task:
    """The task of that name. Raises UserError naming the nearest."""
    if name not in TASKS:
        known = (*TASKS, CUSTOM)
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"tasks: unknown task '{name}'{hint}")
    return TASKS[name]


def read_examples(
    task: Task, path: str | None, dataset: str | None, split: str, language: str, limit: int | None = None
) -> list[Example]:
    """Examples of a split in a language: from the folder `path` where it is given, else from the data set `dataset`, by
    default the task's own on the hub. Where there are more than `limit`, that many, evenly spread, in order."""
    examples = read_hub(task, dataset, split, language) if path is None else task.read(Path(path), split, language)
    count = min(limit or len(examples), len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]
