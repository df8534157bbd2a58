"""The model card of an exported checkpoint, written from the run's ledger, metrics and data manifest."""

import json
from pathlib import Path
from typing import Any

import yaml

from megamini.markup import plain
from megamini.recipes.file import as_yaml
from megamini.training.checkpoints.manifest import MANIFEST
from megamini.training.finished.weights import RunCheckpoint
from megamini.training.state.train_state import TrainState
from megamini.training.telemetry import read_metrics


def describe(run: RunCheckpoint, exit_layer: int | None) -> dict[str, Any]:
    """What `config.json` keeps of where a checkpoint comes from."""
    return {
        "run": run.recipe.name,
        "method": run.recipe.objective.method,
        "role": "primary model" if exit_layer is None else "mini-model",
        "exit": exit_layer,
        **({"bridge_layers": bridge} if (bridge := run.recipe.model.bridge_layers) else {}),
        "language": ", ".join(_languages(run)),
        "updates": _state(run).update,
    }


def model_card(run: RunCheckpoint, description: dict[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    state, languages, causal = _state(run), _languages(run), run.outline.family.causal
    kind, pipeline = ("causal", "text-generation") if causal else ("masked", "fill-mask")
    head = "primary" if description["exit"] is None else f"exit_{description['exit']}"
    what = "the primary model"
    if description["exit"] is not None:
        bridge = description.get("bridge_layers")
        of = f"{bridge} bridge layers" if bridge else "the exit"
        what = f"the mini-model of {of} after layer {description['exit']} of a primary model"
    rows = {
        "method": description["method"],
        "updates": f"{state.update:,}",
        "tokens": f"{state.tokens:,}",
        "FLOPs (by formula, whole run)": f"{state.flops:.3g}",
        "seconds": f"{state.seconds:,.0f}",
        "skipped updates": state.skipped,
    } | _last_validation(run, head)
    sources = [_source_line(source) for manifest in run.data_manifests for source in manifest["sources"]]
    return "\n".join(
        [
            "---",
            language_line(languages),
            "library_name: transformers",
            f"pipeline_tag: {pipeline}",
            f"tags: [{kind}-lm, mini-model-adaptation]",
            "---",
            "",
            f"# {run.recipe.name}: {description['role']}",
            "",
            f"A {kind} language model of {', '.join(languages)}, {what}, pretrained with megamini (Mini-Model "
            "Adaptation, Marchisio et al. 2023). Plain `transformers` loads it:",
            "",
            "```python",
            "from transformers import pipeline",
            f'pipeline("{pipeline}", model="THIS FOLDER")',
            "```",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            "Text:",
            "",
            *sources,
            "",
            "The recipe of the run:",
            "",
            "```yaml",
            _recipe(run).rstrip(),
            "```",
            "",
            *(f"- changed {change}" for change in _state(run).changes),
        ]
    )


def language_line(languages: list[str]) -> str:
    """The front matter's entry, quoted where it must be: YAML reads Norwegian's bare `no` as false."""
    if len(languages) == 1:
        return yaml.safe_dump({"language": languages[0]}, allow_unicode=True).rstrip()
    return yaml.safe_dump({"language": languages}, default_flow_style=None, allow_unicode=True).rstrip()


def _recipe(run: RunCheckpoint) -> str:
    """That of the checkpoint; one of an earlier version does not have it."""
    values = _state(run).recipe
    return as_yaml(values) if values else (run.directory / "recipe.yaml").read_text(encoding="utf-8")


def _languages(run: RunCheckpoint) -> list[str]:
    return [manifest["language"] for manifest in run.data_manifests]


def _state(run: RunCheckpoint) -> TrainState:
    return TrainState.from_state_dict(json.loads((run.checkpoint / MANIFEST).read_text(encoding="utf-8"))["state"])


def _last_validation(run: RunCheckpoint, head: str) -> dict[str, str]:
    """Loss and bits per byte of the head at the last validation up to the checkpoint, if there was one."""
    metrics: Path = run.directory / "metrics.jsonl"
    update = _state(run).update
    lines = [line for line in read_metrics(metrics) if line["update"] <= update] if metrics.is_file() else []
    found = [line for line in lines if f"validation/loss_{head}" in line]
    if not found:
        return {}
    return {
        f"validation loss after update {found[-1]['update']:,} (nats)": f"{found[-1][f'validation/loss_{head}']:.3f}",
        "validation bits per byte": f"{found[-1][f'validation/bits_per_byte_{head}']:.3f}",
    }


def _source_line(source: dict[str, Any]) -> str:
    licence = f", {plain(source['licence'])}" if source.get("licence") else ""
    return f"- {plain(source['file'])}{licence}"
