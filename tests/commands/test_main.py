"""The command `megamini`: what it starts, how it refuses, and that its package names all that the code imports."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megamini.commands import main as command
from megamini.recipes import shipped
from megamini.recipes.file import read_recipe
from megamini.recipes.recipe import Recipe

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
NEEDED = [Requirement(one) for part in (PROJECT["dependencies"], *EXTRAS) for one in part]
# Imported as -> installed as.
PACKAGES = {"yaml": "pyyaml", "sklearn": "scikit-learn"}
# Used where they are installed, and not needed; packaging comes with several.
OPTIONAL = {"deepfocus", "fasttext", "packaging", "liger_kernel", "triton", "peft", "lm_eval", "setuptools"}


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["megamini", *arguments])
    status = 0
    try:
        command.main()
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_every_script_has_its_subcommand():
    stubs = {path: path.read_text() for folder in ("launch", "tools") for path in (ROOT / folder).glob("*.py")}
    found = {path: re.search(r"from megamini\.commands\.(\w+)", text) for path, text in stubs.items()}
    started = {match[1].replace("_", "-"): path for path, match in found.items() if match}
    assert started.keys() == command.COMMANDS.keys()


@pytest.mark.parametrize("name", command.COMMANDS)
def test_a_subcommand_shows_its_own_help(name, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, name, "--help")
    assert status == 0
    assert out.startswith(f"usage: megamini {name} ")
    assert "launch/" not in out and "tools/" not in out
    assert set(re.findall(r"\bmegamini ([a-z-]+)", out)) <= set(command.COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_without_a_subcommand_it_lists_them(arguments, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0
    assert all(f"\n  {name} " in out for name in command.COMMANDS)


def test_what_is_none_is_one_line(monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "adpat", "x")
    assert (status, err) == (2, "error: megamini adpat: no such command; did you mean 'adapt'?\n")


def test_a_package_that_is_missing_is_one_line_that_names_its_extra(monkeypatch, capsys):
    missing = ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed.runtime")
    with mock.patch.object(command, "import_module", side_effect=missing):
        status, _, err = run(monkeypatch, capsys, "pretrain", "x.yaml")
    assert status == 2
    assert "needs the package deepspeed" in err and "[pretrain]" in err


def test_a_fault_of_ours_is_no_missing_package(monkeypatch, capsys):
    ours = ModuleNotFoundError("No module named 'megamini.gone'", name="megamini.gone")
    with mock.patch.object(command, "import_module", side_effect=ours), pytest.raises(ModuleNotFoundError):
        run(monkeypatch, capsys, "pretrain")


def test_recipes_that_come_along_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = read_recipe("quickstart/pretrain", [], Recipe)
    assert by_name == read_recipe("launch/recipes/quickstart/pretrain.yaml", [], Recipe)
    (tmp_path / "launch/recipes/quickstart").mkdir(parents=True)
    own = tmp_path / "launch/recipes/quickstart/pretrain.yaml"
    own.write_text("")
    assert shipped.find("launch/recipes/quickstart/pretrain.yaml").resolve() == own  # one's own comes first
    assert shipped.find("nothing.yaml") == Path("nothing.yaml")


def test_the_package_names_what_the_code_imports():
    names = {canonicalize_name(one.name) for one in NEEDED}
    for path in (ROOT / "megamini").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - OPTIONAL:
                assert top == "megamini" or canonicalize_name(PACKAGES.get(top, top)) in names, f"{path} imports {top}"


def test_its_ranges_hold_what_was_tested_together():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    tested = {canonicalize_name(name): pin for name, pin in pins.items()}
    outside = [str(one) for one in NEEDED if not one.specifier.contains(tested[canonicalize_name(one.name)])]
    assert outside == []


def test_the_library_is_imported_fast():
    """Nothing heavy until it is asked for; `dir` knows the names all the same."""
    code = "import sys, megamini; dir(megamini).index('plugged'); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there():
    import megamini

    assert all(getattr(megamini, name) is not None for name in megamini.__all__)
    with pytest.raises(AttributeError, match="no attribute 'plague'"):
        _ = megamini.plague
