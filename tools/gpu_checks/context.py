"""What the sections share: the time that is left, text from this repository, small recipes, the device."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UPDATES = 20


@dataclass(frozen=True)
class Context:
    """shape: base or tiny. work: a folder to write to. rows: the file that results go to, a line each."""

    shape: str
    work: Path
    rows: Path

    @property
    def left(self) -> float:
        """Seconds of this section."""
        return float(os.environ["GPU_CHECK_ENDS"]) - time.time()

    def tell(self, check: str, ok: bool, **columns: Any) -> None:
        with self.rows.open("a") as file:
            file.write(json.dumps({"check": check, "ok": ok, **columns}) + "\n")

    def data(self) -> Path:
        """Blocks of 64 tokens from the documentation of this repository."""
        from megamini.data.preparation.prepare import Settings, prepare

        out = self.work / "data"
        if not (out / "manifest.json").exists():
            text = self.work / "text"
            text.mkdir(exist_ok=True)
            for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]):
                (text / f"{page.stem}.txt").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
            settings = Settings("en", vocab_size=1000, block_length=64, validation_share=0.05)
            prepare([str(text / "*.txt")], out, settings, processes=1)
        return out

    def recipe(self, name: str, **changes: Any) -> dict[str, Any]:
        """A small pretraining recipe; changes: `section__key=value`."""
        layers, width, blocks = (3, 64, 8) if self.shape == "tiny" else (4, 256, 32)
        sizes = {"num_hidden_layers": layers, "num_attention_heads": width // 32, "hidden_size": width}
        body = {**sizes, "intermediate_size": 2 * width}
        values: dict[str, Any] = {
            "name": name,
            "model": {"family": "roberta", "config": body, "exits": [2]},
            "data": {"path": str(self.data()), "workers": 0},
            "objective": {"method": "minijoint"},
            "optimizer": {"learning_rate": 2e-3},
            "schedule": {"duration": f"{UPDATES} updates", "warmup": "4 updates"},
            "training": {
                "global_batch": blocks,
                "micro_batch": blocks // 2,
                "precision": "fp32",
                "runs": str(self.work / "runs"),
            },
            "telemetry": {"every": 1, "peak_tflops": 1000},
        }
        values["training"]["runs"] = str(self.work / "runs")
        for key, value in changes.items():
            section, _, field = key.partition("__")
            values[section][field] = value
        return values

    def adaptation(self, name: str, source: Path, method: str, **training: Any) -> dict[str, Any]:
        """A recipe that learns a language over a run of `recipe`; training: keys of that section."""
        values = self.recipe(name)
        del values["model"], values["objective"]
        values["training"] |= training
        return {**values, "adaptation": {"source": str(source), "method": method, "initialise": "random"}}

    def losses(self, name: str) -> list[float]:
        """Of each update of a run."""
        lines = (self.work / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return [value["train/loss"] for value in map(json.loads, lines) if "train/loss" in value]

    def judge(self, check: str, losses: list[float], seconds: float, must_fall: bool = True, **columns: Any) -> None:
        """A row on a run: whether its losses are finite and fall."""
        first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
        good = all(loss < 1e4 for loss in losses) and (last < first or not must_fall)  # NaN is below nothing
        says = f"loss {first:.3f} to {last:.3f}"
        self.tell(check, good and len(losses) == UPDATES, **columns, says=says, seconds=f"{seconds:.1f}")


def run_script(context: Context, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A command of this repository in a process of its own; raises RuntimeError with its last line where it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=max(1.0, context.left),
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1])
    return done


def write_recipe(context: Context, values: dict[str, Any]) -> str:
    path = context.work / f"{values['name']}.yaml"
    path.write_text(json.dumps(values))
    return str(path)
