"""A terminal with an interactive shell in it, in which a command runs as a person would have started it."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time

import psutil

from tests.integration.launching import ROOT
from tests.integration.ranks import ENVIRONMENT

CTRL_C = b"\x03"


class Terminal:
    """A context: `bash` as the leader of a session whose terminal this is, and `command` before it."""

    def __init__(self, command: list[str], path: str = "") -> None:
        self._master, slave = pty.openpty()
        environment = {**os.environ, **ENVIRONMENT, "PATH": f"{path}:{os.environ['PATH']}", "TERM": "dumb"}
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=ROOT,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=_lead_session,
        )
        os.close(slave)
        self._text = b""
        self.seen: list[psutil.Process] = []
        self.type(" ".join(command).encode() + b"\n")

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.shell.kill()
        self.shell.wait()
        self.close()

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def close(self) -> None:
        """The window is closed, or the connection is lost."""
        if self._master >= 0:
            os.close(self._master)
        self._master = -1

    def look(self) -> list[psutil.Process]:
        """All that has been started from the shell so far."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.shell.pid).children(recursive=True)
            self.seen += [process for process in found if process not in self.seen]
        return self.seen

    def alive(self) -> bool:
        return self.shell.poll() is None

    def printed(self) -> str:
        while self._master >= 0 and select.select([self._master], [], [], 0)[0]:
            try:
                read = os.read(self._master, 2**16)
            except OSError:
                break
            self._text += read
        return self._text.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text: str, timeout: float) -> str:
        """What was printed, as soon as it has `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.printed():
            assert time.monotonic() < deadline, self.printed()[-3000:]
            time.sleep(0.02)
        return self.printed()


def _lead_session() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):  # a suite may run behind a shell that ignores them
        signal.signal(number, signal.SIG_DFL)
