"""`training.profile`: where the time of some updates goes, as a trace of PyTorch's profiler."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

# Kernels are compiled and chosen, and the loader fills up, before the first one that is looked at.
_BEFORE = 3
FOLDER = "profile"


class Profile(AbstractContextManager):
    """Context that writes a trace of `updates` updates into a run's folder `profile`; None does nothing."""

    def __init__(self, run_directory: Path, updates: int | None) -> None:
        self._profiler = None
        if updates is not None:
            on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler = torch.profiler.profile(
                activities=[ProfilerActivity.CPU, *on_gpu],
                schedule=torch.profiler.schedule(wait=_BEFORE - 1, warmup=1, active=updates, repeat=1),
                on_trace_ready=torch.profiler.tensorboard_trace_handler(str(run_directory / FOLDER)),
                profile_memory=True,
            )

    def __enter__(self) -> "Profile":
        (self._profiler or nullcontext()).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        (self._profiler or nullcontext()).__exit__(*error)

    def after_update(self) -> None:
        """One more is done."""
        if self._profiler is not None:
            self._profiler.step()
