"""A plan in words and tables."""

import json

from megamini.commands.planning.clusters import Cluster
from megamini.commands.planning.memory_plan import Bytes, Layout, bytes_of, deepspeed_json, layouts, smallest_that_fits
from megamini.commands.planning.subject import Subject
from megamini.commands.planning.time_plan import PUBLISHED_TOKENS, break_even, times_of
from megamini.commands.reporting.tables import table
from megamini.costs.flops import checkpoint_bytes
from megamini.training.optimizers.optimizer_plan import overhead_in_words
from megamini.training.setup import masked_in_words

_PARTS = ("weights", "gradients", "optimizer", "activations", "loss", "buffers")


def plan_report(subject: Subject, cluster: Cluster) -> str:
    """The whole plan, as Markdown. Raises UserError where nothing fits."""
    chosen = smallest_that_fits(subject, cluster)
    times = times_of(subject, cluster, chosen)
    recipe, counts = subject.recipe, subject.parameters
    batch = (
        f"{subject.tokens_per_update:,} tokens an update = {recipe.training.global_batch:,} blocks of "
        f"{subject.block_length} = {cluster.gpus:,} GPUs x {chosen.accumulation} x {chosen.micro_batch} blocks"
    )
    groups = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
    flops, checkpoint = subject.flops(), checkpoint_bytes(subject.trainable, subject.muon_parameters)
    stages = subject.mask_schedule.along(subject.updates)
    lines = [
        f"## {recipe.name} on {cluster.name}",
        "",
        f"* Parameters: {sum(counts.values()):,}: {groups}",
        f"* Batch: {batch}",
        f"* Length: {subject.updates:,} updates = {subject.updates * subject.tokens_per_update:.3g} tokens = "
        f"{flops:.3g} model FLOPs",
        *([f"* Masked: {masked_in_words(stages)}"] if len(stages) > 1 else []),
        *_muon(subject, cluster),
        f"* Time: {times.days:.1f} days, {times.gpu_hours:,.0f} GPU-hours, assuming {cluster.utilisation:.0%} of peak",
        f"* Communication: {times.communication:.2f} s an update at {cluster.slowest_link / 1e9:.0f} GB/s, against "
        f"{times.compute:.2f} s of compute ({times.communication / times.compute:.0%})",
        f"* Checkpoint: {_gb(checkpoint)} on disk, {_gb(checkpoint / cluster.gpus)} written by each GPU; "
        f"{_gb((recipe.checkpoint.keep_last + 1) * checkpoint)} for those that are kept and the one that is written",
        "",
        f"GB on each GPU. At most {_gb(cluster.budget)} may be filled:",
        "",
        table(
            ["layout", "blocks at once", *_PARTS, "total", "host", "host, building"],
            [
                _row(layout, bytes_of(subject, cluster, layout), layout == chosen)
                for layout in layouts(subject, cluster)
            ],
        ),
        "",
        f"Least sharding that fits: **{chosen.name}**"
        f"{_checkpointing(chosen.checkpointing, recipe.training.activation_checkpointing)}"
        f", training.micro_batch={chosen.micro_batch}:",
        "",
        "```json",
        json.dumps(deepspeed_json(subject, chosen), indent=2),
        "```",
    ]
    return "\n".join([*lines, *_break_even(subject)]) + "\n"


def _muon(subject: Subject, cluster: Cluster) -> list[str]:
    if not subject.muon_parameters:
        return []
    overhead = subject.muon_flops(cluster.gpus) * subject.updates / (subject.flops() / cluster.gpus)
    return [f"* Muon: {subject.muon_parameters:,} of the parameters; {overhead_in_words(overhead)}"]


def _checkpointing(chosen: bool, in_recipe: bool) -> str:
    """What to change in the recipe for the layout that is chosen."""
    if chosen == in_recipe:
        return ""
    why = "" if chosen else " (the recipe has true: a third more compute, for memory that is there)"
    return f", with training.activation_checkpointing={str(chosen).lower()}{why}"


def _row(layout: Layout, size: Bytes, chosen: bool) -> list[str]:
    name = f"**{layout.name}**" if chosen else layout.name
    cells = [f"{getattr(size, part) / 1e9:.2f}" for part in _PARTS]
    return [
        name,
        str(layout.micro_batch),
        *cells,
        *(f"{count / 1e9:.2f}" for count in (size.total, size.host, size.building)),
    ]


def _break_even(subject: Subject) -> list[str]:
    found = break_even(subject)
    if found is None:
        return []
    plain = subject.flops("mlm", ())
    return [
        "",
        f"Break-even: the exit costs {found.extra:.3g} FLOPs in pretraining ({found.extra / plain:.1%}). It saves "
        f"{found.standard - found.mini:.3g} FLOPs for each language of the published length, "
        f"{PUBLISHED_TOKENS:.3g} tokens ({found.standard / found.mini:.2f} times less). So it has paid for itself "
        f"after {found.languages:.2f} languages.",
    ]


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def summary_row(subject: Subject, cluster: Cluster) -> list[str]:
    """One line of the summary table: recipe, cluster, layout, memory, days, GPU-hours, communication, break-even."""
    chosen = smallest_that_fits(subject, cluster)
    times, found = times_of(subject, cluster, chosen), break_even(subject)
    return [
        subject.recipe.name,
        f"{cluster.gpus:,}",
        f"{chosen.name}, {chosen.micro_batch} x {chosen.accumulation}",
        f"{bytes_of(subject, cluster, chosen).total / 1e9:.1f}",
        f"{times.days:.1f}",
        f"{times.gpu_hours:,.0f}",
        f"{times.communication / times.compute:.0%}",
        f"{found.languages:.2f}" if found else "-",
    ]


SUMMARY_TITLES = [
    "recipe", "GPUs", "sharding, micro-batch x accumulation", "GB per GPU", "days", "GPU-hours",
    "communication over compute", "languages to break even",
]  # fmt: skip
