"""The package archive, read with the distribution's own client as an ordinary user: nothing on the system changes."""

import itertools
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megamini.errors import UserError
from megamini.files import sha256_of, written_whole

OWN_FILES = "to train on files of your own instead: python tools/prepare_data.py --text FILE ..."
NO_CLIENT = f"apt-get and dpkg-deb are needed (Debian, Ubuntu or a relative) and one of them is not here; {OWN_FILES}"

# The system's sources and keyrings stay in use; everything apt writes moves into our folder. The system's hooks are
# cleared since they need root, or would empty the system's own cache. The empty status file hides what is installed,
# so the versions found depend on the archive alone.
APT_CONFIG = """\
Acquire::GzipIndexes "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
APT::Get::List-Cleanup "false";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
# Where apt writes; given as options, since its configuration has no way to quote a quotation mark in a path.
APT_FOLDERS = {"Dir::State": "state", "Dir::State::lists": "lists", "Dir::State::status": "status", "Dir::Cache": "apt"}
# Started by root, apt hands downloads to a user of its own, who could not enter a private folder.
APT_CONFIG_FOR_ROOT = 'APT::Sandbox::User "root";\n'

# apt stops for ever, without a word, when the disk fills up under it; so there must be room for all it may bring.
ROOM_BYTES = 400_000_000
PATIENCE_SECONDS = 1800

DISK_FULL = re.compile(r"No space left on device|enough free space|Disk quota exceeded")
UNREACHABLE = re.compile(
    r"Could not resolve|Temporary failure|Could not connect|Unable to connect|Cannot initiate|Connection (failed|timed)"
    r"|Failed to fetch|Some index files failed"
)


@dataclass(frozen=True)
class Package:
    """A downloaded package whose checksum agreed with the archive's index."""

    name: str
    version: str
    file: Path


