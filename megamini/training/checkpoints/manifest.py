"""The manifest of a checkpoint: every file with size and SHA-256, and a checksum of the list itself."""

import json
import os
from pathlib import Path
from typing import Any

from megamini.files import fingerprint_of, sha256_of, write_atomically

MANIFEST = "manifest.json"
_FORMAT = 2


def list_files(directory: Path) -> list[str]:
    """Names of the files of a checkpoint, its manifest left out."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(name for name in (str(path.relative_to(directory)) for path in files) if name != MANIFEST)


def describe_files(directory: Path, names: list[str]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file, which is flushed to disk on the way."""
    entries = []
    for name in names:
        with (directory / name).open("rb+") as file:
            os.fsync(file.fileno())
        entries.append(
            {"file": name, "bytes": (directory / name).stat().st_size, "sha256": sha256_of(directory / name)}
        )
    return entries


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Write `content`, which has the files under "files", with a format number and its own checksum."""
    content = {"format": _FORMAT, **content}
    text = json.dumps({**content, "fingerprint": fingerprint_of(content)}, indent=1)
    write_atomically(directory / MANIFEST, text + "\n")


def read_manifest(directory: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest, and what is wrong with it or with the list of files there."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        fingerprint = manifest.pop("fingerprint")
        if fingerprint != fingerprint_of(manifest):
            return None, f"{MANIFEST} does not have the checksum it was written with"
        if manifest["format"] != _FORMAT:
            return None, f"{MANIFEST} is of format {manifest['format']}, this version reads {_FORMAT}"
        unlisted = set(list_files(directory)) - {entry["file"] for entry in manifest["files"]}
    except FileNotFoundError:
        return None, f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{MANIFEST} cannot be read: {error}"
    if unlisted:
        return None, f"{min(unlisted)} is not in its {MANIFEST}"
    return manifest, None


def first_difference(directory: Path, entries: list[dict[str, Any]]) -> str | None:
    """What is wrong with the first file that is not as described, or None."""
    for entry in entries:
        path = directory / entry["file"]
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                return f"{entry['file']} has {size} bytes instead of {entry['bytes']}"
            if sha256_of(path) != entry["sha256"]:
                return f"{entry['file']} does not have the checksum it was written with"
        except FileNotFoundError:
            return f"{entry['file']} is missing"
        except OSError as error:
            return f"{entry['file']} cannot be read: {error.strerror}"
    return None


def verify(directory: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The manifest of a checkpoint, and what is wrong with it or its files (None: it is complete)."""
    manifest, problem = read_manifest(directory)
    return manifest, problem or first_difference(directory, manifest["files"])
