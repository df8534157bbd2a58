"""The folder of fetched text: one file a source and language, and a manifest that says where each came from."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from megamini.errors import UserError
from megamini.files import write_atomically, written_whole
from megamini.lock_file import exclusive


@dataclass(frozen=True)
class Document:
    """One document. `id` is the same in all languages; `label`, where there is one, is a class to predict."""

    id: str
    text: str
    label: str | None = None

    def line(self) -> str:
        fields = {"id": self.id, "text": self.text}
        if self.label is not None:
            fields["label"] = self.label
        return json.dumps(fields, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Reading:
    """What a source gave for a language, with every package (name to version) that had a part in it."""

    documents: list[Document]
    packages: dict[str, str]
    licence: str


class Collection:
    """Files appear whole or not at all, and the manifest lists only files that are whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep it to this process: two at once would lose each other's manifest entries."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".running.json", f"{self.folder}: another fetch is writing here"):
            yield

    def entries(self) -> dict[str, dict]:
        """The manifest: file name to where it came from."""
        if not self.manifest.exists():
            return {}
        try:
            return json.loads(self.manifest.read_text(encoding="utf-8"))["files"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.manifest}: not a manifest of this tool; delete it and run again") from None

    def complete(self, name: str) -> dict | None:
        """The manifest's entry for a file whose bytes are still what the manifest says, or None."""
        entry, file = self.entries().get(name), self.folder / name
        if entry is None or not file.exists():
            return None
        return entry if hashlib.sha256(file.read_bytes()).hexdigest() == entry.get("sha256") else None

    def add(self, name: str, source: str, language: str, reading: Reading, command: str) -> dict:
        """Write a file and then its entry; returns the entry."""
        content = "".join(document.line() for document in reading.documents).encode()
        entry = {
            "source": source,
            "language": language,
            "packages": reading.packages,
            "licence": reading.licence,
            "documents": len(reading.documents),
            "utf8_bytes": sum(len(document.text.encode()) for document in reading.documents),
            "sha256": hashlib.sha256(content).hexdigest(),
            "command": command,
        }
        with written_whole(self.folder / name) as stream:
            stream.write(content)
        files = {**self.entries(), name: entry}
        manifest = json.dumps({"files": files}, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        write_atomically(self.manifest, manifest)
        return entry
