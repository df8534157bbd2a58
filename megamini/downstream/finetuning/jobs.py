"""What fine-tuning begins with: the primary model, and each task with its data, read and checked."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerBase

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.kinds.by_name import KINDS
from megamini.downstream.kinds.limits import Limits, fitting_length
from megamini.downstream.recipe import FinetuneRecipe, FinetuneTask
from megamini.downstream.task_data.examples import Example
from megamini.downstream.task_model import lineage_entries
from megamini.downstream.tasks.custom import read_labelled
from megamini.downstream.tasks.declaration import Task
from megamini.downstream.tasks.registry import read_examples
from megamini.errors import UserError
from megamini.models.families import family_of
from megamini.models.pretrained import load_config, load_model


@dataclass(frozen=True)
class Primary:
    """The model that is fine-tuned: its configuration, tokenizer, lineage and token embeddings [V, d], kept to prove
    that they did not change."""

    name: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    lineage: dict[str, Any]
    embeddings: torch.Tensor
    prefix: str


@dataclass(frozen=True)
class Job:
    """One task of the recipe with its data, read and checked."""

    key: str
    section: FinetuneTask
    task: Task
    limits: Limits
    labels: tuple[str, ...]
    training: list[Example]
    validation: list[Example]
    validation_split: str


def load_primary(recipe: FinetuneRecipe) -> Primary:
    """The recipe's primary model. Raises UserError where it cannot be used."""
    name = recipe.model.primary
    where = f"model.primary: {name}"
    config = load_config(name, where, recipe.model.dropout)
    if family_of(config).causal:
        raise UserError(f"{where}: a decoder, and only encoders are fine-tuned here; use the libraries' own ways")
    tokenizer = load_tokenizer(name)
    body = load_model(AutoModel, name, config, where, fresh=re.compile("pooler"))
    embeddings = body.get_input_embeddings().weight.detach().clone()
    if len(tokenizer) > len(embeddings):
        raise UserError(f"{where}: the tokenizer has {len(tokenizer)} pieces for {len(embeddings)} token embeddings")
    return Primary(name, config, tokenizer, lineage_entries(body, tokenizer), embeddings, body.base_model_prefix)


def prepare_job(recipe: FinetuneRecipe, primary: Primary, key: str) -> Job:
    """A task of the recipe. Raises UserError where data, labels and model do not fit each other."""
    section = recipe.tasks[key]
    task = section.declaration(key)

    def read(split: str) -> list[Example]:
        return read_examples(task, section.path, section.dataset, split, section.language, section.limit)

    validation_split = section.validation_split or task.validation_split
    training, validation = read(section.train_split), read(validation_split)
    for file in section.further:
        training += read_labelled(Path(file), task.kind)
    kind = KINDS[task.kind]
    labels = task.labels or kind.labels_of(training)
    if task.kind != "question-answering" and len(labels) < 2:
        raise UserError(f"tasks.{key}: the training data have one label only, {labels[0]!r}: nothing to learn")
    trained_on = " and ".join([section.train_split, *section.further])
    for split, examples in ((trained_on, training), (validation_split, validation)):
        if unknown := sorted(set(kind.labels_of(examples)) - set(labels)):
            known = "the task" if task.labels else "the training data"
            raise UserError(f"tasks.{key}: label '{unknown[0]}' of split {split} is not in {known}")
    try:
        length = fitting_length(section.max_length, task.kind, primary.config)
    except UserError as error:
        raise UserError(f"tasks.{key}.{error}") from None
    limits = Limits(length, section.doc_stride, section.max_answer_length)
    if task.kind == "question-answering":
        limits = replace(limits, null_answers=any(not example.answers for example in training))
    return Job(key, section, task, limits, labels, training, validation, validation_split)
