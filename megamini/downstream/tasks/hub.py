"""A task's examples from a `datasets` data set: the task's own on the hub, another one, or a local folder of one."""

from pathlib import Path
from typing import Any

from megamini.downstream.task_data.examples import Example
from megamini.downstream.task_data.language_files import LANGUAGE, codes_in, path_in
from megamini.downstream.task_data.squad_file import with_places
from megamini.downstream.tasks.declaration import MissingDataError, Task
from megamini.errors import UserError
from megamini.languages.codes import closest, same_language

# What data sets of the hub hold where annotators could not agree.
_NO_LABEL = -1


def read_hub(task: Task, dataset: str | None, split: str, language: str) -> list[Example]:
    """All examples of a split in a language. Code that comes with a data set is never run.

    dataset: a name or folder, in which {language} stands for the language; None: the task's own. A folder holds the
    one language. Raises UserError when the data set or its split is missing, or a record lacks what the task needs.
    """
    if task.hub is None:
        raise UserError(f"tasks: {task.name} has no data set on the hub: give tasks.{task.name}.path; {task.source}")
    if split not in task.hub.splits:
        raise UserError(f"tasks: {task.name} has no split '{split}' on the hub; there are {', '.join(task.hub.splits)}")
    if dataset is None and task.hub.language and not same_language(language, task.hub.language):
        raise MissingDataError(
            f"{task.hub.name}: in language '{task.hub.language}' only, not '{language}'; {task.source}"
        )
    name = task.hub.name
    if dataset is not None:
        folder = path_in(dataset, language)
        name = str(folder) if folder.is_dir() else dataset.replace(LANGUAGE, language)
    data = _load(task, name, language, task.hub.splits[split])
    words = _label_names(data.features)
    examples = []
    for row, record in enumerate(data):
        if any(record.get(key) == _NO_LABEL for key in words):
            continue
        try:
            example = task.hub.to_example({key: _in_words(value, words.get(key)) for key, value in record.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{name}: row {row}: not a record of {task.name}: {error}") from None
        if example is not None:
            examples.append((str(row), example))
    if task.kind == "question-answering":
        return with_places(name, examples)
    return [example for _, example in examples]


def _load(task: Task, name: str, language: str, split: str):
    import datasets  # slow to import, and only data sets need it

    try:
        config = None if Path(name).is_dir() else task.hub.config
        if config and LANGUAGE in config:
            configs = codes_in(config, datasets.get_dataset_config_names(name), language)
            code = closest(language, configs, name)
            config = configs[code] if code else config.replace(LANGUAGE, language)
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:
        # Whatever the library raises comes from the name, the network or the files.
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name}: the data set cannot be read: {reason}; give tasks.{task.name}.path to read files: {task.source}"
        ) from None


def _label_names(features: Any) -> dict[str, list[str]]:
    """Names of the classes of each column that holds numbers of classes, also in lists."""
    inner = {key: getattr(feature, "feature", feature) for key, feature in features.items()}
    return {key: feature.names for key, feature in inner.items() if hasattr(feature, "names")}


def _in_words(value: Any, names: list[str] | None) -> Any:
    if names is None:
        return value
    return [names[number] for number in value] if isinstance(value, list) else names[value]
