"""Hours on well-known GPUs, from FLOPs by formula: for plans, where nothing is measured."""

from megamini.costs.flops import PEAK_TFLOPS

UTILISATION = 0.4  # of the peak, assumed
# What a language community, a workstation and a node have: name in `PEAK_TFLOPS`, number, fastest precision.
_DEVICES = (("T4", 1, "fp16"), ("RTX 3090", 1, "bf16"), ("A100", 1, "bf16"), ("A100", 8, "bf16"))


def hours_on_gpus(flops: float) -> dict[str, float]:
    """Hours for so many model FLOPs, by the GPUs' name; several share them evenly."""
    return {
        f"{count} x {name}" if count > 1 else name: flops
        / (PEAK_TFLOPS[name][precision] * 1e12 * UTILISATION * count)
        / 3600
        for name, count, precision in _DEVICES
    }


def hours_in_words(flops: float) -> str:
    """The same, on one line."""
    each = ", ".join(f"{name} {hours:.2g} h" for name, hours in hours_on_gpus(flops).items())
    return f"{each}; computed at {UTILISATION:.0%} of peak"
