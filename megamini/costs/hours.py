"""Hours from FLOPs by formula, on well-known GPUs and on this CPU; and times in words."""

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


def hours_in_words(flops: float, cpu_rate: float | None = None) -> str:
    """The same, on one line. cpu_rate: FLOP/s of this machine's matrix products, where it has no GPU."""
    hours = hours_on_gpus(flops)
    if cpu_rate is not None:
        hours = {"this CPU": flops / (cpu_rate * UTILISATION) / 3600, **hours}
    each = ", ".join(f"{name} {each:.2g} h" for name, each in hours.items())
    return f"{each}; computed at {UTILISATION:.0%} of peak"


def in_words(seconds: float) -> str:
    """A time that is left, in its largest unit."""
    for unit, length in (("days", 86_400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
