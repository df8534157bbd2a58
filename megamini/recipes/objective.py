"""The section `objective`: what is predicted, what trains, and how the losses are summed."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from megamini.recipes.values import Duration, MaskShare, Numbers, Positive, Section, Share, parsed_duration

_SMALLEST_WORKSPACE, _LARGEST_WORKSPACE = 256 * 2**20, 2 * 2**30


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
        (before, unit), (behind, other_unit) = parsed_duration(earlier.until), parsed_duration(later.until)
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
