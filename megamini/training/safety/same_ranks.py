"""Before anything is built: all ranks have the same recipe, the same data and the same code."""

import hashlib
import platform
import socket
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megamini.errors import UserError

_LIBRARIES = ("torch", "transformers", "deepspeed", "numpy")


def check_same_on_all_ranks(values: dict[str, Any], gather: Callable[[Any], list[Any]]) -> None:
    """Raise `UserError`, on every rank, naming the first value in which one differs from rank 0. *All ranks.*

    values: by name; code and libraries are added. gather: gives what each rank has passed to it, in their order.
    """
    own = {**_flat(values), **code_version()}
    first, *others = gather((socket.gethostname(), own))
    for rank, (host, other) in enumerate(others, 1):
        for name in [*first[1], *(name for name in other if name not in first[1])]:
            if first[1].get(name) != other.get(name):
                raise UserError(
                    f"rank {rank} on {host} has another {name} than rank 0 on {first[0]}: {other.get(name)}, and there "
                    f"{first[1].get(name)}; give all hosts the same files, such as those of a shared file system"
                )


def code_version() -> dict[str, str]:
    """A SHA-256 of this package's files, and the versions of what it builds on."""
    digest, package = hashlib.sha256(), Path(__file__).parents[2]
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(content)} ".encode() + content)
    installed = {name for name in _LIBRARIES if find_spec(name)}
    versions = {name: metadata.version(name) for name in sorted(installed)}
    return {"code of megamini": digest.hexdigest()[:16], "Python": platform.python_version(), **versions}


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    """`section.key` -> value, of sections at any depth."""
    if not isinstance(values, dict):
        return {name: values}
    return {
        key: value
        for part, inner in values.items()
        for key, value in _flat(inner, f"{name}.{part}".lstrip(".")).items()
    }
