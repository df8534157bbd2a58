"""The sections `optimizer` and `schedule`."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from megamini.recipes.values import Decay, Duration, Section, Share


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
