"""The pipeline from text to a data directory: the same bytes however it runs, and what it refuses."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer

from megamini.data.blocks import Blocks, load_manifest
from megamini.data.corpus import chunks, hub
from megamini.data.corpus import documents as corpus
from megamini.data.preparation import prepare, units
from megamini.data.tokenizer import encoder, fingerprint, piece_bytes
from megamini.errors import UserError
from megamini.files import fingerprint_of, write_json
from tests.data.texts import documents, write_json_lines, write_text

TEXTS = documents(300)
SETTINGS = {"language": "de", "vocab_size": 520, "block_length": 32, "validation_share": 0.1}


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Many units from little text."""
    monkeypatch.setattr(corpus, "UNIT_BYTES", 8_000)
    monkeypatch.setattr(hub, "UNIT_DOCUMENTS", 64)


def make(out, text, processes=1, overwrite=False, **settings):
    return prepare.prepare(
        list(map(str, text)), out, prepare.Settings(**{**SETTINGS, **settings}), processes, overwrite
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data directory of 300 documents in one file and several units."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "UNIT_BYTES", 8_000)
        make(folder / "data", [write_text(folder / "text.txt", TEXTS)])
    return folder / "data"


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stream_of(blocks: np.ndarray, padded: int = 0) -> list[int]:
    """The stream tokens of blocks, without bos, the closing eos and pads."""
    full = blocks[: len(blocks) - padded, 1:-1].reshape(-1).tolist()
    for block in blocks[len(blocks) - padded :].tolist():
        content = block[1:]
        while content[-1] == 1:
            content.pop()
        full += content[:-1]
    return full


def both_streams(data: Path) -> tuple[list[int], list[int]]:
    """(train and what was left of it, validation): where the padded blocks are at the end of validation."""
    manifest = json.loads((data / "manifest.json").read_text())
    train, validation = (Blocks(data, split) for split in ("train", "validation"))
    padded = manifest["splits"]["validation"]["padded_blocks"]
    rows = validation.read(np.arange(len(validation)))
    return stream_of(train.read(np.arange(len(train)))), stream_of(rows, padded)


def test_nothing_is_lost_in_several_units(made):
    """Every document's tokens, with one separator each, are in the blocks: not one more or less of any."""
    tokenizer = encoder(AutoTokenizer.from_pretrained(made))
    expected = np.zeros(520, np.int64)
    for text in TEXTS:
        expected += np.bincount([*tokenizer.encode(text, add_special_tokens=False).ids, 2], minlength=520)
    train, validation = both_streams(made)
    np.testing.assert_array_equal(np.bincount([*train, *validation], minlength=520), expected)


def test_one_unit_is_the_documents_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "UNIT_BYTES", 2**26)
    make(tmp_path / "data", [write_text(tmp_path / "text.txt", TEXTS)])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "data")
    validation = [units.is_validation(text, 0, 0.1) for text in TEXTS]
    assert 10 < sum(validation) < 60

    def expected(of_validation):
        chosen = (text for text, is_validation in zip(TEXTS, validation, strict=True) if is_validation == of_validation)
        return [token for text in chosen for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]]

    train, rest = both_streams(tmp_path / "data")
    whole = expected(False)
    assert train == whole[: len(train)] and 0 < len(whole) - len(train) < 30
    left = whole[len(train) :]
    # The last blocks of validation: what is left of train, then what is left of validation.
    full = len(expected(True)) // 30 * 30
    assert rest == expected(True)[:full] + left + expected(True)[full:]
    assert tokenizer.decode(train).split("</s>")[0].startswith("0. ")


def test_only_the_last_validation_blocks_are_padded(made):
    manifest = json.loads((made / "manifest.json").read_text())
    train, validation = (Blocks(made, split) for split in ("train", "validation"))
    assert not (train.read(np.arange(len(train))) == 1).any()
    padded = (validation.read(np.arange(len(validation))) == 1).any(axis=1)
    count = manifest["splits"]["validation"]["padded_blocks"]
    assert 1 <= count <= 2 and padded[-count:].all() and not padded[:-count].any()


