"""`pack.json`, what a language pack says of itself: checked where it is read, since packs come from others."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from megamini.data.manifest import Vocabulary
from megamini.errors import UserError
from megamini.files import parse_json
from megamini.languages.codes import CODE_PATTERN

FORMAT = 1
FORMAT_OF_PARTS = 2  # of packs that hold some rows of their vocabulary alone, which earlier versions do not know
DESCRIPTION = "pack.json"

_Cost = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    """Strict about what is used of it; other keys may come."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Lineage(_Part):
    embeddings_sha256: str
    tokenizer_sha256: str
    also_sha256: list[str] = []
    output_sha256: str | None = None
    output_also_sha256: list[str] = []


class _Ledger(_Part):
    updates: Annotated[int, Field(ge=0)] = 0
    tokens: _Cost = 0
    flops: _Cost = 0
    seconds: _Cost = 0


class _Source(_Part):
    file: str
    licence: str | None = None


class _Description(_Part):
    language: Annotated[str, StringConstraints(pattern=f"^{CODE_PATTERN}$")]
    kind: Literal["swapped", "extension", "replacement"] = "swapped"
    lineage: _Lineage
    embeddings_sha256: str
    tokenizer_sha256: str
    method: str | None = None
    body: dict[str, Any] = {}
    starting_point: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    text: list[_Source] = []
    ledger: _Ledger = _Ledger()
    vocabulary: Vocabulary | None = None


def read_description(directory: Path) -> dict[str, Any]:
    """The description of the pack in a folder. Raises `UserError` for what is none."""
    path = directory / DESCRIPTION
    try:
        description = parse_json(path.read_bytes())
    except OSError as error:
        what = "a model, no language pack" if (directory / "config.json").is_file() else error.strerror
        raise UserError(f"{path}: {what}; give the folder of a language pack") from None
    except ValueError as error:
        raise UserError(f"{path}: not the description of a language pack: {error}") from None
    found = description.get("format") if isinstance(description, dict) else None
    if found is not None and found not in (FORMAT, FORMAT_OF_PARTS):
        raise UserError(f"{path}: format {str(found)[:20]}, this version reads {FORMAT} and {FORMAT_OF_PARTS}")
    try:
        _Description.model_validate(description)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(
            f"{path}: not the description of a language pack: {key}: {first['msg']}, not {str(first['input'])[:60]!r}"
        ) from None
    if found is None:
        raise UserError(f"{path}: not the description of a language pack: it has no format")
    return description
