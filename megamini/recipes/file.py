"""A YAML file and `section.key=value` overrides become a checked recipe, or one line that names the key."""

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from megamini.errors import UserError, did_you_mean
from megamini.recipes.shipped import RECIPES, find

Kind = TypeVar("Kind", bound=BaseModel)


def read_recipe(path: str | Path, overrides: Sequence[str], kind: type[Kind]) -> Kind:
    """The recipe in `path`, or the one of that name that comes along, with the overrides applied, checked as `kind`.

    Raises `UserError` naming the file, or the override, and the key for what is not a valid recipe of that kind.
    """
    values = _read_yaml(find(path))
    in_file = copy.deepcopy(values)
    for override in overrides:
        _apply_override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = _sorted(error)
    if reader := _other_reader(in_file, kind):
        raise UserError(f"{path}: a recipe of {reader}")
    # A rule of a whole section says nothing of who broke it: the file did where it breaks it alone.
    of_file = {_key(problem) for problem in _problems_of(in_file, kind)}
    for override in reversed(overrides):
        if _sets(override, problems[0], _key(problems[0]) in of_file):
            raise UserError(f"'{override}': {_describe(problems[0], kind)}")
    where = f"{path} with {' '.join(overrides)}"
    if _key(problems[0]) in of_file:
        where, problems = str(path), [problem for problem in problems if _key(problem) in of_file]
    raise UserError(f"{where}: {'; '.join(_describe(problem, kind) for problem in problems[:3])}")


def _other_reader(values: dict[str, Any], kind: type[BaseModel]) -> str | None:
    """The entry point whose recipe this is: by sections that `kind` does not know, where some that it needs are not
    there."""
    unknown = values.keys() - kind.model_fields.keys()
    if all(name in values for name, field in kind.model_fields.items() if field.is_required()):
        return None
    if "adaptation" in unknown:
        return "launch/adapt.py"
    if "tasks" in unknown:
        return "launch/finetune.py or launch/evaluate.py"
    of_pretraining = {"model", "objective"}
    return "launch/pretrain.py" if unknown & of_pretraining and of_pretraining <= values.keys() else None


def as_yaml(values: dict[str, Any]) -> str:
    """The values of a recipe as YAML that reads back the same."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _problems_of(values: dict[str, Any], kind: type[BaseModel]) -> list[dict[str, Any]]:
    try:
        kind.model_validate(values)
    except ValidationError as error:
        return _sorted(error)
    return []


# What PyYAML raises for values that it cannot build: the 99th of a month, 5,000 digits, a thousand brackets.
_NO_VALUE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


class _RepeatedKey(Exception):
    """A mapping names a key twice; PyYAML would silently keep the last one."""


class _RecipeLoader(yaml.SafeLoader):
    """`safe_load` that refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _RepeatedKey(f"line {key.start_mark.line + 1}: key '{key.value}' appears twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = [str(file.relative_to(RECIPES).with_suffix("")) for file in RECIPES.rglob("*.yaml")]
        near = did_you_mean(str(path.with_suffix("")).removeprefix("launch/recipes/"), known)
        raise UserError(f"{path}: {error.strerror}; give the path of a recipe (.yaml){near}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a YAML file") from None
    try:
        values = yaml.load(text, _RecipeLoader)
    except _RepeatedKey as error:
        raise UserError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}: {where}not valid YAML: {problem}") from None
    except _NO_VALUE as error:
        raise UserError(f"{path}: not the YAML of a recipe: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a recipe: expected sections such as 'model:', found {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(
            f"'{override}' is no override; write section.key=value, and in quotes where the value has a space: "
            '"schedule.duration=10M tokens"'
        )
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise UserError(f"'{override}': '{section}' has no keys of its own")
    try:
        values[last] = float(text) if _is_exponent(text) else yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"'{override}': '{text}' is not valid YAML") from None
    except _NO_VALUE as error:
        raise UserError(f"'{override[:80]}': not a value of a recipe: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())


def _is_exponent(text: str) -> bool:
    """Whether PyYAML would read the number `text` as text, as it does 7e-4 (YAML 1.1 wants 7.0e-4)."""
    return re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text) is not None


def _sorted(error: ValidationError) -> list[dict[str, Any]]:
    """The problems of a validation, a mistyped key before the one it leaves out."""
    return sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")


def _key(problem: dict[str, Any]) -> tuple[Any, ...]:
    return problem["loc"], problem["type"], problem["msg"]


def _sets(override: str, problem: dict[str, Any], is_of_file: bool) -> bool:
    """Whether a problem is with the value that an override has set, with a part of it, or with a section that is
    unknown and that it has made."""
    key, location = override.partition("=")[0].split("."), _location(problem)
    made = problem["type"] == "extra_forbidden" and not is_of_file and key[: len(location)] == location
    return made or location[: len(key)] == key


def _location(problem: dict[str, Any]) -> list[str]:
    # Alternatives of a union appear in `loc` behind the key; they say nothing to a reader.
    return [str(part) for part in problem["loc"] if not _is_type_name(part)]


def _describe(problem: dict[str, Any], kind: type[BaseModel]) -> str:
    location = _location(problem)
    if problem["type"] == "extra_forbidden":  # whatever its name is
        location = [*_location({**problem, "loc": problem["loc"][:-1]}), str(problem["loc"][-1])]
    key, value = ".".join(location), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'{did_you_mean(location[-1], _known_keys(kind, location[:-1]))}"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    if problem["type"] == "model_type":
        return f"{key}: should be keys and values, not {value!r}"
    if isinstance(value, str) and _is_exponent(value):
        return f"{key}: YAML reads '{value}' as text; write {_with_point(value)}"
    if isinstance(value, bool) and problem["type"] == "string_type":
        return f"{key}: YAML reads yes, no, on and off as true or false; put the word in quotes"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key}: {message}, not {value!r}" if problem["type"] != "value_error" else f"{key}: {message}".lstrip(": ")


def _is_type_name(part: Any) -> bool:
    names = ("int", "float", "bool", "str", "none")
    return isinstance(part, str) and (part in names or "[" in part)  # list[str], function-after[...]


def _with_point(number: str) -> str:
    mantissa, exponent = re.split("[eE]", number)
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"


def _known_keys(section: type[BaseModel], location: Sequence[str]) -> Iterator[str]:
    for part in location:
        if part in section.model_fields:
            section = next(_sections_in(section.model_fields[part].annotation), section)
    yield from section.model_fields


def _sections_in(kind: Any) -> Iterator[type[BaseModel]]:
    """A section, or those that a union, a list or a mapping may hold."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in getattr(kind, "__args__", ()):
        yield from _sections_in(inner)
