"""The lock file: who has it, who is gone, and what a mount without locks between hosts shows."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megamini import lock_file
from megamini.errors import UserError
from megamini.lock_file import LockFile, exclusive, read_holder
from megamini.training.safety.run_lock import ask_to_stop, run_lock


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_file, "_BEAT", 0.05)
    monkeypatch.setattr(lock_file, "_SILENCE", 1.0)


class Holder:
    """Another process that has the lock."""

    def __init__(self, path: Path) -> None:
        ready, said = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=_hold, args=(path, said), daemon=True)
        self.process.start()
        assert ready.poll(60) and ready.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _hold(path: Path, said) -> None:
    lock_file._BEAT = 0.05
    said.send(LockFile(path).acquire(can_be_asked=True))
    time.sleep(600)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    other = Holder(tmp_path / "running.json")
    yield other
    other.kill()


def test_another_process_is_named_and_its_heart_beats(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    who = rf"\(process {holder.process.pid} on {socket.gethostname()}, since 20"
    with pytest.raises(UserError, match=rf"{tmp_path}: another run writes there {who}.*; wait for its end"):
        with run_lock(tmp_path, "training.runs"):
            pass
    with pytest.raises(UserError, match=f"busy {who}"), exclusive(path, "busy"):
        pass
    before = read_holder(path)["beat"]
    time.sleep(0.5)
    assert read_holder(path)["beat"] > before
    assert f"process {holder.process.pid} on" in ask_to_stop(tmp_path)
    assert not LockFile(path).acquire(), "nothing of this has let the lock go"


def test_a_killed_holder_is_told_apart_at_once(holder: Holder, tmp_path: Path, capsys) -> None:
    holder.kill()
    path = tmp_path / "running.json"
    assert json.loads(path.read_text())["pid"] == holder.process.pid
    with run_lock(tmp_path, "training.runs"):
        assert read_holder(path)["pid"] == os.getpid()
    said = capsys.readouterr().out
    assert f"process {holder.process.pid} on" in said and "is gone without an end; this run takes its place" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="nothing runs there"):
        ask_to_stop(tmp_path)


def test_a_stopped_holder_is_named_with_the_remedy(holder: Holder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("megamini.training.safety.run_lock._LOOKS_GONE", 0.5)
    os.kill(holder.process.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match=rf"no sign of life for \d+ seconds: .* delete {tmp_path}/running.json; else"):
        with run_lock(tmp_path, "training.runs", patience=2):
            pass


def note(host: str, beat: int = 0) -> str:
    return json.dumps({"host": host, "pid": 7, "since": "2026-01-01", "can_be_asked": True, "beat": beat})


def test_a_heartbeat_from_a_host_whose_lock_does_not_show(tmp_path: Path) -> None:
    """On a mount that keeps locks for each host alone, the lock itself is free."""
    path, over = tmp_path / "running.json", threading.Event()
    path.write_text(note("far-away"))

    def beat() -> None:
        for number in range(10_000):
            if over.wait(0.1):
                return
            path.write_text(note("far-away", number))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"another run writes there \(process 7 on far-away"):
            with run_lock(tmp_path, "training.runs"):
                pass
        with pytest.raises(UserError, match=r"busy \(process 7 on far-away"), exclusive(path, "busy"):
            pass
        assert "process 7 on far-away" in ask_to_stop(tmp_path)
    finally:
        over.set()
        thread.join()


def test_a_silent_host_is_gone_after_a_while(tmp_path: Path, capsys) -> None:
    (tmp_path / "running.json").write_text(note("far-away"))
    started = time.monotonic()
    with run_lock(tmp_path, "training.runs"):
        assert time.monotonic() - started >= 1
    assert "process 7 on far-away, since 2026-01-01, is gone without an end" in capsys.readouterr().out


def test_one_process_has_it_once_and_keeps_it_while_it_reads(tmp_path: Path) -> None:
    """The system would give it again, and take it away where another descriptor of the file is closed."""
    path = tmp_path / "running.json"
    with exclusive(path, "busy"):
        assert not LockFile(path).acquire()
        assert read_holder(path)["pid"] == os.getpid()
        child = multiprocessing.get_context("fork").Process(target=lambda: os.closerange(3, 50))
        child.start()
        child.join()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert not pool.apply(_acquired, (path,))
    assert LockFile(path).acquire()


def _acquired(path: Path) -> bool:
    return LockFile(path).acquire()


def test_one_that_slept_while_another_took_over_ends(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    other = Holder(path)
    path.write_text(note("far-away"))  # as one on another host does, where locks are of each host alone
    other.process.join(30)
    assert other.process.exitcode == 2


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock_file.fcntl, "lockf", refuse)
    with pytest.raises(UserError, match="cannot be locked: Function not implemented; choose a folder on"):
        with run_lock(tmp_path, "training.runs"):
            pass
