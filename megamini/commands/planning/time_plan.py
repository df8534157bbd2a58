"""Days, GPU-hours and communication of a run, and after how many languages its second head has paid."""

from dataclasses import dataclass

from megamini.commands.planning.clusters import Cluster
from megamini.commands.planning.memory_plan import Layout
from megamini.commands.planning.subject import Subject
from megamini.costs.flops import training_flops
from megamini.costs.shape import OVER_FROZEN, only_exit

DAY = 86_400.0
PUBLISHED_TOKENS = 125_000 * 2_048 * 512
"""Of one language's adaptation (Marchisio et al. 2023): updates, blocks, block length."""


@dataclass(frozen=True)
class Times:
    """compute, communication: seconds of one update, were the other not there, in the mean over the run. days: of the
    whole run by compute."""

    compute: float
    communication: float
    days: float
    gpu_hours: float


def communicated_bytes(subject: Subject, cluster: Cluster, layout: Layout) -> float:
    """Bytes that each GPU sends for one update, by ring collectives.

    Rajbhandari et al. 2020 (section 7): reduce-scatter of the gradients and all-gather of the weights are one model
    each, at stages 0 to 2 once an update; stage 2 reduces after every micro-batch, and stage 3 also gathers the weights
    for every forward and every backward pass, also those that stay frozen.
    """
    width = 4 if subject.recipe.training.precision in ("fp32", "tf32") else 2
    sent = width * (cluster.gpus - 1) / cluster.gpus
    model, whole = subject.trainable * sent, sum(subject.parameters.values()) * sent
    # Muon's matrices go in parts to one rank each and back, fp32, from stage 1 on: at most a rank's share, or one.
    own = max(subject.largest_matrix, subject.muon_parameters / cluster.gpus)
    matrices = 2 * 4 * own if layout.stage and cluster.gpus > 1 else 0
    if layout.stage <= 1:
        return 2 * model + matrices
    if layout.stage == 2:
        return (layout.accumulation + 1) * model + matrices
    return layout.accumulation * (model + 2 * whole) + matrices


def times_of(subject: Subject, cluster: Cluster, layout: Layout) -> Times:
    """By formula; `cluster.utilisation` is an assumption, not a measurement."""
    training, muon = subject.recipe.training, subject.recipe.optimizer.muon_settings
    # The layers' forward pass once more: a third of all, and half where their matrices are frozen.
    forward = 1 / 2 if subject.method in OVER_FROZEN else 1 / 3
    flops = (1 + forward * layout.checkpointing) * subject.flops()
    seconds = flops / cluster.gpus / (cluster.gpu.peak(training.precision) * cluster.utilisation)
    if muon:
        iteration = muon.newton_schulz_precision or ("bf16" if training.precision == "bf16" else "fp32")
        rate = cluster.gpu.peak(iteration) * cluster.utilisation
        seconds += subject.updates * subject.muon_flops(cluster.gpus) / rate
    communication = communicated_bytes(subject, cluster, layout) / cluster.slowest_link
    return Times(seconds / subject.updates, communication, seconds / DAY, seconds / 3600 * cluster.gpus)


@dataclass(frozen=True)
class BreakEven:
    """FLOPs. extra: what the exits add to pretraining. standard, mini: of learning one language, either way."""

    extra: float
    standard: float
    mini: float

    @property
    def languages(self) -> float:
        """After how many languages the exits have paid for themselves."""
        return self.extra / (self.standard - self.mini)


def break_even(subject: Subject) -> BreakEven | None:
    """With `PUBLISHED_TOKENS` a language, whatever the pretraining, at the mask share of its end; None for a recipe
    without exactly one exit. A fresh bridge is paid for as MiniPost's pretraining."""
    if subject.method != "minijoint" or len(subject.exits) != 1:
        return None
    blocks = PUBLISHED_TOKENS / subject.block_length
    masked = subject.mask_schedule.masked(subject.updates - 1)
    exits = (only_exit(subject.exits),)

    def language(method: str) -> float:
        return blocks * training_flops(subject.shape, subject.block_length, masked, method, exits)

    extra = subject.flops() - subject.flops("mlm", ())
    return BreakEven(extra, language("standard"), language("mini"))
