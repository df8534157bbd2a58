"""Recipes of `launch/adapt.py`: a source model, and text of the languages that it is to learn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megamini.recipes.file import read_recipe
from megamini.recipes.sections import (
    CheckpointSection,
    Duration,
    MaskingSection,
    NotNegative,
    OptimizerSection,
    PathName,
    Paths,
    Positive,
    RunRecipe,
    ScheduleSection,
    Section,
    Share,
    TelemetrySection,
    TrainingSection,
)


class TargetDataSection(Section):
    """Prepared text of the new languages."""

    path: PathName | Paths
    """Data directory of the new language (tools/prepare_data.py), or a list of them, to learn side by side."""
    source: PathName | None = None
    """Text of the source's own language, prepared with the tokenizer of `path`, where that reads both (an extension, a
    replacement): validation measures it all along, as what is forgotten."""
    source_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of it in an update; 0 only measures it."""
    workers: NotNegative = 2
    """Processes that make batches ahead of the step; 0 makes them in the step's own process."""


class PlateauSection(Section):
    """A language stops when its validation loss falls no more."""

    patience: Positive
    """Validations in a row without a new best one."""
    least_gain: Annotated[float, Field(ge=0)] = 0.0
    """Nats by which a loss must be below the best to count as a new best one."""


class StopSection(Section):
    """Ends before that of the schedule, whichever comes first."""

    flops: Annotated[float, Field(gt=0)] | None = None
    """Most model FLOPs of each language; shortens the schedule, so that the learning rate still ends as it should."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Longest time in the loop, over all sessions."""
    plateau: PlateauSection | None = None
    """Stop a language on a plateau of its validation loss; unset: never."""


class AdaptationSection(Section):
    """What the embeddings are learned over, and from where they start."""

    source: PathName
    """Model to learn over: a checkpoint folder (an export, any RoBERTa, XLM-R, BERT or ModernBERT, any Llama, Qwen2,
    Qwen3, Gemma or GPT-NeoX) or hub name, or a run directory or checkpoint of launch/pretrain.py."""
    method: Literal["standard", "mini"]
    """standard: over the whole primary model. mini: over a mini-model, which the source is or has as an exit."""
    exit: Positive | None = None
    """Layer of the exit, where the source is a run with several."""
    primary: PathName | None = None
    """Checkpoint folder of the primary model: validation then also plugs the embeddings into it. Unset: that of the
    run, where the source is one with exits."""
    initialise: Literal[
        "random", "unigram", "overlap", "subword", "focus", "combined", "distil", "lexicon", "auto", "pack"
    ] = "focus"
    """Starting point. random: as published. unigram: the same, with special rows of the source. overlap: shared pieces
    copied, others drawn alike. subword: others from the source's pieces that spell them. focus: others mixed from
    shared ones. combined: focus, with a fifth of subword. distil: combined, then learned until hidden states are those
    that the source has of the text or, with a word list or parallel text, of its translation. lexicon: from a word
    list. auto: what is best of these after a few updates. pack: from a pack."""
    calibrate: bool | None = None
    """Spread the rows that are mixed from others as widely as the source's own rows are; unset: yes, but for a run that
    an earlier version has begun."""
    bias: Literal["unigram", "source"] | None = None
    """Output bias to start from: log-probabilities of the target's pieces, or the source's numbers, as published.
    Unset: source for random, else unigram."""
    train_bias: bool = True
    """Learn the output bias too; as published it stays."""
    lexicon: PathName | None = None
    """Word list of `initialise: lexicon`, or with `focus`, `combined`, `distil` and `auto`, to mix from its words too:
    lines of target word, tab, source word (or white space between two words, as MUSE's)."""
    parallel: Annotated[tuple[PathName, PathName], Field(strict=False)] | None = None
    """Parallel text for `initialise: focus`, `combined`, `distil` and `auto`, to mix from the pieces that it aligns
    too: two files whose lines say the same, that of the new language first."""
    pack: PathName | None = None
    """Language pack of `initialise: pack`, of the same lineage and tokenizer: go on from there."""
    focus_through: Literal["deepfocus", "scikit-learn"] | None = None
    """Static embeddings of `initialise: focus`, `combined` and `distil`; unset: the package deepfocus where it is
    installed and there is neither word list nor parallel text."""
    dropout: Share | None = None
    """Dropout of hidden states and attention; unset: the source's own."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel of `transformers`."""
    stop: StopSection = StopSection()
    pack_every: Duration | None = None
    """Distance between two packs on the way, the untrained one first, kept as LANG-step-XXXXXXXX; unset: only at the
    end."""

    @model_validator(mode="after")
    def _check(self) -> "AdaptationSection":
        for key, kinds in (
            ("lexicon", ("lexicon", "focus", "combined", "distil", "auto")),
            ("parallel", ("focus", "combined", "distil", "auto")),
            ("pack", ("pack",)),
        ):
            if self.initialise == key and getattr(self, key) is None:
                raise ValueError(f"adaptation.initialise: {key} needs adaptation.{key}")
            if getattr(self, key) is not None and self.initialise not in kinds:
                raise ValueError(f"adaptation.{key} goes with adaptation.initialise: {' or '.join(kinds)}")
        if self.focus_through == "deepfocus":
            if self.lexicon is not None:
                raise ValueError("adaptation.focus_through: deepfocus takes no word list; leave out one of the two")
            if self.parallel is not None:
                raise ValueError("adaptation.focus_through: deepfocus takes no parallel text; leave out one of the two")
        if self.bias is not None and self.initialise == "pack":
            raise ValueError("adaptation.bias: with initialise: pack the bias is the pack's")
        if self.exit is not None and self.method == "standard":
            raise ValueError("adaptation.exit goes with adaptation.method: mini")
        return self


