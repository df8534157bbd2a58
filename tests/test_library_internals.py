"""Internals of libraries: all that are used are listed, all that are listed are there, and another version is said."""

import ast
from functools import cache
from pathlib import Path

import pytest

from megamini import library_internals
from megamini.errors import UserError
from megamini.library_internals import TESTED, USED, Internals, check_attributes, check_internals, say_where_untested

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "megamini").rglob("*.py"))
}
# Of the standard library: documented, or of argparse's parsers, which ours is one of.
STANDARD = {"_replace", "_option_string_actions"}


@cache
def own_names() -> set[str]:
    """Names that megamini's own code gives to functions, classes, variables and attributes."""
    found = set()
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                found.add(node.attr)
    return found


def foreign_names(tree: ast.AST) -> set[str]:
    """Private names of others that a file reads, sets or imports."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    private = {name for name in attributes | imported if name.startswith("_") and not name.startswith("__")}
    return private - own_names() - STANDARD


def listed(module: str) -> set[str]:
    """Names in what is listed for a module."""
    used = USED.get(module, ())
    parts = {name for one in used for part in one.parts for name in part.split(":")[1].split(".")}
    return parts | {mark for one in used for mark in one.marks}


@pytest.mark.parametrize("module", [name for name, tree in SOURCES.items() if foreign_names(tree)])
def test_every_private_name_of_a_library_is_listed(module):
    assert foreign_names(SOURCES[module]) <= listed(module)


@pytest.mark.parametrize("module", USED)
def test_a_module_with_internals_uses_and_checks_them(module):
    source = ast.unparse(SOURCES[module])
    assert "check_internals(__name__)" in source
    for one in USED[module]:
        assert all(name.split(".")[-1] in source for name in (*(part.split(":")[1] for part in one.parts), *one.marks))


def test_the_tested_versions_are_those_required():
    required = (ROOT / "requirements.txt").read_text().splitlines()
    assert {f"{library}=={versions[0]}" for library, versions in TESTED.items()} <= set(required)


def test_another_version_is_one_line_from_rank_0_and_once(monkeypatch, capsys):
    monkeypatch.setattr(library_internals, "_installed", lambda library: "9.9")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        say_where_untested.cache_clear()
        check_internals("megamini.models.materialise")
        check_internals("megamini.models.materialise")
        said = capsys.readouterr().err
        assert said.count("\n") == (2 if rank == "0" else 0)  # one for each of its two libraries
    assert "warning: torch 9.9 is installed" in said and "pip install torch==2.13.0" in said
    assert "tested with 5.23.0 and 5.24.0; " in said and "pip install transformers==5.23.0" in said
    say_where_untested.cache_clear()
    monkeypatch.setattr(library_internals, "_installed", lambda library: TESTED[library][-1])
    check_internals("megamini.models.materialise")
    assert capsys.readouterr().err == ""
    say_where_untested.cache_clear()


def test_a_part_that_is_gone_is_one_line(monkeypatch):
    for part in ("torch:_gone", "torch.gone:_part"):
        monkeypatch.setitem(USED, "here", (Internals("torch", (part,)),))
        with pytest.raises(UserError, match=r"torch 2.* lacks torch.*, which megamini uses; .*pip install torch=="):
            check_internals("here")
    with pytest.raises(UserError, match=r"lacks object\._moments, which megamini uses"):
        check_attributes("deepspeed", object(), ("__class__", "_moments"))


def test_a_library_that_is_not_there_is_not_asked_for(monkeypatch, capsys):
    monkeypatch.setitem(TESTED, "no-such-library", ("1.0",))
    say_where_untested("no-such-library")
    assert capsys.readouterr().err == ""
