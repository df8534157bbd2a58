"""Where the output goes: closed, to a terminal of another encoding, gone; and files that are not as others are."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from megamini import errors
from tests.integration.launching import ROOT

PROSE = ROOT / "tests/integration/prose.txt"
PREPARE = "--language en --vocab-size 400 --block-length 32 --validation-share 0.2 --out data"
PYTHON = Path(sys.executable)


def run(command: str, folder: Path, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess:
    """A command of this project in a shell, so that the shell's redirections apply; stderr apart, as bytes."""
    return subprocess.run(
        ["sh", "-c", command, *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True,
        check=False, timeout=120,
    )  # fmt: skip


PREPARING = f'"$0" {ROOT}/tools/prepare_data.py --text "$1" {PREPARE}'


def test_cases_closed_output_is_quiet(tmp_path: Path) -> None:
    done = run(f"{PREPARING} >&-", tmp_path, str(PYTHON), str(PROSE))
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert json.loads((tmp_path / "data/manifest.json").read_text())["language"] == "en"
    usage = f'"$0" {ROOT}/launch/pretrain.py'
    assert run(f"{usage} >&-", tmp_path, str(PYTHON)).returncode == 0
    assert run(f"{usage} none.yaml >&- 2>&- <&-", tmp_path, str(PYTHON)).returncode == 2


def test_cases_what_is_opened_next_is_not_the_output(tmp_path: Path) -> None:
    """With its number free, the next file would get what is printed."""
    program = (
        f"import sys; sys.path.insert(0, '{ROOT}'); from megamini.errors import run_command\n"
        "def main():\n"
        "    file = open('precious', 'w'); import os; os.write(1, b'printed'); print('printed'); file.write('kept')\n"
        "run_command(main)"
    )
    done = run('"$0" -c "$1" >&-', tmp_path, str(PYTHON), program)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "precious").read_text() == "kept"


def test_cases_a_latin_1_terminal(tmp_path: Path) -> None:
    name = "нет-é.yaml"
    done = run(f'"$0" {ROOT}/launch/pretrain.py "$1"', tmp_path, str(PYTHON), name, PYTHONIOENCODING="latin-1")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ???-\xe9.yaml: No such file or directory;")


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"caf\xc3\xa9.txt"])
def test_cases_file_names_that_the_locale_does_not_know(name: bytes, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(PROSE.read_bytes())
    for _ in range(2):  # the second time it is known as complete
        done = run(PREPARING, tmp_path, str(PYTHON), name, LC_ALL="C", PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
    assert b"already complete" in done.stdout
    (source,) = json.loads((tmp_path / "data/manifest.json").read_text(encoding="utf-8"))["sources"]
    assert source["file"] == "caf" + "?" * (len(name) - 7) + ".txt"


def test_cases_an_output_folder_that_no_library_can_name(tmp_path: Path) -> None:
    done = run(PREPARING.replace("--out data", '--out "$2"'), tmp_path, str(PYTHON), str(PROSE), b"caf\xe9")
    assert done.returncode == 2
    assert done.stderr == b"error: --out caf?: a name with bytes that are no characters here; choose another\n"


# --- files that cannot be read or written -----------------------------------------------------------------------------


def line_of(error: BaseException, capsys) -> str:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        errors.run_command(main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ENOSYS, errno.ENOENT, errno.ELOOP]
)
def test_cases_any_error_of_a_file_is_one_line(number: int, capsys) -> None:
    line = line_of(OSError(number, os.strerror(number), "runs/x/file"), capsys)
    assert line == (
        f"error: runs/x/file: cannot be read or written: {os.strerror(number)}; mend that and run the command again"
    )
    assert os.strerror(number) in line_of(OSError(number, os.strerror(number)), capsys)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_cases_what_may_not_be_read(number: int, tmp_path: Path, capsys) -> None:
    (path := tmp_path / "secret.jsonl").write_text("")
    error = OSError(number, os.strerror(number), str(path))
    with mock.patch("os.access", lambda _, way: way != os.R_OK):
        line = line_of(error, capsys)
    assert line == f"error: {path}: cannot be read: {os.strerror(number)}; ask its owner for the right to read it"
    with mock.patch("os.access", lambda _, way: way != os.W_OK):
        line = line_of(error, capsys)
    assert line == f"error: {path}: cannot be written: {os.strerror(number)}; choose a folder that you may write to"


def test_cases_an_unreadable_file_as_another_user(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to be somebody else, and setpriv")
    (path := tmp_path / "metrics.jsonl").write_text("")
    path.chmod(0)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from megamini.errors import run_command; "
    program += f"run_command(lambda: open({str(path)!r}))"
    somebody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    done = run(f'{somebody} "$0" -c "$1"', Path("/"), str(PYTHON), program)
    if done.returncode not in (0, 2):
        pytest.skip("nobody may run this Python")
    expected = f"error: {path}: cannot be read: Permission denied; ask its owner for the right to read it\n"
    assert (done.returncode, done.stderr.decode()) == (2, expected)