class AdaptationRecipe(RunRecipe):
    """All that decides how languages are learned over a frozen body."""

    adaptation: AdaptationSection
    data: TargetDataSection
    objective: MaskingSection = MaskingSection()
    optimizer: OptimizerSection
    schedule: ScheduleSection
    training: TrainingSection
    checkpoint: CheckpointSection = CheckpointSection()
    telemetry: TelemetrySection = TelemetrySection()

    @model_validator(mode="after")
    def _check(self) -> "AdaptationRecipe":
        if self.adaptation.attention == "flash_attention_2" and self.training.precision in ("fp32", "tf32"):
            raise ValueError("adaptation.attention: flash_attention_2 needs training.precision bf16 or fp16")
        for key in ("lexicon", "parallel"):
            if getattr(self.adaptation, key) is not None and len(self.data_paths) > 1:
                raise ValueError(
                    f"adaptation.{key} is of one language, and data.path names several; learn them one by one"
                )
        if self.training.spike.most_roll_backs and not isinstance(self.objective.mask_share, float):
            raise ValueError(  # which global batches have made a pack is not kept
                "objective.mask_share: stages do not go with training.spike.most_roll_backs, for a language pack could "
                "not tell what it has cost; give one share, or 0 roll-backs"
            )
        if self.data.source is not None and len(self.data_paths) > 1:
            raise ValueError("data.source goes with one data.path; learn the languages one by one")
        if self.data.source_share and self.data.source is None:
            raise ValueError("data.source_share goes with data.source")
        if self.adaptation.stop.plateau and not self.telemetry.validate_every:
            raise ValueError("adaptation.stop.plateau needs telemetry.validate_every")
        return self

    @property
    def data_paths(self) -> tuple[str, ...]:
        return (self.data.path,) if isinstance(self.data.path, str) else self.data.path


def load_adaptation_recipe(path: str | Path, overrides: Sequence[str] = ()) -> AdaptationRecipe:
    """Read a recipe of `launch/adapt.py` and apply `section.key=value` overrides.

    Raises `UserError` naming the file and the key for anything that is not a valid recipe.
    """
    return read_recipe(path, overrides, AdaptationRecipe)
