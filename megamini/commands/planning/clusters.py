"""Clusters to plan for: memory, peak rate and links of well-known GPUs."""

from dataclasses import dataclass

from megamini.costs.flops import PEAK_TFLOPS
from megamini.errors import UserError, did_you_mean

GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """memory: bytes. peak_name: entry of `costs.flops.PEAK_TFLOPS`. link: bytes/s that one GPU sends to the others
    of its node, in one direction; by the vendor's data sheet. stated_peak: FLOP/s, instead of the table's."""

    memory: float
    peak_name: str
    link: float
    stated_peak: float | None = None

    def peak(self, precision: str) -> float:
        """Dense FLOP/s. Raises UserError where the device has no such unit."""
        if self.stated_peak is not None:
            return self.stated_peak
        rates = PEAK_TFLOPS[self.peak_name]
        if precision not in rates:
            raise UserError(f"training.precision: {precision}: {self.peak_name} lacks it; it has {', '.join(rates)}")
        return rates[precision] * 1e12


GPUS = {
    # NVIDIA V100 datasheet (2020): NVLink 300 GB/s, both directions.
    "v100-32gb": Gpu(32 * GB, "V100-SXM2", 150 * GB),
    # NVIDIA A100 datasheet (2021), SXM: NVLink 600 GB/s, both directions.
    "a100-40gb": Gpu(40 * GB, "A100", 300 * GB),
    "a100-80gb": Gpu(80 * GB, "A100", 300 * GB),
    # NVIDIA L40S datasheet (2023): PCIe 4.0 x16, 64 GB/s, both directions.
    "l40s": Gpu(48 * GB, "L40S", 32 * GB),
    # NVIDIA H100 datasheet (2023), SXM: NVLink 900 GB/s, both directions.
    "h100": Gpu(80 * GB, "H100 80GB HBM3", 450 * GB),
    # NVIDIA H200 datasheet (2024), SXM.
    "h200": Gpu(141 * GB, "H200", 450 * GB),
    # AMD Instinct MI300X datasheet (2023): Infinity Fabric, 896 GB/s to the seven others, both directions.
    "mi300x": Gpu(192 * GB, "MI300X", 448 * GB),
}


@dataclass(frozen=True)
class Cluster:
    """gpus: how many in all. network: bytes/s that one GPU sends to other nodes. usable: share of a GPU's memory that a
    plan may fill; the rest is CUDA's context, NCCL's buffers and fragmentation. utilisation: model FLOPs over peak."""

    name: str
    gpu: Gpu
    gpus: int
    gpus_per_node: int = 8
    network: float = 25 * GB
    usable: float = 0.9
    utilisation: float = 0.4

    @property
    def budget(self) -> float:
        """Bytes of a GPU that a plan may fill."""
        return self.gpu.memory * self.usable

    @property
    def slowest_link(self) -> float:
        """Bytes/s of the link that a collective over all GPUs waits for."""
        return self.gpu.link if self.gpus <= self.gpus_per_node else min(self.gpu.link, self.network)


def find_gpu(name: str) -> Gpu:
    """Raises UserError naming the nearest known one."""
    if name not in GPUS:
        raise UserError(
            f"--gpu {name}: not known{did_you_mean(name, GPUS)}; there are {', '.join(GPUS)}; for another, "
            "leave --gpu out and give --gpu-memory, --peak-tflops and --link"
        )
    return GPUS[name]
