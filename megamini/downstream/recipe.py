"""Recipes of fine-tuning and of zero-shot evaluation. The docstring under each field is its help text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.declaration import Kind, Task
from megamini.downstream.tasks.registry import CUSTOM, find_task
from megamini.recipes.optimizer import OptimizerSection
from megamini.recipes.recipe import RunRecipe
from megamini.recipes.values import NotNegative, PathName, Positive, Section, Share

Words = Annotated[tuple[str, ...], Field(strict=False)]
Folders = Annotated[tuple[PathName, ...], Field(strict=False)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(strict=False, min_length=1)]
# The key of a task names a folder of the run.
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class TaskSection(Section):
    """A task and where its data lie. The key is the task's name, or any name with `task` inside."""

    task: str | None = None
    """Which task it is (xnli, pawsx, squad, mlqa, xquad, tydiqa, sib200, panx, ud_pos, libreoffice, custom); unset:
    the one called NAME."""
    path: PathName | None = None
    """Folder of the task's files, as released or as in docs/tasks-and-evaluation.md; unset: the data set on the hub."""
    dataset: PathName | None = None
    """Instead of `path`: another data set of the `datasets` library, by name or folder. {language} in it stands for the
    language."""
    kind: Kind | None = None
    """custom only: what is predicted."""
    files: dict[str, str] = Field(default={})
    """custom only: for each split, a file or glob inside `path`. {language} in it stands for the language."""
    columns: Words = ()
    """custom only: names of the one or two text columns, and of the label column last."""
    limit: Positive | None = None
    """Most examples that are taken from a split, evenly spread over it; unset: all."""

    @model_validator(mode="after")
    def _check(self) -> "TaskSection":
        if self.path is not None and self.dataset is not None:
            raise ValueError("give either path (a folder of files) or dataset, not both")
        return self

    def declaration(self, key: str) -> Task:
        """The task's declaration. Raises UserError for an unknown one; ValueError where custom's keys do not fit."""
        if (self.task or key) != CUSTOM:
            if self.kind or self.files or self.columns:
                raise ValueError(f"tasks.{key}: kind, files and columns go with task: {CUSTOM}")
            return find_task(self.task or key)
        if not (self.kind and self.files and self.path):
            raise ValueError(f"tasks.{key}: a custom task needs kind, path and files")
        for split, pattern in self.files.items():
            if Path(pattern).is_absolute():
                raise ValueError(f"tasks.{key}.files.{split}: '{pattern}' must be relative to tasks.{key}.path")
            _check_pattern(f"tasks.{key}.files.{split}", pattern)
        return custom_task(key, self.kind, self.files, self.columns)


class FinetuneTask(TaskSection):
    """A task to fine-tune on."""

    language: str = "en"
    """The source language: of the training data, and of the primary model's pretraining."""
    train_split: str = "train"
    """Split to train on."""
    validation_split: str | None = None
    """Split of the source language on which each seed is measured at the end; unset: the task's own, for most tasks
    dev."""
    further: Folders = ()
    """Files of further training data, such as pseudo labelled data in other languages (tools/translate_words.py): JSON
    lines of texts and labels, words with tags (.conll), SQuAD's JSON. `limit` does not count them."""
    max_length: Annotated[int, Field(ge=16)] | None = None
    """Most tokens of an input; unset: 128 (classes), 256 (tags) or 384 (questions), or fewer if the model has fewer
    positions."""
    doc_stride: NotNegative = 128
    """Questions only: number of tokens that two neighbouring windows of a long context share."""
    max_answer_length: Positive = 30
    """Questions only: most tokens of an answer."""


class FinetuneModelSection(Section):
    """The primary model that is fine-tuned."""

    primary: PathName
    """Folder of the exported primary model, or of any checkpoint of a supported family."""
    dropout: Share | None = None
    """Dropout of hidden states and attention; unset: the checkpoint's own."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel of `transformers`."""


class FinetuneSchedule(Section):
    """The learning rate and how long to train."""

    shape: Literal["linear", "cosine", "constant"] = "linear"
    """Shape after the warm-up; linear and cosine fall to 0."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training data."""
    updates: Positive | None = None
    """Length in updates, instead of `epochs`."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of the updates in which the learning rate rises from 0."""


class FinetuneTraining(Section):
    """Batch, precision and randomness."""

    global_batch: Positive = 32
    """Examples per update, over all ranks and accumulation steps."""
    micro_batch: Positive = 32
    """Most examples that a rank runs at once; accumulation makes up the rest."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Precision of activations. Weights and optimizer stay fp32; under DeepSpeed with bf16, only the master copies do.
    auto: tf32 (fp32, with matrix products in TF32) on a GPU that has it, else fp32."""
    group_by_length: bool = True
    """Inputs of about equal length share an update, so that little is padded. Updates come in random order."""
    seeds: Seeds = (0,)
    """One model is fine-tuned for each seed. A seed decides the initial head, the order of examples and dropout."""
    runs: PathName = "runs"
    """Folder in which the run directory is made."""


class FinetuneCheckpoints(Section):
    """What an interrupted seed goes on from."""

    every_epoch: bool = True
    """Save at the end of each epoch. The same command then continues from there."""


class FinetuneTelemetry(Section):
    """What is printed along the way."""

    every: Positive = 100
    """Updates between two lines of the log."""


