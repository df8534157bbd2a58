"""Recipes of `launch/adapt.py`: a source model, and text of the languages that it is to learn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megamini.recipes.file import read_recipe
from megamini.recipes.objective import MaskingSection
from megamini.recipes.optimizer import OptimizerSection, ScheduleSection
from megamini.recipes.recipe import RunRecipe
from megamini.recipes.sections import CheckpointSection, TelemetrySection, TrainingSection
from megamini.recipes.values import Duration, NotNegative, PathName, Paths, Positive, Section, Share


class TargetDataSection(Section):
    """Prepared text of the new languages."""

    path: PathName | Paths
    """Data directory of the new language (tools/prepare_data.py), or a list of them, to learn several languages in one
    run."""
    source: PathName | None = None
    """Data directory of the source's own language, prepared with the tokenizer of `path`. Only if that tokenizer reads
    both languages (an extension or a replacement). Each validation measures it, to show what is forgotten."""
    source_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of `data.source` in an update; 0: it is only measured."""
    workers: NotNegative = 2
    """Processes that prepare batches in advance; 0: the training process prepares them itself."""


class PlateauSection(Section):
    """A language stops when its validation loss falls no more."""

    patience: Positive
    """Validations in a row without a new best one."""
    least_gain: Annotated[float, Field(ge=0)] = 0.0
    """Nats by which a loss must be below the best one to count as better."""


class StopSection(Section):
    """Ends before that of the schedule, whichever comes first."""

    flops: Annotated[float, Field(gt=0)] | None = None
    """Most model FLOPs for each language. The schedule is shortened to fit, so the learning rate still falls to its
    end."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Most seconds of training, added over all starts of the run."""
    plateau: PlateauSection | None = None
    """Stop a language on a plateau of its validation loss; unset: never."""


class AdaptationSection(Section):
    """What the embeddings are learned over, and from where they start."""

    source: PathName
    """Model to learn over: a checkpoint folder or hub name (an export, or any RoBERTa, XLM-R, BERT, ModernBERT, Llama,
    Qwen2, Qwen3, Gemma or GPT-NeoX), or a run directory or checkpoint of launch/pretrain.py."""
    method: Literal["standard", "mini"]
    """standard: over the whole primary model. mini: over a mini-model. The source is the mini-model, or has it as an
    exit."""
    exit: Positive | None = None
    """Layer of the exit, if the source is a run with several exits."""
    primary: PathName | None = None
    """Checkpoint folder of the primary model: validation then also measures the primary model with the new embeddings.
    Unset: the primary model of the run, if the source is a run with exits."""
    initialise: Literal[
        "random", "unigram", "overlap", "subword", "focus", "combined", "distil", "lexicon", "auto", "pack"
    ] = "focus"
    """Starting point of the new rows. random: random rows, as published. unigram: the same, with the special rows of
    the source. overlap: shared pieces are copied, others are random with the spread of the source's rows. subword:
    shared pieces are copied, others are the mean of the source's pieces that spell them. focus: shared pieces are
    copied, others are mixed from shared ones. combined: as focus, and a fifth of each mix is the subword row. distil:
    as combined, then trained so that hidden states match those of the translation (with `lexicon` or `parallel`), or of
    the source's own pieces. lexicon: words of a word list start at the mean of their translations. auto: the best of
    subword, focus, combined and, with `parallel`, distil, after a few updates of each. pack: the rows of a pack."""
    calibrate: bool | None = None
    """Spread mixed rows as widely as the source's own rows. Unset: yes, except for a run that an earlier version
    began."""
    bias: Literal["unigram", "source"] | None = None
    """Output bias to start from. unigram: log-probabilities of the target's pieces. source: the source's numbers, as
    published. Unset: source for random, else unigram."""
    train_bias: bool = True
    """Train the output bias too. In the published method it is not trained."""
    lexicon: PathName | None = None
    """Word list, for `initialise: lexicon`, `focus`, `combined`, `distil` and `auto`. Each line: target word, tab,
    source word. White space between the two words will do too, as in MUSE's lists."""
    parallel: Annotated[tuple[PathName, PathName], Field(strict=False)] | None = None
    """Parallel text, for `initialise: focus`, `combined`, `distil` and `auto`: two text files, the new language first.
    Each line of one is the translation of the same line of the other."""
    pack: PathName | None = None
    """Language pack to continue from, for `initialise: pack`. It needs the same lineage and tokenizer."""
    focus_through: Literal["deepfocus", "scikit-learn"] | None = None
    """Package for the static embeddings of `initialise: focus`, `combined` and `distil`. Unset: deepfocus, if it is
    installed and there is neither word list nor parallel text; else scikit-learn."""
    dropout: Share | None = None
    """Dropout of hidden states and attention; unset: the source's own."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel of `transformers`."""
    stop: StopSection = StopSection()
    pack_every: Duration | None = None
    """Distance between two packs during the run, kept as LANG-step-XXXXXXXX. The first is the untrained one. Unset: one
    pack, at the end."""

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
