"""Recipes: YAML checked by frozen models, so that a mistyped key or value ends the run before anything heavy starts.

A recipe owns training (batch, optimizer, schedule, precision, clipping, durations); the DeepSpeed JSON owns sharding,
offload and communication (`megamini/training/engines/deepspeed_config.py`). The docstring under each field is its
help text.
"""

import math
import os
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from megamini.recipes.file import as_yaml, read_recipe

_SMALLEST_WORKSPACE, _LARGEST_WORKSPACE = 256 * 2**20, 2 * 2**30
BlockOrder = Literal["runs", "blocks"]
EncoderName = Literal["roberta", "xlm-roberta", "xlm-roberta-xl", "bert", "modernbert"]
DecoderName = Literal["llama", "qwen2", "qwen3", "gemma", "gpt_neox"]
FamilyName = Literal[EncoderName, DecoderName]
"""The families, by the `model_type` that the library gives them: declared here alone."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMBT]?)\s*(updates|tokens)")
_MULTIPLE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _check_duration(value: Any) -> str:
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f"{value!r} is no duration; write for example '6000 updates' or '12.5M tokens'")
    return value


def duration_in_updates(duration: str, tokens_per_update: int) -> int:
    """Number of updates in `duration`; a number of tokens is rounded up to whole updates."""
    amount, unit = _parsed(duration)
    return math.ceil(amount if unit == "updates" else amount / tokens_per_update)


def _parsed(duration: str) -> tuple[Decimal, str]:
    number, multiple, unit = _DURATION.fullmatch(duration).groups()
    return Decimal(number) * _MULTIPLE[multiple], unit


Duration = Annotated[str, BeforeValidator(_check_duration)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
MaskShare = Annotated[float, Field(gt=0, lt=0.5)]
Layers = Annotated[tuple[Positive, ...], Field(strict=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Numbers = Annotated[tuple[float, ...], Field(strict=False)]
# Of a file, a folder, or a pattern of some; a leading ~ is the home folder, which YAML and most shells leave as it is.
PathName = Annotated[str, AfterValidator(os.path.expanduser)]
Paths = Annotated[tuple[PathName, ...], Field(strict=False, min_length=1)]


class Section(BaseModel):
    """Frozen and strict: nothing is coerced, an unknown key or a number that is not finite is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelSection(Section):
    """The primary model: a body of the `transformers` library and the layers at which it has exits."""

    family: FamilyName | None = None
    """Family of the body; needed unless `from_checkpoint` is given."""
    config: dict[str, int | float | bool | str | list[str] | None] = {}
    """Keys of the family's configuration class (hidden_size, num_hidden_layers ...). Vocabulary, special tokens and the
    number of positions are taken from the data."""
    from_checkpoint: PathName | None = None
    """Checkpoint folder (or hub name) whose body to start from, instead of random weights."""
    exits: Layers = ()
    """Layers after which there is an exit: a second head. Empty for plain pretraining. minipost: one number, of the
    bottom layers that the mini-model keeps."""
    bridge_layers: NotNegative = 0
    """minipost: number of new layers between the exit and the model's own head. Only these train."""
    dropout: Share | None = None
    """Dropout of hidden states and attention; unset: the configuration's own."""
    zero_init_outputs: bool = False
    """Only with `family`: the output projections of attention and feed-forward networks start at zero, so that every
    layer starts as the identity."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel of `transformers`."""

    @model_validator(mode="after")
    def _check(self) -> "ModelSection":
        if self.from_checkpoint and self.zero_init_outputs:
            raise ValueError("model.zero_init_outputs cannot be combined with model.from_checkpoint, which has weights")
        if (self.family is None) == (self.from_checkpoint is None):
            raise ValueError("give either model.family (from scratch) or model.from_checkpoint")
        if list(self.exits) != sorted(set(self.exits)):
            raise ValueError(f"model.exits must rise without repeats, not {list(self.exits)}")
        if self.from_checkpoint and self.config:
            raise ValueError("model.config cannot be combined with model.from_checkpoint, which brings its own")
        return self


