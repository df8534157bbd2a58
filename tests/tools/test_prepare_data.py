"""The command tools/prepare_data.py: what it makes, and the line with which it refuses."""

import gzip
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megamini.commands.prepare import main
from megamini.data.blocks import load_manifest
from megamini.data.tokenizer import train_unigram
from megamini.errors import run_command
from tests.data.texts import documents, write_json_lines, write_text

TOOL = Path(__file__).parents[2] / "tools" / "prepare_data.py"
SMALL = ["--language", "de", "--vocab-size", "520", "--block-length", "32", "--validation-share", "0.1"]


def launch(*arguments, **options):
    command = [sys.executable, TOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_the_command_works_from_any_folder(tmp_path):
    write_text(tmp_path / "a.txt", documents(100))
    write_json_lines(tmp_path / "b.jsonl", documents(100, seed=1))
    result = launch("--text", "a.txt", "*.jsonl", "--out", "data", *SMALL, "--processes", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "validation:" in result.stdout
    manifest = load_manifest(tmp_path / "data")
    assert manifest["documents"] == 200 and manifest["language"] == "de"
    assert [source["file"] for source in manifest["sources"]] == ["a.txt", "b.jsonl"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "data")) == 520


def test_few_validation_blocks_are_told_with_a_share_that_makes_enough(tmp_path, monkeypatch, capsys):
    write_text(tmp_path / "a.txt", documents(600))
    monkeypatch.chdir(tmp_path)
    command = ["prepare_data.py", "--text", "a.txt", "--out", "data", *SMALL[:-2], "--processes", "1"]
    monkeypatch.setattr("sys.argv", command)
    main()
    (told,) = re.findall(r"few blocks.*(--validation-share \S+ --overwrite)", capsys.readouterr().out)
    monkeypatch.setattr("sys.argv", [*command, *told.split()])
    main()
    assert "few blocks" not in capsys.readouterr().out
    assert load_manifest(tmp_path / "data")["splits"]["validation"]["blocks"] >= 80


def test_a_full_disk_is_one_line_and_the_rerun_goes_on(tmp_path):
    """Files may not grow beyond a limit in any process, which a worker meets first; then the limit goes."""
    text = write_text(tmp_path / "a.txt", documents(1_200))
    tokenizer = tmp_path / "tokenizer"
    train_unigram(documents(100), 520, 0.9998, tmp_path / "sample.txt").save_pretrained(tokenizer)
    arguments = ["--text", text, "--out", tmp_path / "data", "--language", "de", "--block-length", "32"]
    arguments += ["--validation-share", "0.1", "--tokenizer", tokenizer, "--processes", "2"]
    limit = 100_000  # bytes: above those of the tokenizer, below those of a shard
    result = launch(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "cannot be written" in line and str(tmp_path / "data") in line and "Traceback" not in result.stderr
    assert launch(*arguments).returncode == 0


def bad_commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """what is wrong -> (arguments, what the line must say)."""
    good = write_text(folder / "good.txt", documents(60))
    write_json_lines(folder / "column.jsonl", ["x"])
    (folder / "empty.txt").touch()
    (folder / "latin.txt").write_bytes(b"one\nM\xfcller\n")
    (folder / "torn.jsonl").write_text('{"text": "fine"}\n{"text": "to')
    (folder / "torn.txt.gz").write_bytes(gzip.compress(good.read_bytes())[:-9])
    (folder / "torn.parquet").write_bytes(b"PAR1")
    (folder / "notes.pdf").write_bytes(b"x")
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").touch()
    (folder / "no tokenizer").mkdir()
    text, language, out = ["--text", str(good)], ["--language", "de"], ["--out", str(folder / "out")]
    fine = [*language, *out]
    train_unigram(documents(60), 520, 0.9998, folder / "sample").save_pretrained(folder / "old")
    old, replace = ["--tokenizer", str(folder / "old")], ["--old-text", str(good), "--replace-least-used"]
    extend = ["--extend-tokenizer", str(folder / "old"), "--add", "90000"]

    def reading(name):
        return ["--text", str(folder / name), *fine]

    return {
        "no arguments": ([], "required"),
        "no language": ([*text, *out], "--language"),
        "unknown option": ([*text, *fine, "--vocabulary", "3"], "--vocabulary"),
        "not a number": ([*text, *fine, "--vocab-size", "many"], "--vocab-size"),
        "two tokenizers": ([*text, *fine, "--vocab-size", "900", "--tokenizer", "x"], "--tokenizer"),
        "text and data set": ([*text, *fine, "--dataset", "x"], "--dataset"),
        "a language's name": ([*text, *out, "--language", "german"], "--language german"),
        "no such language code": ([*text, *out, "--language", "DE"], "--language DE"),
        "block length": ([*text, *fine, "--block-length", "2"], "--block-length 2"),
        "share": ([*text, *fine, "--validation-share", "1.5"], "--validation-share 1.5"),
        "coverage": ([*text, *fine, "--character-coverage", "0"], "--character-coverage"),
        "processes": ([*text, *fine, "--processes", "0"], "--processes 0"),
        "documents": ([*text, *fine, "--documents", "page"], "page"),
        "missing file": (reading("gone.txt"), "gone.txt"),
        "missing glob": (reading("*.jsonl.gz"), "*.jsonl.gz"),
        "a folder": (reading("other"), "other"),
        "empty": (reading("empty.txt"), "empty.txt"),
        "format": (reading("notes.pdf"), "notes.pdf"),
        "encoding": (reading("latin.txt"), "latin.txt: line 2"),
        "torn JSON": (reading("torn.jsonl"), "torn.jsonl: line 2"),
        "torn gzip": (reading("torn.txt.gz"), "torn.txt.gz"),
        "torn Parquet": (reading("torn.parquet"), "torn.parquet"),
        "column": ([*reading("column.jsonl"), "--text-column", "body"], "the columns are text"),
        "vocabulary": ([*text, *fine], "--vocab-size 50000: the text yields no more than"),
        "tokenizer": ([*text, *fine, "--tokenizer", str(folder / "no tokenizer")], "no tokenizer"),
        "extend without a number": ([*text, *fine, "--extend-tokenizer", "x"], "goes with --add"),
        "a number without what to extend": ([*text, *fine, "--add", "9"], "--extend-tokenizer goes with --add"),
        "extend by none": ([*text, *fine, "--extend-tokenizer", str(folder / "old"), "--add", "0"], "--add 0"),
        "nothing to extend": ([*text, *fine, "--extend-tokenizer", "./gone", "--add", "9"], "./gone: no such folder"),
        "two vocabularies": ([*text, *fine, "--extend-tokenizer", "x", "--vocab-size", "900"], "--vocab-size"),
        "old text alone": ([*text, *fine, "--old-text", str(good)], "--old-text goes with --extend-tokenizer"),
        "no old text": ([*text, *fine, *extend, "--old-text", "gone.txt"], "--old-text gone.txt: no such file"),
        "replace in nothing": (
            [*text, *fine, "--replace-least-used", "9"],
            "goes with --tokenizer, and with --old-text",
        ),
        "replace by no text": ([*text, *fine, *old, "--replace-least-used", "9"], "and with --old-text"),
        "replace none": ([*text, *fine, *old, *replace, "0"], "--replace-least-used 0: must be at least 1"),
        "replace too many": ([*text, *fine, *old, *replace, "500"], "--replace-least-used 500: more than half of the"),
        "too many new pieces": ([*text, *fine, *extend], "--add 90000: the text yields no more than"),
        "folder in use": ([*text, *language, "--out", str(folder / "other")], "not empty"),
        "out is a file": ([*text, *language, "--out", str(good)], "good.txt"),
    }


def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cases = bad_commands(tmp_path)
    assert len(cases) >= 15
    for name, (arguments, message) in cases.items():
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(main)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert ended.value.code == 2 and len(lines) == 1 and message in lines[0], (name, lines)
        assert not (out / "manifest.json").exists(), name


def test_bad_input_in_a_worker_process_has_no_traceback(tmp_path):
    write_text(tmp_path / "a.txt", documents(100))
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n' * 500 + '{"text": "to')
    sample = ["--tokenizer-sample", "8000"]  # too short to meet the torn line
    result = launch("--text", tmp_path / "a.txt", tmp_path / "b.jsonl", "--out", tmp_path / "data", *SMALL, *sample)
    assert result.returncode == 2 and "b.jsonl: line 501: not valid JSON" in result.stderr
    assert "Traceback" not in result.stderr
