"""The same numbers in metrics.jsonl and on the board, each update once, also after kills and resumes."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megamini.errors import UserError
from megamini.files import write_atomically
from megamini.training.telemetry import Telemetry, read_metrics


def board(directory):
    """(tag, step, value) of every event on the board."""
    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return sorted((tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag))


def metrics(directory):
    lines = list(read_metrics(directory / "metrics.jsonl"))
    return sorted((tag, line["update"], value) for line in lines for tag, value in line.items() if "/" in tag)


def train(directory, first, last, by=10, session=0.0):
    """A session that records from update `first` to `last`."""
    telemetry = Telemetry(directory, first, last)
    for update in range(first + by, last + 1, by):
        telemetry.record(update, {"train/loss": update + session, "train/lr": 0.5, "note": 3})
        if update % 20 == 0:
            telemetry.record(update, {"validation/loss": update * 2.0})
    telemetry.close()


def test_the_board_equals_the_lines(tmp_path):
    train(tmp_path, 0, 60)
    assert board(tmp_path) == metrics(tmp_path)
    assert ("validation/loss", 40, 80.0) in metrics(tmp_path)
    assert len(metrics(tmp_path)) == 6 * 2 + 3


def test_a_resume_cuts_what_was_written_behind_the_checkpoint(tmp_path):
    train(tmp_path, 0, 60)
    train(tmp_path, 30, 90, session=0.25)
    assert board(tmp_path) == metrics(tmp_path)
    losses = [(step, value) for tag, step, value in metrics(tmp_path) if tag == "train/loss"]
    assert losses == [(step, step + (0.25 if step > 30 else 0)) for step in range(10, 91, 10)]
    assert [step for tag, step, _ in metrics(tmp_path) if tag == "validation/loss"] == [20, 40, 60, 80]


def test_a_start_from_nothing_keeps_nothing(tmp_path):
    train(tmp_path, 0, 60)
    train(tmp_path, 0, 20)
    assert board(tmp_path) == metrics(tmp_path)
    assert {step for _, step, _ in metrics(tmp_path)} == {10, 20}


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_line_that_a_kill_tore_is_left_out(tmp_path, cut):
    train(tmp_path, 0, 30)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [line["update"] for line in read_metrics(path)] == [10, 20, 20]
    train(tmp_path, 30, 50)
    assert board(tmp_path) == metrics(tmp_path)
    assert {step for _, step, _ in metrics(tmp_path)} == {10, 20, 40, 50}
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_line_is_there_before_the_run_ends(tmp_path):
    telemetry = Telemetry(tmp_path, 0, 10)
    telemetry.record(5, {"train/loss": 1.0})
    assert [line["update"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5]
    telemetry.close()


def test_the_ledger_is_replaced_whole(tmp_path):
    telemetry = Telemetry(tmp_path, 0, 10)
    telemetry.write_ledger({"tokens": 1, "long": "x" * 100})
    telemetry.write_ledger({"tokens": 2})
    telemetry.close()
    assert json.loads((tmp_path / "compute.json").read_text()) == {"tokens": 2}
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none/compute\.json: cannot be written: No such file or directory"):
        write_atomically(tmp_path / "none" / "compute.json", "{}")


def test_speaking_to_a_closed_console_does_not_end_the_run(tmp_path, monkeypatch):
    telemetry = Telemetry(tmp_path, 0, 10)
    closed = (tmp_path / "console").open("w")
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    telemetry.say("still here")
    telemetry.record(1, {"train/loss": 1.0})
    telemetry.close()
    assert metrics(tmp_path) == [("train/loss", 1, 1.0)]