class DataSection(Section):
    """Prepared text: folders written by `tools/prepare_data.py`."""

    path: PathName | Paths
    """Data directory (tokenizer, train/, validation/, manifest.json), or a list of them. Every update reads from all of
    a list. They need the same tokenizer (prepare them with --tokenizer) and the same block length."""
    weights: Numbers | None = None
    """Shares of the data directories in an update, such as [3, 1]; unset: by their numbers of blocks."""
    measured: Annotated[tuple[PathName, ...], Field(strict=False)] = ()
    """Further data directories with the same tokenizer. Nothing is learned from them: each validation measures them, to
    show what the model forgets."""
    workers: NotNegative = 2
    """Processes per rank that prepare batches in advance; 0: the training process prepares them itself."""

    @model_validator(mode="after")
    def _check(self) -> "DataSection":
        if len(set(self.paths)) < len(self.paths):
            raise ValueError("data.path names a data directory twice; give it a larger weight in data.weights")
        if len(every := (*self.paths, *self.measured)) > len(set(every)):
            raise ValueError("data.measured names a data directory that is there already; each is measured once")
        if self.weights is not None and (len(self.weights) != len(self.paths) or min(self.weights) <= 0):
            raise ValueError(f"data.weights needs {len(self.paths)} positive numbers, one for each data directory")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """All data directories."""
        return (self.path,) if isinstance(self.path, str) else self.path


class ForgettingSection(Section):
    """Active forgetting (Chen et al. 2023, arXiv 2307.01163): the token embeddings start anew every so often."""

    every: Duration
    """Distance between two re-initialisations of the token embeddings and their optimizer state."""
    none_in_last: Duration
    """Length of the last part of the run, in which the token embeddings are not re-initialised."""


class MaskStageSection(Section):
    """A stretch of a run with one share of predicted positions."""

    share: MaskShare
    """As `mask_share`."""
    until: Duration | None = None
    """Where the stage ends, counted from the beginning of the run, in global batches of its text; the last stage has
    none."""


def _check_stages(stages: tuple[MaskStageSection, ...]) -> tuple[MaskStageSection, ...]:
    """Untils in different units are compared where the block length is known (`training.schedule`)."""
    if len(stages) < 2:
        raise ValueError("a list has at least two stages; for one share write the number alone")
    if stages[-1].until is not None:
        raise ValueError(f"the last stage goes on to the end of the run; leave out its until: {stages[-1].until}")
    for stage in stages[:-1]:
        if stage.until is None:
            raise ValueError(f"the stage of share {stage.share:g} has no until; only the last stage goes without")
    for earlier, later in pairwise(stages[:-1]):
        (before, unit), (behind, other_unit) = _parsed(earlier.until), _parsed(later.until)
        if unit == other_unit and before >= behind:
            raise ValueError(f"until must rise from stage to stage, not go from {earlier.until} to {later.until}")
    return stages


# One share, or stages: which of the two is meant decides what is said of a bad value.
_Stages = Annotated[tuple[MaskStageSection, ...], Field(strict=False), AfterValidator(_check_stages)]
MaskShares = Annotated[
    Annotated[MaskShare, Tag("float")] | Annotated[_Stages, Tag("list[stage]")],
    Discriminator(lambda value: "list[stage]" if isinstance(value, list | tuple) else "float"),
]


class MaskingSection(Section):
    """What is predicted: by an encoder, masked positions; by a decoder, the token behind each position."""

    mask_share: MaskShares = 0.15
    """Share of a block's positions that are predicted: exactly round(share x (block length - 2)) in every block. Or a
    list of stages, such as [{share: 0.3, until: 2000 updates}, {share: 0.15}]. Validation always uses the last
    share."""
    replace_with_mask: Share = 0.8
    """Share of the predicted positions that show the mask token."""
    replace_with_random: Share = 0.1
    """Share of the predicted positions that show a random token; the rest keep their own."""
    predict_separators: bool = True
    """Decoders only: predict the token at the end of each document too; false leaves it out of the loss."""
    loss_workspace_mib: Positive | None = None
    """Memory for one chunk of logits of the joint loss, in MiB per rank. Unset: 256 on a CPU; on a GPU 1/32 of its
    memory, between 256 and 2048."""

    def loss_workspace_bytes(self, device_memory: float | None) -> int:
        """device_memory: bytes of the GPU; None on a CPU. The fewer chunks, the fewer times the token matrix and its
        gradient are read."""
        if self.loss_workspace_mib is not None:
            return self.loss_workspace_mib * 2**20
        return int(min(_LARGEST_WORKSPACE, max(_SMALLEST_WORKSPACE, (device_memory or 0) / 32)))

    @model_validator(mode="after")
    def _check(self) -> "MaskingSection":
        if self.replace_with_mask + self.replace_with_random > 1:
            raise ValueError("objective.replace_with_mask and objective.replace_with_random add up to more than 1")
        return self

    def problem_of(self, causal: bool) -> str | None:
        """What this section asks of a decoder (`causal`), or an encoder, that goes with the other alone; else None."""
        others = ("mask_share", "replace_with_mask", "replace_with_random") if causal else ("predict_separators",)
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                what = "a decoder masks nothing, it predicts every next token" if causal else "goes with decoders alone"
                return f"objective.{key}: {what}; leave it out"
        return None


