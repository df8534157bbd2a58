"""Bad input ends in one line: `UserError` carries it, `run_command` prints it and exits with status 2."""

import argparse
import contextlib
import difflib
import errno
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

_RANK_0_SPEAKS_FIRST = 5.0  # seconds
_STANDARD_FILES = 3  # input, output, errors

_SPACE = "free some space there, or choose another folder, and run the same command again"
_ELSEWHERE = "choose a folder that you may write to"
_IN_THE_WAY = "a file stands where a folder is needed: choose another folder"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
}


# As in sysexits.h: a temporary failure, which a scheduler may requeue.
TRY_AGAIN = 75


class TryAgain(Exception):
    """The run has stopped where its scheduler asked for it; the same command goes on. Exit status `TRY_AGAIN`."""


class UserError(Exception):
    """Something the user can mend. The message names the file, key or row, and says what to do."""


# Scripts whose command has two words; that of the others is the first word of their names.
_TWO_WORDS = ("likelihood_tasks", "translate_words", "word_list")


class CommandParser(argparse.ArgumentParser):
    """Command lines whose docstring is their help, and whose mistakes are one line, like any other bad input."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def format_help(self) -> str:
        return self.worded(super().format_help())

    def worded(self, text: str) -> str:
        """Help that names scripts, in the words of the command `megamini` where that was called."""
        return _as_installed(text) if self.prog.startswith("megamini ") else text

    def parse_known_args(self, *arguments: Any, **options: Any) -> tuple[argparse.Namespace, list[str]]:
        """A leading ~ is the home folder, which shells leave as it is in quotes and behind an equals sign."""
        values, rest = super().parse_known_args(*arguments, **options)
        for name, value in vars(values).items():
            setattr(values, name, [_at_home(one) for one in value] if isinstance(value, list) else _at_home(value))
        return values, rest

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        hint = did_you_mean(unknown, self._option_string_actions) if unknown.startswith("-") else ""
        raise UserError(f"{message}{hint or '; --help shows what there is'}")


def _as_installed(text: str) -> str:
    """A script's help for those who have the command `megamini`, and no checkout."""

    def command(found: re.Match[str]) -> str:
        script = found[1]
        return f"megamini {script.replace('_', '-') if script in _TWO_WORDS else script.partition('_')[0]}"

    text = re.sub(r"((?:deepspeed|torchrun)\b[^\n]*?) launch/(\w+)\.py", r"\1 --module megamini.commands.\2", text)
    text = re.sub(r"(?:python )?(?:launch|tools)/(\w+)\.py", command, text)
    return re.sub(r"launch/recipes/([\w/]+)\.yaml", r"\1", text)


def _at_home(value: Any) -> Any:
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value  # noqa: PTH111 (of both)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known name nearest to `word`, or nothing when none is near."""
    known = list(known)
    begun = [name for name in known if name.lower().startswith(word.lower())]
    near = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


@contextlib.contextmanager
def writing(path: Path, key: str = "") -> Iterator[None]:
    """Name `path`, and the `key` that chose it, where writing fails: a full disk's error does not say which file.

    Rust's writers (safetensors, tokenizers) report one as errors of their own; here they count like any other.
    """
    try:
        yield
    except OSError as error:
        raise UserError(key + _cannot_be_written(path, error)) from None
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        known = OSError(int(number[1]), os.strerror(int(number[1])))
        raise UserError(key + _cannot_be_written(path, known)) from None


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point: a `UserError` becomes one line on stderr from rank 0 and exit status 2, never a traceback.

    Under a launcher this ends the process, with status 0 as well.
    """
    threading.excepthook = _quiet_about_files
    _repair_output()
    try:
        main()
        sys.stdout.flush()
        if "RANK" in os.environ:
            _exit(0)
    except UserError as error:
        _exit_with_line(str(error), status=2)
    except TryAgain:
        _exit(TRY_AGAIN)
    except KeyboardInterrupt:
        _exit_with_line("interrupted", status=130)
    except BrokenPipeError:
        _exit(141)  # whoever read the output, such as `head`, has enough
    except OSError as error:
        _exit_with_line(_what_failed(error), status=2)
    except UnicodeEncodeError as error:
        if not any("\ud800" <= character <= "\udfff" for character in error.object[error.start : error.end]):
            raise
        _exit_with_line(f"'{error.object}': a name with bytes that are no characters here; rename it", status=2)


def _repair_output() -> None:
    """Characters that the terminal does not know are replaced, and a stream that the caller has closed leads nowhere:
    its number must not go to the next file that is opened."""
    while (spare := os.open(os.devnull, os.O_RDWR)) < _STANDARD_FILES:
        os.set_inheritable(spare, True)
    os.close(spare)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115 (to the end of the process)
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


def _what_failed(error: OSError) -> str:
    """A line for an error that nobody has said more of: which file, and as far as it can be told, what with it."""
    path = error.filename or "a file, or the output"
    if error.errno in (errno.EACCES, errno.EPERM):
        there = os.path.exists(path)  # noqa: PTH110 (bytes, or a number)
        if there and not os.access(path, os.R_OK):
            return f"{path}: cannot be read: {error.strerror}; ask its owner for the right to read it"
        may_write = os.access(path if there else os.path.dirname(path) or ".", os.W_OK)  # noqa: PTH120
    else:
        may_write = error.errno not in _REMEDIES
    if not may_write:
        return _cannot_be_written(path, error)
    return f"{path}: cannot be read or written: {error.strerror or error}; mend that and run the command again"


def _cannot_be_written(path: Path | str, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{path}: cannot be written: {reason}; {_REMEDIES.get(error.errno, 'mend that and run the command again')}"


def _quiet_about_files(problem: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread would print a traceback; the main thread meets the same full disk, and says so in a line."""
    if not isinstance(problem.exc_value, OSError):
        threading.__excepthook__(problem)


def _exit_with_line(message: str, status: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        # Rank 0 mostly meets the same error and says it; the launcher then ends this process before it speaks.
        time.sleep(_RANK_0_SPEAKS_FIRST)
        message = f"rank {rank}: {message}"
    # The launcher may have closed our output already, and the disk that it goes to may be full.
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    _exit(status)


def _exit(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        os._exit(status)  # the interpreter would try once more, and complain
    if "RANK" in os.environ:
        # Teardown in a process group waits for peers that may be gone; and a thread of gloo that lets go of a tensor
        # while the interpreter ends aborts the process (pytorch/pytorch#179291), though all is done and closed.
        os._exit(status)
    sys.exit(status)
