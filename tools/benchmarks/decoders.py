"""A small decoder learns German and Spanish over 4 of its 12 layers and over all: bits per byte against compute.

python tools/benchmarks/decoders.py run --work decoders     # text, pretraining, both languages' runs; hours
python tools/benchmarks/decoders.py run --work decoders --lm-eval VENV/bin/lm_eval    # also multiple choice
python tools/benchmarks/decoders.py page                    # decoders.md and its plot, from what is kept

The recipes are those of launch/recipes/decoder/, which docs/decoders.md goes through. The same command again goes on;
what has been measured is kept in decoders/results.json.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.errors import CommandParser, run_command
from tools.benchmarks.page import ROOT
from tools.study.workers import Step, run_steps

RESULTS = Path(__file__).with_suffix("") / "results.json"
RECIPES = ROOT / "launch/recipes/decoder"
LANGUAGES = ("de", "es")
METHODS = ("mini", "standard")
CHOICES = "megamini_text_de,megamini_text_en"
# Of training the plugged decoder further, in German: the recipe, and its run.
MODES = {
    "continue": "runs/decoder-de-more",
    "lora": "runs/decoder-de-lora",
    "embeddings": "runs/decoder-de-embeddings",
}
BILINGUAL = "runs/decoder-de-en"


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--work", type=Path, default=Path("decoders"), help="folder for text, data and runs")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time (default: 1)")
    parser.add_argument("--updates", type=int, metavar="N", help="a try: so many updates in every run")
    parser.add_argument("--lm-eval", type=Path, metavar="FILE", help="the program of EleutherAI's harness")
    options = parser.parse_args()
    if options.what == "run":
        work = options.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ["HF_HUB_OFFLINE"] = "1"  # all files are local
        run_steps(steps(work, options.lm_eval and options.lm_eval.absolute(), options.updates), work, options.jobs)
        found = work / RESULTS.name if options.updates else RESULTS
        found.parent.mkdir(exist_ok=True)
        found.write_text(json.dumps(results(work), indent=1) + "\n", encoding="utf-8")
        print(found)
    else:
        from tools.benchmarks.decoders_page import write_page

        write_page(json.loads(RESULTS.read_text(encoding="utf-8")))


def steps(work: Path, lm_eval: Path | None, updates: int | None = None) -> list[Step]:
    """All there is to do, in order. lm_eval: its program; None leaves multiple choice out. updates: of every run, if
    others than its recipe's."""
    short = [f"schedule.duration={updates} updates", "schedule.warmup=1 updates"] if updates else []

    def step(name: str, made: str, *commands: list[str], needs: tuple[str, ...] = ()) -> Step:
        return Step(name, commands, (work / made).exists, needs)

    found = [
        step(
            "text", "data/text/debian-handbook.es.jsonl",
            _python("tools/fetch_text.py", "libreoffice-help", "--languages", "en", *LANGUAGES, "--out", "data/text"),
            _python("tools/fetch_text.py", "debian-handbook", "--languages", "en", *LANGUAGES, "--out", "data/text"),
        )
    ]  # fmt: skip
    for language in ("en", *LANGUAGES):
        data = f"data/decoder-{language}"
        prepare = _prepare(language, data, "--vocab-size", "8000")
        found.append(step(data, f"{data}/manifest.json", prepare, needs=("text",)))
    primary, export = "runs/decoder-en", "runs/decoder-en/export/primary"
    pretrain = [_launch("pretrain", "pretrain", *short), _python("tools/export.py", primary, export)]
    found.append(step("pretrain", f"{export}/config.json", *pretrain, needs=("data/decoder-en",)))
    text = "measures.bits_per_byte.text={en: data/text/debian-handbook.en.jsonl}"
    bits = _launch("evaluate", "evaluate", "name=bits-en", "packs={}", text)
    found.append(step("bits-en", "runs/bits-en/table.md", bits, needs=("pretrain",)))
    for language in LANGUAGES:
        for method in METHODS:
            name = f"decoder-{language}-{method}"
            adapt = _launch(
                "adapt", f"adapt_{method}", f"name={name}", f"data.path=data/decoder-{language}",
                f"telemetry.validate_every={min(50, updates or 50)} updates", *short,
            )  # fmt: skip
            needs = ("pretrain", f"data/decoder-{language}")
            found.append(step(name, f"runs/{name}/packs/{language}/pack.json", adapt, needs=needs))
            packs = f"packs={{{method}: runs/{name}/packs/{language}}}"
            text = f"measures.bits_per_byte.text={{{language}: data/text/debian-handbook.{language}.jsonl}}"
            bits = _launch("evaluate", "evaluate", f"name=bits-{language}-{method}", packs, text)
            found.append(step(f"bits-{name}", f"runs/bits-{language}-{method}/table.md", bits, needs=(name,)))
    plugged = "runs/decoder-de"
    plug = _python("tools/export.py", export, plugged, "--pack", "runs/decoder-de-mini/packs/de")
    found.append(step("plugged", f"{plugged}/config.json", plug, needs=("decoder-de-mini",)))
    for language in ("de", "en"):
        data = f"data/more-{language}"
        more = _prepare(language, data, "--tokenizer", plugged)
        found.append(step(data, f"{data}/manifest.json", more, needs=("plugged",)))
    for mode, run in MODES.items():
        further = [_launch("pretrain", mode, *short), _python("tools/export.py", run, f"{run}/export")]
        found.append(step(mode, f"{run}/export/config.json", *further, needs=("data/more-de", "data/more-en")))
    bilingual = [
        _launch("pretrain", "bilingual", *short),
        _python("tools/export.py", BILINGUAL, f"{BILINGUAL}/export"),
    ]
    found.append(step("bilingual", f"{BILINGUAL}/export/config.json", *bilingual, needs=("lora",)))
    return found + (_multiple_choice(work, lm_eval) if lm_eval else [])