class LoraSection(Section):
    """Low-rank updates (Hu et al. 2021, arXiv 2106.09685) of the matrices of attention and feed-forward networks."""

    rank: Positive = 8
    """Rows of the first factor of an update, columns of the second."""
    alpha: Positive = 32
    """An update is alpha / rank times the product of its factors."""


class ObjectiveSection(MaskingSection):
    """What is predicted, what trains, and how the heads' losses are summed."""

    method: Literal["mlm", "causal", "minijoint", "minipost", "head", "lora", "embeddings"]
    """mlm: everything trains, on the loss of the primary head. causal: the same for a decoder. minijoint: everything
    trains, on the weighted mean of the losses of the primary head and all exits. minipost: only new bridge layers
    train, between the bottom layers and the head of a checkpoint. head: only a new head trains, over a checkpoint that
    has none, such as a sentence encoder. lora: of a decoder's checkpoint, the token
    embeddings and the output matrix train, and low-rank updates of its layers (needs the package peft). embeddings: of
    a decoder's checkpoint, only the token embeddings and the output matrix train."""
    lora: LoraSection | None = None
    """Settings of lora; unset: its defaults."""
    head_weights: Numbers | None = None
    """Weights of the heads' losses, exits first in the order of `model.exits`, the primary last; unset: equal."""
    forgetting: ForgettingSection | None = None
    """Active forgetting; unset: never."""

    @property
    def lora_settings(self) -> LoraSection | None:
        """The low-rank updates' settings; None where there are none."""
        return (self.lora or LoraSection()) if self.method == "lora" else None

    def problem_of(self, causal: bool) -> str | None:
        if self.method in ("lora", "embeddings") and not causal:
            return f"objective.method {self.method}: goes with decoders alone; the model is an encoder, use mlm"
        if self.method == ("mlm" if causal else "causal"):
            kind, other = ("a decoder", "causal") if causal else ("an encoder", "mlm")
            return f"objective.method {self.method}: the model is {kind}; use {other}"
        if self.method == "head" and causal:
            return "objective.method head: a decoder has no head but its output matrix; use causal"
        return super().problem_of(causal)


class MuonSection(Section):
    """Muon (Jordan et al. 2024): the momentum of a matrix, orthogonalised by a Newton-Schulz iteration."""

    momentum: Decay = 0.95
    """Decay rate of the momentum, a running mean of the gradients."""
    nesterov: bool = True
    """Nesterov momentum: mix the newest gradient into the momentum once more before it is orthogonalised."""
    newton_schulz_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Steps of the Newton-Schulz iteration."""
    newton_schulz_precision: Literal["fp32", "bf16"] | None = None
    """Precision of the Newton-Schulz iteration; unset: bf16 if training.precision is bf16, else fp32."""


class OptimizerSection(Section):
    """AdamW. Biases and norms are not decayed."""

    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.98)
    """Decay rates of AdamW's two moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the root of AdamW's second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, of matrices only."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 never clips."""

    @property
    def muon_settings(self) -> MuonSection | None:
        """Muon's settings; None where AdamW moves everything."""
        return None


