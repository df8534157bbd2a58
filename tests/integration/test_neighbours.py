"""The comparison of four ways, really run at small scale: every step of three cells, the ledger, the page."""

import json
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.data.vocabulary.languages import ENGLISH, GERMAN, RUSSIAN
from tests.integration.adapting import Workshop
from tests.integration.cases import BLOCK_LENGTH
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT
from tools.study.workers import Step

pytestmark = pytest.mark.launched

LABELS = ("swriter", "scalc")
WORDS = "та\tthe\nи\tand\nна\tof\nв\tin\nк\tto\nа\tis\nя\ta\n"
GRID = {
    "source_language": "en",
    "pages": "libreoffice-help",
    "sentences": 400,
    "vocab_size": 500,
    "add": 60,
    "replace": 15,
    "source_share": 0.25,
    "other_script": ["ru"],
    "block_length": BLOCK_LENGTH,
    "flops": 3e8,
    "tasks": {"libreoffice": {"path": "text", "finetune": ["training.seeds=[0, 1]", "schedule.updates=2"]}},
    "adapt": [
        "training.global_batch=8", "training.micro_batch=8", "schedule.warmup=1 updates",
        "telemetry.validate_every=2 updates",
    ],
    "cells": [
        {"languages": ["ru"], "text": "all", "ways": ["extension"]},
        {"languages": ["de"], "text": "few", "ways": ["replacement"]},
        {"languages": ["ru"], "text": "none", "ways": ["lexicon"]},
    ],
}  # fmt: skip


def write_pages(folder: Path) -> None:
    """Text as tools/fetch_text.py writes it, so that nothing is fetched."""
    folder.mkdir(parents=True)
    lines = {"en": [line for line in ENGLISH.splitlines() if line], "ru": RUSSIAN.split(". "), "de": GERMAN.split(". ")}
    for language, own in lines.items():
        pages = []
        for n in range(300):  # of which a few fall to validation
            text = f"{n} {own[n % len(own)]}. {own[(3 * n + 1) % len(own)]}."
            pages.append({"id": f"page/{n}.html", "text": text, "label": LABELS[n % 2]})
        text = "".join(json.dumps(page) + "\n" for page in pages)
        (folder / f"libreoffice-help.{language}.jsonl").write_text(text)
    (folder / "freedict.ru.tsv").write_text(WORDS)


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("neighbours"))


def run_here(ran: list[str], steps: list[Step], work: Path, jobs: int) -> None:
    """The steps' commands one after the other in this process, which has imported all already."""
    for step in steps:
        if not step.is_done():
            for command in step.commands:
                sys.argv = [str(part) for part in command[1:]]
                runpy.run_path(sys.argv[0], run_name="__main__")
            step.then()
            assert step.is_done(), step.name
            ran.append(step.name)


def test_three_ways_from_text_to_the_page(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    primary, mini, work, ran = shop.primary, shop.exported("mini", "--exit", "2"), tmp_path / "work", []
    write_pages(work / "text")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    monkeypatch.setattr("tools.study.workers.run_steps", partial(run_here, ran))
    monkeypatch.chdir(work)
    script = str(ROOT / "tools/benchmarks/neighbours/run.py")
    call = [
        script,
        "--grid",
        "../grid.yaml",
        "--work",
        ".",
        "--out",
        "..",
        "--primary",
        str(primary),
        "--mini",
        str(mini),
    ]

    def run(*more: str) -> None:
        sys.argv = [*call, *more]
        runpy.run_path(script, run_name="__main__")

    run()
    names = ["extension-all-ru", "replacement-few-de", "lexicon-none-ru"]
    assert [name for name in ran if name in names] == names
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == names
    for cost in (line["ledger"] for line in lines):  # one update more would be too many
        assert cost["flops"] <= GRID["flops"] < cost["flops"] * (cost["updates"] + 1) / cost["updates"]
    assert not any(str(tmp_path) in json.dumps(line) for line in lines), "ledgers are published"
    page = (tmp_path / "README.md").read_text()
    assert "| few | replacement |" in page and "| all | extension |" in page and "| none | pseudo text |" in page
    assert "none: pseudo text, less the untrained word-list start" in page
    assert any("validation/loss_de_of_source" in one for one in lines[1]["metrics"]), "the source's loss along the way"
    found = {(r["task"], r["language"], r["pack"]): r for r in lines[0]["results"] if r["seed"] in (None, 0)}
    before, after = (found["libreoffice", "en", pack]["accuracy"] for pack in (None, "end"))
    assert before == after, "an extension changes nothing in English"
    assert ("bits_per_byte", "ru", "end") in found

    del ran[:]
    run()
    assert ran == []
    (tmp_path / "README.md").unlink()
    run("--page")
    assert (tmp_path / "README.md").read_text() == page
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID | {"flops": 4e8}))
    with pytest.raises(SystemExit):
        run()