def _multiple_choice(work: Path, lm_eval: Path) -> list[Step]:
    """English with the primary model, and German with the plugged one and after each mode."""
    text = ["text", "--data", "data/text/debian-handbook.{language}.jsonl", "--languages", "en", "de"]
    files = _python("tools/likelihood_tasks.py", *text, "--limit", "500", "--out", "data/likelihood")
    found = [Step("likelihood", [files], (work / "data/likelihood").exists, ["text"])]
    models = {"primary": "runs/decoder-en/export/primary", "plugged": "runs/decoder-de"}
    models |= {mode: f"{run}/export" for mode, run in MODES.items()}
    for name, model in models.items():
        out = f"runs/likelihood/{name}.json"
        command = [
            str(lm_eval), "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
            "--include_path", "data/likelihood", "--tasks", CHOICES, "--device", "cpu", "--batch_size", "16",
            "--output_path", out,
        ]  # fmt: skip
        needs = ["likelihood", {"primary": "pretrain"}.get(name, name)]
        found.append(Step(f"likelihood-{name}", [command], lambda out=out: bool(_found(work / out)), needs))
    return found


def results(work: Path) -> dict:
    """What the runs' own files say: curves, FLOPs, bits per byte, accuracies."""
    primary = _ledger(work / "runs/decoder-en") | {"bits": _bits(work / "runs/bits-en")}
    found: dict = {"primary": primary, "languages": {}, "modes": {}, "choice": {}}
    for language in LANGUAGES:
        found["languages"][language] = {
            method: {
                **_ledger(work / f"runs/decoder-{language}-{method}"),
                "curve": _curve(work / f"runs/decoder-{language}-{method}", language, method),
                "bits": _bits(work / f"runs/bits-{language}-{method}"),
            }
            for method in METHODS
        }
    for mode, folder in {**MODES, "bilingual": BILINGUAL}.items():
        run = work / folder
        found["modes"][mode] = _ledger(run) | {
            language: [
                [line["update"], round(line[key], 5)]
                for line in _lines(run)
                if (key := f"validation/bits_per_byte_primary_{language}") in line
            ]
            for language in ("de", "en")
        }
    for path in sorted((work / "runs/likelihood").glob("*.json")):
        measured = json.loads(_found(path).read_text())["results"]
        found["choice"][path.stem] = {
            task: [values["acc_norm,none"], values["acc_norm_stderr,none"]] for task, values in measured.items()
        }
    return found


def _found(path: Path) -> Path | None:
    """The harness writes NAME_DATE.json for NAME.json."""
    return next(iter(sorted(path.parent.glob(f"{path.stem}*.json"))), None)


def _curve(run: Path, language: str, method: str) -> list[list[float]]:
    """[update, bits per byte of validation text in the whole model] at each validation."""
    key = f"validation/bits_per_byte_{language}{'_primary' if method == 'mini' else ''}"
    return [[line["update"], round(line[key], 5)] for line in _lines(run) if key in line]


def _lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _bits(evaluation: Path) -> float:
    """Bits per byte of a text, windows rolling over it."""
    (measured,) = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
    return measured["bits_per_byte"]


def _ledger(run: Path) -> dict:
    values = json.loads((run / "compute.json").read_text(encoding="utf-8"))
    return {key: values[key] for key in ("updates", "tokens", "flops", "seconds")}


def _prepare(language: str, out: str, *options: str) -> list[str]:
    text = f"data/text/libreoffice-help.{language}.jsonl"
    return _python(
        "tools/prepare_data.py", "--text", text, "--language", language, *options, "--block-length", "128", "--out", out
    )


def _launch(entry: str, recipe: str, *changes: str) -> list[str]:
    return _python(f"launch/{entry}.py", str(RECIPES / f"{recipe}.yaml"), *changes)


def _python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / script), *arguments]


if __name__ == "__main__":
    run_command(main)