class PretrainingOptimizerSection(OptimizerSection):
    """AdamW alone, or beside Muon."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw: AdamW for all parameters. muon: Muon for the matrices of attention, feed-forward networks and heads, AdamW
    for the rest. Muon's updates are scaled to the size of AdamW's, so one learning rate and decay fit both."""
    muon: MuonSection | None = None
    """Settings of Muon; unset: its defaults."""

    @model_validator(mode="after")
    def _check(self) -> "PretrainingOptimizerSection":
        if self.muon is not None and self.name != "muon":
            raise ValueError("optimizer.muon goes with optimizer.name: muon")
        return self

    @property
    def muon_settings(self) -> MuonSection | None:
        return (self.muon or MuonSection()) if self.name == "muon" else None


class ScheduleSection(Section):
    """The learning rate, a pure function of the update."""

    shape: Literal["linear", "cosine", "warmup-stable-decay"] = "linear"
    """Shape after the warm-up."""
    duration: Duration
    """Length of the run."""
    warmup: Duration
    """Length of the linear warm-up from 0."""
    decay: Duration | None = None
    """warmup-stable-decay only: length of the linear decay to the final rate at the end."""
    final_share: Share = 0.0
    """Learning rate at the end, as a share of the peak."""

    @model_validator(mode="after")
    def _check(self) -> "ScheduleSection":
        if (self.shape == "warmup-stable-decay") != (self.decay is not None):
            raise ValueError("schedule.decay goes with schedule.shape: warmup-stable-decay, and only with it")
        return self


class SpikeSection(Section):
    """A loss far above those before it is reported with its blocks, once the warm-up is over."""

    above: Annotated[float, Field(gt=0)] = 1.0
    """A loss is a spike if it is this many nats above the median of the last losses."""
    window: Positive = 50
    """Number of losses that the median is taken over."""
    most_roll_backs: NotNegative = 0
    """How many times the run may go back to its newest checkpoint after a spike, and leave out the blocks from there to
    the spike. 0: spikes are only reported."""


class TrainingSection(Section):
    """Batch, precision, randomness and memory."""

    global_batch: Positive
    """Blocks per update, over all ranks and accumulation steps."""
    micro_batch: Positive
    """Most blocks that a rank runs at once; accumulation makes up the rest."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "bf16"
    """Precision of weights and activations; the optimizer keeps fp32 master copies. tf32: fp32, with matrix products in
    TF32 on GPUs that have it. auto (only without DeepSpeed): on a GPU bf16, or fp16 if the GPU has no bf16; on a CPU
    bf16 if a measurement at the start shows that it is faster, else fp32."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides initial weights, order of blocks, masks and dropout."""
    activation_checkpointing: bool = False
    """Recompute the layers in the backward pass instead of keeping their activations."""
    compile: bool = False
    """Compile the layers with torch.compile, during the first updates and the first validation. Needs a C++ compiler.
    Not with ZeRO stage 3."""
    runs: PathName = "runs"
    """Folder in which the run directory is made."""
    stop_after_nonfinite: Positive = 10
    """End the run after this many updates in a row whose loss or gradient was not finite."""
    spike: SpikeSection = SpikeSection()
    deterministic: bool = False
    """Use only kernels that add in a fixed order, so that a GPU gives the same bits each time. Slower. Kernels on a CPU
    always do."""
    profile: Positive | None = None
    """Number of updates that PyTorch's profiler traces, after the first three. Rank 0 writes the trace into the run's
    folder `profile`, for TensorBoard's profiler plugin or ui.perfetto.dev. Unset: none."""
    block_order: BlockOrder | None = None
    """runs: neighbouring blocks are read together, and these runs of blocks are in random order; the blocks of a batch
    come from different runs. blocks: each block is read alone, in random order, as in earlier versions; slow on a
    network file system. Unset: runs, or for a run that is continued, its own order. The two differ only from about
    64 MB of blocks on."""
    hang_minutes: Annotated[float, Field(gt=0)] | None = 30.0
    """End the process, with stack traces and status 75, if no update, validation or save has ended for this long. The
    first update has at least 30 minutes. null: no such limit, but a rank waits at most an hour for another."""