class FinetuneRecipe(RunRecipe):
    """All that decides a fine-tuning run: every task in `tasks` with every seed."""

    model: FinetuneModelSection
    tasks: Annotated[dict[TaskName, FinetuneTask], Field(min_length=1)]
    optimizer: OptimizerSection
    schedule: FinetuneSchedule = FinetuneSchedule()
    training: FinetuneTraining = FinetuneTraining()
    checkpoint: FinetuneCheckpoints = FinetuneCheckpoints()
    telemetry: FinetuneTelemetry = FinetuneTelemetry()

    @model_validator(mode="after")
    def _check(self) -> "FinetuneRecipe":
        if len(set(self.training.seeds)) < len(self.training.seeds):
            raise ValueError(f"training.seeds must not repeat, unlike {list(self.training.seeds)}")
        _check_tasks(self.tasks)
        return self


class EvaluateTask(TaskSection):
    """A task to evaluate on."""

    models: Folders = ()
    """Fine-tuned models: folders that `launch/finetune.py` made, of one seed or of all seeds of a task; unset: the
    folder NAME in `model.finetuned`."""
    split: str = "test"
    """Split to evaluate on."""
    languages: Words = ()
    """Languages to evaluate in; unset: the source language and the language of every pack."""
    reference_lines: bool = False
    """Classes and tags only: also measure baselines without a language model (TF-IDF with logistic regression; each
    word's most common tag). They are trained in the source language and, if there are training data, in the target
    language."""
    word_lists: PathName | None = None
    """For `reference_lines`: word lists as for `adaptation.lexicon`, one file for each language. {language} in the path
    stands for the language. One more baseline then translates each text word by word."""


class EvaluateModelSection(Section):
    """What is evaluated."""

    finetuned: PathName | None = None
    """Run directory of `launch/finetune.py`, with a folder for each task."""
    primary: PathName | None = None
    """Folder of the exported primary model, for the measures without labels."""
    source_language: str = "en"
    """Source language of the model: it needs no pack."""


class RetrievalSection(Section):
    """Sentence retrieval: which page of the source language is the same as this one?"""

    files: PathName
    """JSON Lines files with `id` and `text`, one for each language. {language} in the path stands for the language. A
    page has the same id in all languages."""
    languages: Words = ()
    """Languages to retrieve in; unset: the languages of all packs."""
    layer: NotNegative | None = None
    """Layer whose hidden states are averaged; unset: the middle one."""
    pages: Positive = 500
    """Most pages. The first ones that all languages have are taken."""


class BitsPerByteSection(Section):
    """How well the primary model with a pack predicts text of the pack's language."""

    data: dict[str, PathName] = Field(default={})
    """Encoders: for each language, a data directory (tools/prepare_data.py) made with the pack's tokenizer."""
    text: dict[str, PathName] = Field(default={})
    """Decoders: for each language, a file of held-out text (or a pattern of several) as for tools/prepare_data.py.
    Every token counts: overlapping windows cover each document."""
    blocks: Positive = 512
    """Encoders: most validation blocks that are read."""
    mask_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    """Encoders: share of a block's positions that are predicted."""
    window: Annotated[int, Field(ge=2)] | None = None
    """Decoders: tokens of a window; unset: as many as the model has positions."""


class MeasuresSection(Section):
    """Measures that need no labels."""

    bits_per_byte: BitsPerByteSection | None = None
    """Bits per byte: of masked text for encoders, of all text for decoders."""
    retrieval: RetrievalSection | None = None
    """Sentence retrieval on parallel pages."""


class EvaluationSection(Section):
    """How it is run."""

    batch: Positive = 32
    """Examples that run at once."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Precision of activations; weights stay fp32. auto: tf32 (fp32, with matrix products in TF32) on a GPU that has
    it, else fp32."""
    keep_scores: bool = False
    """Also write `scores.jsonl`: the score of each test example in the main metric of each measurement. The report
    needs it for intervals that are paired over examples."""
    runs: PathName = "runs"
    """Folder in which the run directory is made."""


class EvaluateRecipe(RunRecipe):
    """All that decides an evaluation."""

    model: EvaluateModelSection
    packs: dict[TaskName, PathName] = Field(default={})
    """For each name in the results: the folder of a language pack, or a pattern of several that one run kept
    (`runs/mini/packs/*-step-*`). A pack knows its language. A language may have several packs."""
    tasks: dict[TaskName, EvaluateTask] = Field(default={})
    measures: MeasuresSection = MeasuresSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def run_directory(self) -> Path:
        return Path(self.evaluation.runs) / self.name

    @model_validator(mode="after")
    def _check(self) -> "EvaluateRecipe":
        wanted = self.measures.bits_per_byte or self.measures.retrieval
        if not self.tasks and not wanted:
            raise ValueError("nothing to evaluate: give tasks or measures")
        if wanted and self.model.primary is None:
            raise ValueError("measures are taken on the primary model: give model.primary")
        if self.measures.retrieval:
            _check_pattern("measures.retrieval.files", self.measures.retrieval.files)
        for key, section in self.tasks.items():
            if not section.models and self.model.finetuned is None:
                raise ValueError(
                    f"tasks.{key}: give model.finetuned, or the fine-tuned models of this task in `models`"
                )
            if section.reference_lines and section.declaration(key).kind == "question-answering":
                raise ValueError(f"tasks.{key}.reference_lines: only tasks that predict classes or tags have them")
            if section.word_lists is not None:
                _check_pattern(f"tasks.{key}.word_lists", section.word_lists)
                if not section.reference_lines:
                    raise ValueError(f"tasks.{key}.word_lists: go with reference_lines: true")
        _check_tasks(self.tasks)
        return self


def _check_pattern(key: str, pattern: str) -> None:
    try:
        pattern.format(language="xx", split="test")
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"{key}: '{pattern}': only {{language}} and {{split}} may stand in braces") from None


def _check_tasks(tasks: Mapping[str, TaskSection]) -> None:
    for key, section in tasks.items():
        section.declaration(key)
