"""Bad input ends in one line: `UserError` carries it, `run_command` prints it and exits with status 2."""

import contextlib
import difflib
import os
import sys
import time
from collections.abc import Callable, Iterable

_RANK_0_SPEAKS_FIRST = 5.0  # seconds


class UserError(Exception):
    """Something the user can mend. The message names the file, key or row, and says what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known name nearest to `word`, or nothing when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point: a `UserError` becomes one line on stderr from rank 0 and exit status 2, never a traceback."""
    try:
        main()
    except UserError as error:
        _exit_with_line(str(error), status=2)
    except KeyboardInterrupt:
        _exit_with_line("interrupted", status=130)


def _exit_with_line(message: str, status: int) -> None:
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        # Rank 0 mostly meets the same error and says it; the launcher then ends this process before it speaks.
        time.sleep(_RANK_0_SPEAKS_FIRST)
        message = f"rank {rank}: {message}"
    # The launcher may have closed our output already.
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    if "RANK" in os.environ:
        os._exit(status)  # interpreter teardown in a process group would wait for peers that may be gone
    sys.exit(status)