class Archive:
    """What the configured package sources offer. The index is brought up to date at the first question, once."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache.absolute()
        self._config = self.cache / "apt.conf"
        folders = (("-o", f"{option}={self.cache / name}") for option, name in APT_FOLDERS.items())
        self._options = ("-c", str(self._config), *itertools.chain.from_iterable(folders))
        self._updated: set[str] = set()
        self._packages: dict[str, Package] = {}

    def names(self, prefix: str) -> list[str]:
        """The names of the packages that begin with `prefix`."""
        self._update("none")
        return sorted(self._run("apt-cache", *self._options, "pkgnames", prefix).split())

    def download(self, name: str) -> Package:
        """The package, downloaded unless its verified file is here; a missing package is a `UserError`."""
        if name not in self._packages:
            self._update("none")
            self._packages[name] = self._download(name)
        return self._packages[name]

    def members(self, package: Package, wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
        """Path and content of the package's regular files that are `wanted`, by path. Nothing is unpacked on disk."""
        command = ["dpkg-deb", "--fsys-tarfile", str(package.file)]
        found = []
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                with tarfile.open(fileobj=process.stdout, mode="r|") as files:
                    for member in files:
                        path = member.name.removeprefix("./")
                        if member.isfile() and wanted(path):
                            found.append((path, files.extractfile(member).read()))
        except FileNotFoundError:
            raise UserError(NO_CLIENT) from None
        except tarfile.TarError as error:
            raise UserError(f"{package.file}: cannot be unpacked ({error}); delete it and run again") from None
        return sorted(found)

    def program(self, name: str) -> tuple[Package, Path]:
        """The program `name` out of the package of that name, runnable where it lies: nothing is installed."""
        package = self.download(name)
        program = self.cache / "programs" / package.file.stem
        if not program.exists():
            [(_, content)] = self.members(package, lambda path: path == f"usr/bin/{name}")
            program.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(program) as stream:
                stream.write(content)
                os.fchmod(stream.fileno(), 0o755)
        return package, program

    def translation_codes(self) -> list[str]:
        """The languages that package descriptions come in, as the archive writes them."""
        self._update("none")
        releases = [file for pattern in ("*InRelease", "*_Release") for file in (self.cache / "lists").glob(pattern)]
        text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in releases)
        return sorted(set(re.findall(r"/i18n/Translation-([A-Za-z_@]+)", text)))

    def translations(self, code: str) -> list[Path]:
        """The indexes of package descriptions in one language, one a package source."""
        self._update(code)
        listed = self._apt_get(
            *("-o", f"Acquire::Languages={code}", "indextargets", "--format", "$(FILENAME)"),
            "Created-By: Translations",
        )
        files = [Path(line) for line in listed.splitlines()]
        return sorted(file for file in files if file.name.endswith(f"_Translation-{code}") and file.exists())

    def _update(self, languages: str) -> None:
        if languages not in self._updated:
            self._prepare_folders()
            print(f"package index: updating ({'packages' if languages == 'none' else 'descriptions ' + languages})")
            self._apt_get("-o", f"Acquire::Languages={languages}", "update")
            self._updated.add(languages)

    def _prepare_folders(self) -> None:
        for folder in ("state", "lists/partial", "apt/archives/partial", "packages"):
            (self.cache / folder).mkdir(parents=True, exist_ok=True)
        (self.cache / "status").touch()
        self._config.write_text(APT_CONFIG + (APT_CONFIG_FOR_ROOT if os.geteuid() == 0 else ""), encoding="utf-8")

    def _download(self, name: str) -> Package:
        if name not in self.names(name):
            raise UserError(f"package '{name}': not in the configured package sources; add Debian's, or {OWN_FILES}")
        record = self._run("apt-cache", *self._options, "show", "--no-all-versions", name)
        version, architecture, checksum = (
            re.search(rf"^{field}: (\S+)", record, re.MULTILINE)[1] for field in ("Version", "Architecture", "SHA256")
        )
        if not re.fullmatch(r"[A-Za-z0-9.+:~_-]+", f"{name}_{version}_{architecture}"):
            raise UserError(f"package '{name}': the archive gives it an invalid version: {version[:60]!r}")
        file = self.cache / "packages" / f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        if not (file.exists() and sha256_of(file) == checksum):
            file.unlink(missing_ok=True)
            print(f"package {name} {version}: downloading")
            self._apt_get("download", f"{name}={version}", folder=file.parent)
            if not file.exists() or sha256_of(file) != checksum:
                raise UserError(f"{file}: not the file in the archive's index; delete {file.parent} and run again")
        return Package(name, version, file)

    def _apt_get(self, *arguments: str, folder: Path | None = None) -> str:
        free = shutil.disk_usage(self.cache).free
        if free < ROOM_BYTES:
            raise UserError(
                f"{self.cache}: {free / 1e6:.0f} MB free on this disk, downloads need {ROOM_BYTES / 1e6:.0f};"
                " free some space, or choose another folder with --out"
            )
        return self._run("apt-get", "-qq", *self._options, *arguments, folder=folder)

    def _run(self, *command: str, folder: Path | None = None) -> str:
        # Messages are matched below, so they must not be translated.
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        try:
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                cwd=folder,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise UserError(NO_CLIENT) from None
        except subprocess.TimeoutExpired:
            raise UserError(f"{command[0]} gave no answer for {PATIENCE_SECONDS / 60:.0f} minutes; run again") from None
        if result.returncode != 0:
            raise UserError(self._explain(command, result.stderr))
        return result.stdout

    def _explain(self, command: tuple[str, ...], messages: str) -> str:
        errors = [line[2:].strip() for line in messages.splitlines() if line.startswith("E:")]
        first = errors[0] if errors else messages.strip() or "no message"
        if DISK_FULL.search(messages):
            return f"{self.cache}: no space left on the disk ({first}); free some, or choose another folder with --out"
        if UNREACHABLE.search(messages):
            return (
                f"the package archive cannot be reached ({first}); connect this machine and run again, or {OWN_FILES}"
            )
        return f"{command[0]} failed: {first}; its folder is {self.cache}, which may be deleted for a fresh start"
