"""What an option of a recipe may hold: durations, shares, paths, names; and what every section is."""

import math
import os
import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

BlockOrder = Literal["runs", "blocks"]
EncoderName = Literal["roberta", "xlm-roberta", "xlm-roberta-xl", "bert", "modernbert"]
DecoderName = Literal["llama", "qwen2", "qwen3", "gemma", "gpt_neox"]
FamilyName = Literal[EncoderName, DecoderName]
"""The families, by the `model_type` that the library gives them: declared here alone."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMBT]?)\s*(updates|tokens)")
_MULTIPLE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _check_duration(value: Any) -> str:
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f"{value!r} is no duration; write for example '6000 updates' or '12.5M tokens'")
    return value


def duration_in_updates(duration: str, tokens_per_update: int) -> int:
    """Number of updates in `duration`; a number of tokens is rounded up to whole updates."""
    amount, unit = parsed_duration(duration)
    return math.ceil(amount if unit == "updates" else amount / tokens_per_update)


def parsed_duration(duration: str) -> tuple[Decimal, str]:
    number, multiple, unit = _DURATION.fullmatch(duration).groups()
    return Decimal(number) * _MULTIPLE[multiple], unit


Duration = Annotated[str, BeforeValidator(_check_duration)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
MaskShare = Annotated[float, Field(gt=0, lt=0.5)]
Layers = Annotated[tuple[Positive, ...], Field(strict=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Numbers = Annotated[tuple[float, ...], Field(strict=False)]
# Of a file, a folder, or a pattern of some; a leading ~ is the home folder, which YAML and most shells leave as it is.
PathName = Annotated[str, AfterValidator(os.path.expanduser)]
Paths = Annotated[tuple[PathName, ...], Field(strict=False, min_length=1)]


class Section(BaseModel):
    """Frozen and strict: nothing is coerced, an unknown key or a number that is not finite is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
