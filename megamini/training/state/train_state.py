"""Where a run stands: all that a resume needs beside weights and optimizer, in one explicit place."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from megamini.errors import UserError


@dataclass
class TrainState:
    """Where a run stands. Which blocks come next follows from it: update t reads global batch t + batches_left_out."""

    update: int = 0
    """Updates done; also the number of the next one."""
    tokens: int = 0
    """Tokens read by the model."""
    flops: int = 0
    """Model FLOPs spent, by formula (`megamini.costs.flops`)."""
    optimizer_flops: int = 0
    """Those of Muon's matrix products, beside them."""
    seconds: float = 0.0
    """Wall-clock seconds in the loop, over all sessions."""
    skipped: int = 0
    """Updates that were not applied because a loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """Of these, the ones just now without a good update between."""
    scaler_overflows: int = 0
    """Updates that fp16's loss scaler left out while it looked for its scale; no sign of trouble."""
    stopped: dict[str, int] = field(default_factory=dict)
    """Heads that train no more, each with the updates that it had (`training.safety.stopping`)."""
    plateau: dict[str, tuple[float, int]] = field(default_factory=dict)
    """For each head watched for a plateau: its best validation loss, and the validations since."""

    batches_left_out: int = 0
    """Global batches that no update has read, because the run went back from a loss spike."""
    roll_backs: int = 0
    """How often it did."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last updates, which a spike is held against."""

    recipe: dict[str, Any] | None = None
    """The recipe that the last update was trained with, as values."""
    changes: list[str] = field(default_factory=list)
    """What was changed in it on the way, and after which update."""

    @property
    def last_batch(self) -> int:
        """Number of the global batch that the last update read."""
        return self.update - 1 + self.batches_left_out

    def state_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, values: dict[str, Any]) -> "TrainState":
        """The inverse of `state_dict`. What an earlier version did not know of is as at the start.

        Raises `UserError` for what this version does not know.
        """
        if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
            raise UserError(f"the checkpoint says '{unknown[0]}', unknown to this version; use the newer version")
        return cls(**values)
