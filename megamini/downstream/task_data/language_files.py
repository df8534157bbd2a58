"""Files and folders whose names hold a language: found under any code of the language, through links as well."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from os.path import realpath
from pathlib import Path

from megamini.errors import UserError
from megamini.languages.codes import closest, is_code

LANGUAGE = "{language}"
# What a name may hold as a code, the longest first: zh-Hans-CN, zh-Hans, pt_BR, de.
_CODES = tuple(
    rf"[A-Za-z]{{2,3}}{rest}"
    for rest in (r"[-_][A-Za-z]{4}[-_](?:[A-Za-z]{2}|\d{3})", "[-_][A-Za-z]{4}", r"[-_](?:[A-Za-z]{2}|\d{3})", "")
)
_GLOB = re.compile(r"\{language\}|\[!?\]?[^\]]*\]|\*+|\?|.", re.DOTALL)
_WILD = ("*", "?", "[")


def find_paths(folder: Path, pattern: str, language: str, known: Iterable[str] = ()) -> dict[str, list[Path]]:
    """Language -> the paths, sorted, that `pattern` stands for: a glob relative to `folder` with {language} in it; a
    registered code holds its place, or `language` as it is written, or one of `known`, where these are given.

    Without {language} in it, all paths are those of `language`. A file that several links lead to comes once.
    """
    found: dict[str, dict[Path, Path]] = {}
    for path, code in _expand(folder, Path(pattern).parts, None, language, tuple(known)):
        found.setdefault(code or language, {}).setdefault(Path(realpath(path)), path)
    return {code: sorted(paths.values()) for code, paths in found.items()}


def path_in(pattern: str, language: str) -> Path:
    """The one path of a language that `pattern` stands for: that very name, else the one of the closest code. Where
    there is none, the name that was looked for. Raises UserError where several codes are as close."""
    path = Path(pattern.replace(LANGUAGE, language))
    if path.exists() or LANGUAGE not in pattern:
        return path
    whole = Path(pattern)
    paths = find_paths(Path(whole.anchor), str(whole.relative_to(whole.anchor)), language)
    code = closest(language, paths, pattern)
    return paths[code][0] if code else path


def codes_in(pattern: str, names: Iterable[str], language: str, known: Sequence[str] = ()) -> dict[str, str]:
    """Language -> the one of `names` that is `pattern` with that language in it."""
    return {code: name for name in names if (code := _code_in(pattern, name, language, tuple(known)))}


def _expand(
    at: Path, parts: Sequence[str], code: str | None, language: str, known: tuple[str, ...]
) -> Iterator[tuple[Path, str | None]]:
    """All paths below `at` that the parts of a pattern stand for, and the language in them."""
    if not parts:
        yield at, code
        return
    part, *rest = parts
    if part == "**":
        for folder in _folders(at, set()):
            yield from _expand(folder, rest, code, language, known)
        return
    if code is not None:
        part = part.replace(LANGUAGE, code)
    if LANGUAGE not in part and (at / part).exists():  # also a folder with brackets in its name
        yield from _expand(at / part, rest, code, language, known)
        return
    if not (LANGUAGE in part or any(mark in part for mark in _WILD)):
        return
    for entry in _entries(at):
        if LANGUAGE not in part:
            if _regex(part, "").fullmatch(entry.name):
                yield from _expand(entry, rest, code, language, known)
        elif own := _code_in(part, entry.name, language, known):
            yield from _expand(entry, rest, own, language, known)


def _code_in(part: str, name: str, language: str, known: tuple[str, ...]) -> str | None:
    forms = ["|".join(map(re.escape, known))] if known else [*_CODES, re.escape(language)]
    for form in forms:
        found = _regex(part, form).fullmatch(name)
        if found and (known or found["language"] == language or is_code(found["language"])):
            return found["language"]
    return None


@cache
def _regex(part: str, code: str) -> re.Pattern[str]:
    """A part of a glob as a regular expression, with the group `language` for a code of that form."""
    marks = _GLOB.findall(part)
    regex = ""
    for number, mark in enumerate(marks):
        if mark == LANGUAGE and "(?P<language>" in regex:
            regex += "(?P=language)"
        elif mark == LANGUAGE:
            # Beside a wildcard a code is a word of its own: `train-{language}*` is not train-small of "sma".
            before, after = marks[number - 1 : number], marks[number + 1 : number + 2]
            regex += "(?<![A-Za-z])" * any(one.startswith(_WILD) for one in before)
            regex += f"(?P<language>{code})" + "(?![A-Za-z])" * any(one.startswith(_WILD) for one in after)
        elif mark.startswith("*"):
            regex += ".*"
        elif mark == "?":
            regex += "."
        elif len(mark) > 1:
            regex += ("[^" if mark[1] == "!" else "[") + mark.lstrip("[!").replace("\\", r"\\")
        else:
            regex += re.escape(mark)
    return re.compile(regex, re.DOTALL)


def _folders(at: Path, seen: set[Path]) -> Iterator[Path]:
    """`at` and all folders below it, each once, however links lead to it."""
    # `realpath` and not `resolve`, which raises on a link to itself.
    if at.is_dir() and (real := Path(realpath(at))) not in seen:
        seen.add(real)
        yield at
        for entry in _entries(at):
            yield from _folders(entry, seen)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        if folder.is_dir():
            raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
        return []