def test_manifest_says_what_is_there(made):
    manifest = json.loads((made / "manifest.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert manifest["documents"] == 300
    assert manifest["text_bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert manifest["special_tokens"] == {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}
    assert manifest["tokenizer_fingerprint"] == fingerprint(tokenizer)
    assert manifest["sources"] == [{"file": "text.txt", "bytes": (made.parent / "text.txt").stat().st_size}]
    assert str(made.parent) not in (made / "manifest.json").read_text()
    assert not (made / ".work").exists()
    train, validation = both_streams(made)
    assert manifest["tokens"] == sum(token not in (0, 1, 2) for token in [*train, *validation])
    assert manifest["bytes_per_token"] == manifest["text_bytes"] / manifest["tokens"]
    for split, facts in manifest["splits"].items():
        blocks = Blocks(made, split).read(np.arange(facts["blocks"]))
        full = blocks[~(blocks == 1).any(axis=1)]
        assert facts["min_maskable"] == (full > 4).sum(axis=1).min()
        assert facts["tokens"] == (blocks > 2).sum()
        for shard in facts["shards"]:
            content = (made / shard["file"]).read_bytes()
            assert shard["bytes"] == len(content) and shard["sha256"] == hashlib.sha256(content).hexdigest()
    counts = np.load(made / "unigram_counts.npy")
    assert counts.dtype == np.int64 and (counts[:5] == 0).all()
    np.testing.assert_array_equal(counts[5:], np.bincount(train, minlength=520)[5:])
    assert piece_bytes(tokenizer).shape == counts.shape


def test_reader_equals_datasets(made):
    for split in ("train", "validation"):
        theirs = np.array(datasets.load_from_disk(made / split)["input_ids"])
        np.testing.assert_array_equal(Blocks(made, split).read(np.arange(len(theirs))), theirs)


def test_any_number_of_processes_gives_the_same_bytes(tmp_path, made):
    reference = contents(made)
    assert sum(name.startswith("train/") for name in reference) > 5
    # Workers are processes of their own: what they do must not depend on the patched unit size.
    for processes in (2, 3):
        make(tmp_path / str(processes), [made.parent / "text.txt"], processes=processes)
        assert contents(tmp_path / str(processes)) == reference


def test_all_formats_give_the_same_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "UNIT_BYTES", 2**26)
    plain = write_text(tmp_path / "a.txt", TEXTS)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(plain.read_bytes()))
    lines = write_json_lines(tmp_path / "a.jsonl", TEXTS)
    folder = tmp_path / "dataset"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(folder / "train-00000.parquet")
    datasets.Dataset.from_dict({"body": TEXTS}).to_parquet(tmp_path / "a.parquet")
    asked = {
        "plain": ([plain], {}),
        "gz": ([tmp_path / "a.txt.gz"], {}),
        "lines": ([lines], {}),
        "parquet": ([tmp_path / "a.parquet"], {"text_column": "body"}),
    }
    blocks = {}
    for name, (files, settings) in asked.items():
        make(tmp_path / name, files, **settings)
        blocks[name] = contents(tmp_path / name / "train") | contents(tmp_path / name / "validation")
        assert blocks[name] == blocks["plain"], name


def test_a_data_set_is_streamed_and_continues(tmp_path, monkeypatch):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_json_lines(folder / "train.jsonl", TEXTS)
    asked = {"dataset": str(folder)}
    make(tmp_path / "one", [], **asked)
    make(tmp_path / "two", [], processes=2, **asked)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["documents"] == 300
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "three", [], **asked)
    monkeypatch.undo()
    monkeypatch.setattr(hub, "UNIT_DOCUMENTS", 64)
    make(tmp_path / "three", [], **asked)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    with pytest.raises(UserError, match="no column 'body'; the columns are text"):
        make(tmp_path / "four", [], text_column="body", **asked)
    with pytest.raises(UserError, match=r"--dataset .*nowhere"):
        make(tmp_path / "five", [], dataset=str(tmp_path / "nowhere"))


def interrupt_after(monkeypatch, count):
    process, seen = units.process_unit, []

    def interrupted(*arguments):
        if len(seen) == count:
            raise KeyboardInterrupt
        seen.append(process(*arguments))

    monkeypatch.setattr(units, "process_unit", interrupted)


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
if __name__ == "__main__":
    from megamini.data.corpus import documents as corpus
    from megamini.data.preparation import prepare
    corpus.UNIT_BYTES = 8_000
    prepare.prepare([{text!r}], Path({out!r}), prepare.Settings(**{settings!r}), {processes})
