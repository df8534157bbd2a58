"""What a data manifest must look like: it may come from elsewhere, and names files and folders."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from megamini.errors import UserError
from megamini.files import fingerprint_of
from megamini.languages.codes import CODE_PATTERN

Count = Annotated[int, Field(ge=0, lt=2**62)]
_Id = Annotated[int, Field(ge=0, lt=2**31)]


class _Part(BaseModel):
    """Strict about what it knows; other keys may come."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Shard(_Part):
    file: Annotated[str, StringConstraints(pattern=r"^(train|validation)/[0-9]{5,12}\.arrow$")]
    blocks: Count
    bytes: Count


class _Split(_Part):
    shards: list[_Shard]
    min_maskable: Count = 0
    dropped_blocks: Count = 0
    padded_blocks: Count = 0
    padded_lengths: list[Annotated[int, Field(ge=2, lt=2**20)]] = []


class _Source(_Part):
    file: str
    licence: str | None = None
    source: Any = None


class _SpecialTokens(_Part):
    bos: _Id
    pad: _Id
    eos: _Id
    mask: _Id | None
    unk: _Id | None = None


class Vocabulary(_Part):
    """How a tokenizer was made from another one; fertility: tokens of a word, by tokenizer."""

    kind: Literal["extension", "replacement"]
    fertility: dict[str, float] = {}
    fertility_of_old_text: dict[str, float] = {}


class _Manifest(_Part):
    block_length: Annotated[int, Field(ge=3, lt=2**20)]
    vocab_size: Annotated[int, Field(ge=1, lt=2**31)]
    splits: dict[Literal["train", "validation"], _Split]
    language: Annotated[str, StringConstraints(pattern=f"^{CODE_PATTERN}$")] = "und"
    tokenizer_fingerprint: str = ""
    special_tokens: _SpecialTokens | None = None
    sources: list[_Source] = []
    vocabulary: Vocabulary | None = None


def manifest_fingerprint(manifest: dict[str, Any]) -> str:
    """Of all that a manifest says of the data. `contents` only tells source files apart before they are read again, and
    earlier versions did not keep it: with it, a run begun on their data would refuse the same data made anew."""
    return fingerprint_of({key: value for key, value in manifest.items() if key not in ("fingerprint", "contents")})


def check_whole(manifest: dict[str, Any], directory: str) -> None:
    """Raise `UserError` where a checked manifest lacks what training needs to know."""
    parts = dict.fromkeys(("language", "tokenizer_fingerprint", "sources"), manifest)
    parts |= {"train": manifest["splits"], "validation": manifest["splits"]}
    if missing := [key for key, part in parts.items() if key not in part]:
        raise UserError(f"{directory}: its manifest has no '{missing[0]}'; make the data again: tools/prepare_data.py")


def check_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Raise `UserError` for a value that no manifest of ours has, such as a language or a file that is a path
    elsewhere."""
    try:
        checked = _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {key}: {first['msg']}, not {str(first['input'])[:60]!r}; make the data again: "
            "tools/prepare_data.py"
        ) from None
    for name, split in checked.splits.items():
        lengths = split.padded_lengths
        blocks = sum(shard.blocks for shard in split.shards)
        if max(split.padded_blocks, len(lengths)) > blocks or (lengths and max(lengths) > checked.block_length):
            raise UserError(f"{path}: splits.{name}: its padded blocks are not in it; make the data again")
