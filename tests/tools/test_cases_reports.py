"""Cases of names from elsewhere in reports, and of folders with strange names in what the tools write."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from megamini.commands import report
from megamini.commands.debian_text.archive import Archive
from megamini.commands.reporting.page import html_page
from megamini.commands.reporting.plots import plot_name
from megamini.markup import plain

SCRIPT = "<script>alert(1)</script>"
NAMES = [
    SCRIPT,
    "[x](javascript:alert(1))",
    "![x](http://elsewhere/x.png)",
    "<http://elsewhere>",
    "a|b",
    "`x`\n# heading",
    "&lt;b&gt;",
    '"><img src=x onerror=alert(1)>',
    "../../outside",
    "/etc/outside",
    "x" * 400,
    "\x1b[31mred",
    "$\\frac{$",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_and_does_nothing(name, tmp_path):
    page = html_page("t", f"## {plain(name)}: zero-shot\n\n| {plain(name)} | 1 |\n| --- | --- |\n| a | b |\n", tmp_path)
    body = page[page.index("<body>") :]
    for tag in ("<script", "<img", "<a ", "<b>", "onerror=alert(1)>", "<code"):
        assert tag not in body
    assert body.count("<h2>") == 1 and body.count("<h1>") == 0 and body.count("<th>") == 2


@pytest.mark.parametrize("text", NAMES)
def test_a_page_holds_no_markup_even_of_what_was_not_made_plain(text, tmp_path):
    page = html_page("t", f"# Report\n\n{text}\n", tmp_path)
    body = page[page.index("<body>") :]
    assert not any(tag in body for tag in ("<script", "<img", "<a ", "href"))


def test_the_plots_of_a_report_are_inside_its_page(tmp_path):
    (tmp_path / "a-b.png").write_bytes(b"\x89PNG")
    page = html_page("t", "![loss](a-b.png)\n\n| a_b | 2 < 3 & 4 |\n| --- | ---: |\n| x_y_z | 1 |\n", tmp_path)
    assert 'src="data:image/png;base64,' in page and "2 &lt; 3 &amp; 4" in page and "x_y_z" in page


@pytest.mark.parametrize("name", NAMES)
def test_a_plot_stays_in_its_folder(name, tmp_path):
    path = tmp_path / plot_name("language", name)
    path.write_bytes(b"")
    assert path.parent == tmp_path and path.name.endswith(".png")
    assert plot_name("language", name) != plot_name("language", name + "x")
    assert plot_name("task", "de") == "task-de.png"


def evaluation(folder, name):
    folder.mkdir(parents=True)
    recipe = {"name": "x", "model": {"source_language": "en"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    entries = []
    for updates in (0, 10):
        learned = {"series": name, "method": "standard", "updates": updates, "tokens": 1, "flops": 1.0 + updates}
        entry = {"task": name, "language": name, "metric": "accuracy", "accuracy": 0.5 + updates / 100, "n": 10}
        entries.append(
            {**entry, "model": "m", "pack": f"{name}/{updates}", "seed": 0, "split": "test",
             "learned": {**learned, "seconds": 1.0 + updates}}
        )  # fmt: skip
    (folder / "results.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("name", NAMES)
def test_the_report_of_an_evaluation_from_elsewhere(name, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "zero-shot"
    evaluation(folder, name)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    monkeypatch.setattr(sys, "argv", ["report.py", str(folder), "--out", str(tmp_path / "out")])
    report.main()
    capsys.readouterr()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    body = page[page.index("<body>") :]
    assert not any(tag in body for tag in ("<script", "<a ", "href", 'src="http', "onerror=alert(1)>"))
    assert body.count("<img ") == body.count('src="data:image/png') == 1
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert "<script" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ['a "quoted"; folder', 'x";\nAPT::Sandbox::User "root', "with # and {braces}", "ümlaut"]
)
def test_a_folders_name_is_no_configuration_of_apt(name, tmp_path):
    archive = Archive(tmp_path / name)
    archive._prepare_folders()
    config = (tmp_path / name / "apt.conf").read_text(encoding="utf-8")
    assert name not in config and "Dir::" not in config
    options = list(archive._options)
    assert options[:2] == ["-c", str(tmp_path / name / "apt.conf")]
    assert f"Dir::State={tmp_path / name / 'state'}" in options and f"Dir::Cache={tmp_path / name / 'apt'}" in options
    if shutil.which("apt-config") and "\n" not in name:
        dump = subprocess.run(["apt-config", *options, "dump"], capture_output=True, text=True, check=True).stdout
        assert f'Dir::State::lists "{tmp_path / name / "lists"}";' in dump