"""


def test_killed_in_the_middle_and_run_again(tmp_path, made):
    processes = 2
    out = tmp_path / "data"
    root = str(Path(__file__).parents[3])
    values = {"text": str(made.parent / "text.txt"), "out": str(out), "settings": SETTINGS, "processes": processes}
    (tmp_path / "run.py").write_text(KILLED.format(root=root, **values))
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / ".work" / "unit-000000").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    finished = len(list((out / ".work").glob("unit-??????")))
    make(out, [made.parent / "text.txt"], processes=processes)
    assert finished >= 1
    assert contents(out) == contents(made)


def test_interrupted_at_every_step_of_joining(tmp_path, made, monkeypatch):
    """A power cut between any two renames: the rerun gives the same directory."""
    reference, text = contents(made), made.parent / "text.txt"
    replace, step = Path.replace, 0
    while True:
        left = [step]

        def replace_until(self, target, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return replace(self, target)

        out = tmp_path / str(step)
        monkeypatch.setattr(Path, "replace", replace_until)
        try:
            make(out, [text])
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        monkeypatch.setattr(Path, "replace", replace)
        if not interrupted:
            break
        assert not (out / "manifest.json").exists()
        make(out, [text])
        assert contents(out) == reference, step
        step += 17
    assert step > 30


def test_finished_units_are_not_done_again(tmp_path, made, monkeypatch):
    text, out = made.parent / "text.txt", tmp_path / "data"
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        make(out, [text])
    monkeypatch.undo()
    monkeypatch.setattr(corpus, "UNIT_BYTES", 8_000)
    process, done = units.process_unit, []
    monkeypatch.setattr(units, "process_unit", lambda *a: (done.append(a[0]), process(*a)))
    make(out, [text])
    assert done[0] == 3 and contents(out) == contents(made)


def test_equal_documents_stay_together_and_ids_decide(tmp_path):
    lines = write_json_lines(tmp_path / "a.jsonl", TEXTS, id=[str(number) for number in range(300)])
    manifest = make(tmp_path / "data", [lines])
    expected = sum(units.is_validation(str(number), 0, 0.1) for number in range(300))
    assert manifest["splits"]["validation"]["documents"] == expected
    assert make(tmp_path / "other", [lines], seed=1)["splits"]["validation"]["documents"] != expected
    shares = np.mean([units.is_validation(f"document {number}", 3, 0.01) for number in range(20_000)])
    assert 0.008 < shares < 0.012


def test_an_existing_tokenizer_is_kept_as_it_is(tmp_path, made):
    manifest = make(tmp_path / "data", [made.parent / "text.txt"], tokenizer=str(made))
    tokenizer, again = (AutoTokenizer.from_pretrained(folder) for folder in (made, tmp_path / "data"))
    assert manifest["tokenizer_fingerprint"] == fingerprint(tokenizer) == fingerprint(again)
    assert all(tokenizer(text)["input_ids"] == again(text)["input_ids"] for text in TEXTS)
    assert contents(tmp_path / "data" / "train") == contents(made / "train")


def test_an_extended_tokenizer_and_what_the_manifest_says_of_it(tmp_path, made):
    """The blocks hold old and new pieces; a rerun keeps them, and other old text makes others."""
    text = write_text(tmp_path / "el.txt", [f"{n} Ο μύλος δίπλα στο ποτάμι, η καμπάνα χτυπά νωρίς" for n in range(200)])
    old = write_text(tmp_path / "old.txt", documents(50))
    settings = {
        "extend_tokenizer": str(made),
        "add": 40,
        "old_text": [str(old)],
        "language": "el",
        "vocab_size": 50_000,
    }
    manifest = make(tmp_path / "data", [text], **settings)
    assert manifest["vocab_size"] == 560 and manifest["vocabulary"]["old_pieces"] == 520
    assert manifest["vocabulary"]["of"] == fingerprint(AutoTokenizer.from_pretrained(made))
    assert manifest["settings"]["old_text"] == [str(old)]
    used = set(np.unique(Blocks(tmp_path / "data", "train").read(np.arange(20))).tolist())
    assert any(number >= 520 for number in used) and any(5 < number < 520 for number in used)
    assert make(tmp_path / "data", [text], **settings) == manifest
    with pytest.raises(UserError, match="other old_text"):
        make(tmp_path / "data", [text], **{**settings, "old_text": None})
    assert "vocabulary" not in load_manifest(made) and "add" not in load_manifest(made)["settings"]


def test_licence_and_source_come_from_the_fetched_manifest(tmp_path):
    write_text(tmp_path / "a.txt", TEXTS)
    noted = {"licence": "CC-BY-4.0", "source": "handbook", "sha256": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"a.txt": noted}}))
    (source,) = make(tmp_path / "data", [tmp_path / "a.txt"])["sources"]
    assert source["licence"] == "CC-BY-4.0" and source["source"] == "handbook" and source["file"] == "a.txt"


def test_one_huge_document_and_its_split(tmp_path, monkeypatch):
    """Long documents go through in chunks; the tokens are those of the whole document."""
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 500)
    monkeypatch.setattr(units, "BATCH_CHARACTERS", 700)
    huge = " ".join(text.replace("\n", " ") for text in TEXTS)
    text = write_text(tmp_path / "a.txt", [huge, *TEXTS[:60]])
    manifest = make(tmp_path / "data", [text])
    tokenizer = encoder(AutoTokenizer.from_pretrained(tmp_path / "data"))
    expected = np.zeros(520, np.int64)
    for document in [huge, *TEXTS[:60]]:
        expected += np.bincount([*tokenizer.encode(document, add_special_tokens=False).ids, 2], minlength=520)
    train, validation = both_streams(tmp_path / "data")
    np.testing.assert_array_equal(np.bincount([*train, *validation], minlength=520), expected)
    assert manifest["documents"] == 61


def test_text_that_spells_special_tokens_stays_text(tmp_path):
    texts = [f"{text} <mask> <pad> </s> <s>" for text in TEXTS]
    make(tmp_path / "data", [write_text(tmp_path / "a.txt", texts)])
    train, validation = both_streams(tmp_path / "data")
    together = [*train, *validation]
    assert together.count(2) == 300 and not set(together) & {0, 1, 3, 4}


def test_other_settings_need_overwrite(tmp_path, made, capsys):
    text, out = made.parent / "text.txt", tmp_path / "data"
    make(out, [text])
    before = contents(out)
    make(out, [text])
    assert "already complete" in capsys.readouterr().out and contents(out) == before
    with pytest.raises(UserError, match=r"other block_length \(32 before, 16 now\).*--overwrite"):
        make(out, [text], block_length=16)
    assert make(out, [text], overwrite=True, block_length=16)["block_length"] == 16
    make(out, [text], overwrite=True)
    assert contents(out) == before
    text_2 = write_text(tmp_path / "b.txt", TEXTS[:200])
    with pytest.raises(UserError, match="other sources"):
        make(out, [text_2])


def test_other_words_in_files_of_one_name_and_size_need_overwrite(tmp_path, capsys):
    text, old = write_text(tmp_path / "a.txt", TEXTS[:100]), write_text(tmp_path / "old.txt", TEXTS[100:150])
    source = tmp_path / "source"
    make(source, [write_text(tmp_path / "b.txt", TEXTS[150:])])
    how = {"tokenizer": str(source), "replace_least_used": 40, "old_text": [str(old)]}
    manifest = make(tmp_path / "data", [text], **how)
    assert [one["file"] for one in manifest["old_sources"]] == ["old.txt"]
    for file, part in ((text, "text"), (old, "old_text"), (source / "tokenizer.json", "tokenizer")):
        before = file.read_bytes()
        file.write_bytes(before[::-1])
        with pytest.raises(UserError, match=f"other contents_of_{part}; give another --out, or --overwrite"):
            make(tmp_path / "data", [text], **how)
        file.write_bytes(before)
    old.write_text("more words\n", encoding="utf-8")
    with pytest.raises(UserError, match="other old_sources"):
        make(tmp_path / "data", [text], **how)


def test_what_an_earlier_version_has_finished_is_complete(tmp_path, made, capsys):
    text, out = made.parent / "text.txt", tmp_path / "data"
    make(out, [text])
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["contents"], manifest["fingerprint"]
    write_json(out / "manifest.json", manifest | {"fingerprint": fingerprint_of(manifest)})
    make(out, [text])
    assert "already complete" in capsys.readouterr().out
    make(out, [text], overwrite=True)  # and a run that was begun on them takes the same data made anew
    assert load_manifest(out)["fingerprint"] == fingerprint_of(manifest)


def test_a_vocabulary_that_was_too_large_may_be_asked_for_smaller(tmp_path, made):
    text, out = made.parent / "text.txt", tmp_path / "data"
    with pytest.raises(UserError, match="no more than"):
        make(out, [text], vocab_size=100_000)
    make(out, [text])
    assert contents(out) == contents(made)


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path, made):
    (tmp_path / "thesis.tex").write_text("do not touch")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not empty and was not made by"):
            make(tmp_path, [made.parent / "text.txt"], overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_too_little_text(tmp_path):
    few = write_text(tmp_path / "few.txt", TEXTS[:60])
    tokenizer = {"tokenizer": str(make(tmp_path / "t", [few], validation_share=0.3) and tmp_path / "t")}
    with pytest.raises(UserError, match=r"60 documents of \d+ tokens leave no training block of 60000"):
        make(tmp_path / "a", [few], block_length=60_000, **tokenizer)
    with pytest.raises(UserError, match=r"none of the 60 documents fell to validation, whose share is 1e-06"):
        make(tmp_path / "b", [few], validation_share=1e-6, **tokenizer)
