"""Loss spikes: an update whose loss lies far above those before it."""

import statistics
from dataclasses import dataclass

from megamini.training.state.train_state import TrainState


class RollBack(Exception):
    """Go back to the newest checkpoint, and leave out the global batches up to and with number `batch`."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch)
        self.batch = batch


@dataclass(frozen=True)
class SpikeRule:
    """above: nats over the median of the last `window` losses that make a spike. most_roll_backs: 0 only reports.
    warmup: updates in which the learning rate rises, and the loss goes up and down with it: nothing there is a spike.
    """

    above: float
    window: int
    most_roll_backs: int
    warmup: int = 0

    def detect(self, state: TrainState, loss: float) -> str | None:
        """What to say of the loss of the update just done; None where it is no spike. A spike does not count among the
        losses that later ones are held against."""
        if len(state.recent_losses) == self.window and state.update > self.warmup:
            usual = statistics.median(state.recent_losses)
            if loss > usual + self.above:
                return (
                    f"update {state.update}: loss {loss:.3f} is a spike, {loss - usual:.3f} nats above the median of "
                    f"the last {self.window}; its blocks are global batch {state.last_batch}"
                )
        state.recent_losses = [*state.recent_losses, loss][-self.window :]
        return None

    def rolls_back(self, state: TrainState) -> bool:
        """Whether the run may go back once more."""
        return state.roll_backs < self.most_roll_backs
