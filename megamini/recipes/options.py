"""Every option of a recipe with its default and meaning, from the docstrings of its sections: for --help and docs/."""

from collections.abc import Iterator
from typing import Any, Literal, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megamini.recipes.recipe import Recipe


def options(
    section: type[BaseModel] = Recipe, prefix: str = "", optional: bool = False
) -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of every option; sections are entered, not listed, and may be `optional`.

    Where the user names the sections, as in `tasks`, NAME stands for such a name.
    """
    for name, info in section.model_fields.items():
        inner = _section_in(info)
        if inner is not None:
            named = get_origin(info.annotation) is dict
            below = f"{prefix}{name}.NAME." if named else f"{prefix}{name}."
            yield from options(inner, below, optional=not named and info.annotation is not inner)
        else:
            meaning = " ".join((info.description or "").split())
            yield f"{prefix}{name}", _default(info, optional), meaning + _choices(info.annotation)


def options_text(kind: type[BaseModel] = Recipe) -> str:
    """The options of a kind of recipe for a console."""
    return "\n".join(f"  {key} ({default})\n      {meaning}" for key, default, meaning in options(kind))


def options_table(kind: type[BaseModel] = Recipe) -> str:
    """The options as a Markdown table."""
    rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in options(kind)]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def _section_in(info: FieldInfo) -> type[BaseModel] | None:
    kinds = (info.annotation, *getattr(info.annotation, "__args__", ()))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _choices(annotation: Any) -> str:
    """The words that an option takes, where only some are."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if get_origin(kind) is Literal:
            return f" One of: {', '.join(kind.__args__)}."
    return ""


def _default(info: FieldInfo, optional: bool) -> str:
    if info.is_required():
        return "needed with its section" if optional else "needed"
    value: Any = info.default
    if value is None or value in ((), {}):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
