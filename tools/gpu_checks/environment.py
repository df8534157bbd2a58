"""Which hardware and versions these are."""

import importlib.metadata
import os
import platform

import torch

from tools.benchmarks.page import hardware
from tools.gpu_checks.context import Context

_PACKAGES = ("torch", "transformers", "deepspeed", "triton", "flash-attn", "accelerate", "numpy")


def run(context: Context) -> None:
    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name() if count else "CPU"
    context.tell("device", True, says=f"{max(1, count)} x {name}", hardware=f"{count} x {name}" if count > 1 else name)
    context.tell("host", True, says=f"{hardware()}; Python {platform.python_version()}; {platform.platform()}")
    for index in range(count):
        facts = torch.cuda.get_device_properties(index)
        says = f"{facts.total_memory / 2**30:.1f} GiB, {facts.multi_processor_count} multiprocessors, capability "
        context.tell(f"GPU {index}", True, says=f"{says}{facts.major}.{facts.minor}")
    versions = {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version(), "NCCL": _nccl()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    context.tell("versions", True, says=", ".join(f"{key} {value}" for key, value in versions.items()))
    settings = {key: value for key, value in os.environ.items() if key.startswith(("NCCL_", "CUDA_", "TORCH", "DS_"))}
    matmul = torch.get_float32_matmul_precision()
    context.tell("settings", True, says=f"float32_matmul_precision {matmul}; {settings or 'no variables set'}")


def _nccl() -> str | None:
    return ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None
