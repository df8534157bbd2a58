"""The factor by which fp16 multiplies a loss, so that small gradients are not rounded to zero."""

# As DeepSpeed and PyTorch begin; and after so many updates without an overflow a larger one is tried.
_FIRST, _LEAST, _WINDOW = 2.0**16, 1.0, 1000


class LossScale:
    """Halved when a gradient has overflowed, doubled after many updates in which none has.

    Kept on the host, which reads the gradient norms of an update anyway: PyTorch's `GradScaler` keeps it on the device,
    reads once more, and leaves out all parameters or none, where languages side by side are clipped each by itself.
    """

    def __init__(self) -> None:
        self.value, self._since_overflow = _FIRST, 0

    def look(self, finite: bool) -> None:
        """After an update, whether all its gradients were finite."""
        self._since_overflow = self._since_overflow + 1 if finite else 0
        if not finite:
            self.value = max(_LEAST, self.value / 2)
        elif self._since_overflow % _WINDOW == 0:
            self.value *= 2

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; `cur_scale` is DeepSpeed's name too, so that either goes on from the other's."""
        return {"cur_scale": self.value, "since_overflow": self._since_overflow}

    def restore(self, values: dict[str, float]) -> None:
        """The inverse of `state`; what is missing stays as it is."""
        self.value = values.get("cur_scale", self.value)
        self._since_overflow = int(values.get("since_overflow", self._since_overflow))
