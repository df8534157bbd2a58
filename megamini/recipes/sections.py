"""The sections of a recipe for model, data, training, checkpoints and telemetry."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from megamini.recipes.values import (
    BlockOrder,
    Duration,
    FamilyName,
    Layers,
    NotNegative,
    Numbers,
    PathName,
    Paths,
    Positive,
    Section,
    Share,
)


class ModelSection(Section):
    """The primary model: a body of the `transformers` library and the layers at which it has exits."""

    family: FamilyName | None = None
    """Family of the body; needed unless `from_checkpoint` is given."""
    config: dict[str, int | float | bool | str | list[str] | None] = Field({})
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
