"""Label distillation (Wang, Ruder and Neubig 2022): pseudo examples get the labels that a fine-tuned model gives."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from megamini.adaptation.packs.language_pack import plug
from megamini.downstream.kinds.by_name import KINDS
from megamini.downstream.kinds.classification import Classification
from megamini.downstream.kinds.tagging import Tagging
from megamini.downstream.task_data.examples import Example, TaggedExample
from megamini.downstream.task_model import load_task_model
from megamini.downstream.tasks.declaration import Task
from megamini.errors import UserError
from megamini.machine import best_device

_BATCH = 32


def relabelled(
    examples: Sequence[Example], task: Task, folder: Path, pack: Path | None
) -> tuple[list[Example], int, int]:
    """The examples with the labels of the fine-tuned model in `folder`, in which the language pack is plugged where one
    is given; how many labels are others now, and of how many. A word that the tokenizer has no piece for keeps its tag.

    Raises UserError for a model of another kind of task or of other labels, and for a pack that does not fit.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    one = load_task_model(folder, best_device())
    if one.kind != task.kind:
        raise UserError(f"--label-by {folder}: fine-tuned for {one.kind}, but {task.name} is {task.kind}")
    kind = KINDS[task.kind]
    if not isinstance(kind, Classification | Tagging):
        raise UserError(f"--label-by {folder}: questions have no labels; leave it out")
    known = set(task.labels or kind.labels_of(examples))
    if unknown := sorted(set(one.model.config.id2label.values()) - known):
        raise UserError(f"--label-by {folder}: its label '{unknown[0]}' is none of {task.name}")
    tokenizer = one.tokenizer if pack is None else plug(one.model, one.tokenizer, pack)
    predicted = kind.predicted(one.model, tokenizer, examples, one.limits, "labels", _BATCH)
    found, changed, count = [], 0, 0
    for example, labels in zip(examples, predicted, strict=True):
        if isinstance(example, TaggedExample):
            tags = tuple(old if new is None else new for old, new in zip(example.tags, labels, strict=True))
            changed += sum(new != old for old, new in zip(example.tags, tags, strict=True))
            count += len(tags)
            found.append(replace(example, tags=tags))
        else:
            changed, count = changed + (labels != example.label), count + 1
            found.append(replace(example, label=labels))
    return found, changed, count
