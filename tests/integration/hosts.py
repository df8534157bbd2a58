"""Two hosts on one machine: network namespaces with an address, a process space and an ssh server each.

Needs root, iproute2, an OpenSSH server and pdsh; `missing()` says what is not there.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.integration.launching import ROOT

_NAMES = ("hostA", "hostB")
_ADDRESSES = {"hostA": "10.77.0.1", "hostB": "10.77.0.2"}


def missing() -> str | None:
    """Why two hosts cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "two hosts need root, for network namespaces"
    for program in ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "pdsh"):
        if shutil.which(program) is None:
            return f"two hosts need the program {program} (Debian: iproute2, openssh-client, pdsh)"
    if not Path("/usr/sbin/sshd").exists():
        return "two hosts need an ssh server (Debian: openssh-server)"
    probe = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    return None if probe.returncode == 0 else f"namespaces cannot be made: {probe.stderr.decode().strip()}"


class Hosts:
    """Two running hosts that share the file system. `pids`: of the first process of each one's process space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: dict[str, int] = {}
        self._holders: dict[str, subprocess.Popen] = {}

    def deepspeed(self, arguments: list[str], log: Path) -> subprocess.Popen:
        """The launcher on hostA, over both hosts with two slots each."""
        # The launcher forwards no variables but by this file.
        workplace = self.folder / "work"
        workplace.mkdir(exist_ok=True)
        variables = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": ROOT}
        (workplace / ".deepspeed_env").write_text("\n".join(f"{name}={value}" for name, value in variables.items()))
        (workplace / "hostfile").write_text("".join(f"{name} slots=2\n" for name in _NAMES))
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        command = [
            "nsenter", "-a", "-t", str(self.pids["hostA"]), f"--wd={workplace}", "env", f"PATH={path}",
            "DS_ACCELERATOR=cpu", str(Path(sys.executable).with_name("deepspeed")), "--hostfile", "hostfile",
            "--master_addr", _ADDRESSES["hostA"], "--master_port", "29500", *arguments,
        ]  # fmt: skip
        with log.open("w") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def processes(self, name: str) -> list[psutil.Process]:
        """Everything that runs on a host."""
        return psutil.Process(self.pids[name]).children(recursive=True)

    def kill(self, name: str) -> None:
        """As if the power were cut: all that runs there ends at once."""
        os.kill(self.pids.pop(name), signal.SIGKILL)
        self._holders.pop(name).wait()

    def boot(self, name: str) -> None:
        """Start a host's process space and ssh server in its network."""
        hosts, own = self.folder / "hosts", _ADDRESSES[name]
        script = (
            f"hostname {name}; mount -t tmpfs tmpfs /run; mkdir -p /run/sshd; mount --bind {hosts} /etc/hosts; "
            f"exec /usr/sbin/sshd -D -e -f {self.folder / name}.conf"
        )
        (self.folder / f"{name}.conf").write_text(
            f"Port 22\nListenAddress {own}\nHostKey {self.folder / 'host_key'}\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder / 'user_key.pub'}\nPasswordAuthentication no\nPidFile none\n"
            "PermitRootLogin yes\n"
        )
        isolate = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--uts", "--ipc"]
        with (self.folder / f"{name}.log").open("a") as log:
            holder = subprocess.Popen(
                ["ip", "netns", "exec", _netns(name), *isolate, "bash", "-c", script],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._holders[name] = holder
        deadline = time.monotonic() + 20
        while not (children := psutil.Process(holder.pid).children()) or not _listens(name):
            assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
            time.sleep(0.1)
        self.pids[name] = children[0].pid

    def close(self) -> None:
        for name in list(self.pids):
            with contextlib.suppress(ProcessLookupError):
                self.kill(name)


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Network, keys and both hosts; all gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in _ADDRESSES.items())
    )
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder / 'user_key'}\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {folder / 'known'}\n  LogLevel ERROR\n"
    )
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder / "ssh_config"} "$@"\n')
    wrapper.chmod(0o755)
    hosts = Hosts(folder)
    with _network():
        try:
            for name in _NAMES:
                hosts.boot(name)
            yield hosts
        finally:
            hosts.close()


@contextmanager
def _network() -> Iterator[None]:
    """A cable between two network namespaces."""
    one, other = map(_netns, _NAMES)
    try:
        for name in (one, other):
            _ip("netns", "add", name)
        _ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", other)
        for host, address in _ADDRESSES.items():
            _ip("-n", _netns(host), "link", "set", "lo", "up")
            _ip("-n", _netns(host), "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", _netns(host), "link", "set", "eth0", "up")
        yield
    finally:
        for name in (one, other):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _netns(host: str) -> str:
    return f"megamini-{os.getpid()}-{host}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _listens(name: str) -> bool:
    probe = f"import socket; socket.create_connection(('{_ADDRESSES[name]}', 22), 1).close()"
    command = ["ip", "netns", "exec", _netns(name), sys.executable, "-c", probe]
    return subprocess.run(command, capture_output=True).returncode == 0
