"""Ends of a run other than its schedule's: wall-clock time, and a validation loss that falls no more."""

from collections.abc import Iterable
from dataclasses import dataclass

from megamini.training.state.train_state import TrainState


@dataclass(frozen=True)
class StopRules:
    """`seconds`: longest time in the loop, over all sessions. `patience`: validations in a row that a head may go
    without `least_gain` nats below its best; then it stops. None: never."""

    seconds: float | None = None
    patience: int | None = None
    least_gain: float = 0.0

    def end_run(self, state: TrainState, heads: Iterable[str]) -> bool:
        """Whether the time is up, or every head has stopped."""
        return (self.seconds is not None and state.seconds >= self.seconds) or all(h in state.stopped for h in heads)

    def newly_stopped(self, state: TrainState, losses: dict[str, float]) -> list[str]:
        """Heads that a validation's `losses`, by head in nats, bring to an end; `state` keeps count."""
        if self.patience is None:
            return []
        ended = []
        for head, loss in losses.items():
            if head in state.stopped:
                continue
            best, since = state.plateau.get(head, (float("inf"), 0))
            since = 0 if loss < best - self.least_gain else since + 1
            state.plateau[head] = (loss if since == 0 else best, since)
            if since >= self.patience:
                state.stopped[head] = state.update
                ended.append(head)
        return ended