class CheckpointSection(Section):
    """When checkpoints are written and which are kept."""

    every: Duration | None = None
    """Distance between two checkpoints; unset: by time, as `every_minutes` says."""
    every_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """If `every` is unset: minutes between two checkpoints. A killed run loses about this much at most. null: only at
    the end."""
    keep_last: Positive = 2
    """Number of newest checkpoints that are kept."""
    keep_every: Duration | None = None
    """Checkpoints at multiples of this are kept for good; unset: none."""
    in_background: bool = True
    """Write while training goes on, from a copy in memory. The copy takes 12 bytes per trained parameter, over all
    ranks together."""
    resume: bool = True
    """Continue from the newest complete checkpoint of the run directory, if there is one."""


class TelemetrySection(Section):
    """What is written down along the way."""

    every: Positive = 10
    """Updates between two lines of the log. Each line has the means since the line before."""
    validate_every: Duration | None = None
    """Distance between two validations; unset: only at the end."""
    validation_blocks: Positive = 2048
    """Most validation blocks that are read."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Peak rate of one device in TFLOP/s, for model-FLOPs utilisation. Unset: the known rate of the device, or measured
    at the start."""


class RunRecipe(Section):
    """What every recipe has: a name, and a section `training` that says where runs lie."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run, and of its directory."""

    @property
    def run_directory(self) -> Path:
        return Path(self.training.runs) / self.name


class Recipe(RunRecipe):
    """All that decides a pretraining run."""

    model: ModelSection
    data: DataSection
    objective: ObjectiveSection
    optimizer: PretrainingOptimizerSection
    schedule: ScheduleSection
    training: TrainingSection
    checkpoint: CheckpointSection = CheckpointSection()
    telemetry: TelemetrySection = TelemetrySection()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        _check_method(self.objective, self.model)
        # That of a checkpoint is known where its configuration is read.
        known = self.model.family is not None
        if known and (problem := self.objective.problem_of(self.model.family in get_args(DecoderName))):
            raise ValueError(problem)
        if self.model.attention == "flash_attention_2" and self.training.precision in ("fp32", "tf32"):
            raise ValueError("model.attention: flash_attention_2 needs training.precision bf16 or fp16")
        if self.optimizer.name == "muon" and self.objective.method in ("lora", "embeddings"):
            raise ValueError("optimizer.name muon: goes with methods that train whole layers; use adamw")
        weights = self.objective.head_weights
        if weights is not None and (len(weights) != self.heads or min(weights) <= 0):
            raise ValueError(f"objective.head_weights needs {self.heads} positive numbers: exits, primary")
        return self

    @property
    def heads(self) -> int:
        """Number of heads whose losses are summed."""
        return len(self.model.exits) + 1 if self.objective.method == "minijoint" else 1

    @property
    def head_weights(self) -> tuple[float, ...]:
        """Weights that sum to 1, exits first, the primary last."""
        weights = self.objective.head_weights or (1.0,) * self.heads
        return tuple(weight / sum(weights) for weight in weights)


def _check_method(objective: ObjectiveSection, model: ModelSection) -> None:
    method = objective.method
    if method == "minipost" and (len(model.exits) != 1 or not model.bridge_layers):
        raise ValueError("objective.method minipost needs one layer in model.exits, and model.bridge_layers")
    if method != "minipost" and model.bridge_layers:
        raise ValueError("model.bridge_layers goes with objective.method minipost")
    if method in ("minipost", "head", "lora", "embeddings") and not model.from_checkpoint:
        raise ValueError(f"objective.method {method} builds on model.from_checkpoint")
    if (method in ("minijoint", "minipost")) != bool(model.exits):
        plain = "mlm" if method == "minijoint" else method
        raise ValueError(f"objective.method minijoint needs model.exits, and {plain} has none")
    if objective.lora is not None and method != "lora":
        raise ValueError("objective.lora goes with objective.method: lora")
    if method in ("minipost", "head") and objective.forgetting:
        raise ValueError(f"objective.forgetting: token embeddings are frozen with objective.method {method}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe of `launch/pretrain.py` and apply `section.key=value` overrides.

    Raises `UserError` naming the file and the key for anything that is not a valid recipe.
    """
    return read_recipe(path, overrides, Recipe)


def dump_recipe(recipe: RunRecipe) -> str:
    """The resolved recipe as YAML that reads back the same."""
    return as_yaml(recipe.model_dump(mode="json"))
