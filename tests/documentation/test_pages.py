"""What README and docs/ tell a reader to type: each command is read by its own parser, and run where it can be."""

import importlib
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.commands.main import COMMANDS
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.errors import CommandParser
from megamini.recipes.file import read_recipe
from megamini.recipes.recipe import Recipe
from tests.documentation.blocks import BLOCKS, PAGES, ROOT
from tests.documentation.walk import Walk
from tools.study.ledger import Ledgers
from tools.study.overview import SHOWN as SHOWN_SERIES
from tools.study.overview import mean_curve

KINDS = {"pretrain": Recipe, "adapt": AdaptationRecipe, "finetune": FinetuneRecipe, "evaluate": EvaluateRecipe}
# Not ours, or not to be run by a test; their blocks say that they are not run, and why.
OTHERS = {"source", "export", "cp", "sbatch", "tensorboard", "pip", "lm_eval"}
README = ROOT / "README.md"
SHOWN = [(str(block), command) for block in BLOCKS if block.kind == "sh" for command in block.commands]


class _ParsedError(Exception):
    """Ends a command when its arguments are read."""


def arguments_of(script: Path, words: list[str]):
    """What the script's own parser makes of the words."""

    def parsed(parse):
        def stop(parser, *arguments):
            raise _ParsedError(parse(parser, *arguments))

        return stop

    module = importlib.import_module(".".join(script.relative_to(ROOT).with_suffix("").parts))
    with (
        mock.patch.object(sys, "argv", [script.name, *words]),
        mock.patch.object(CommandParser, "parse_args", parsed(CommandParser.parse_args)),
        mock.patch.object(CommandParser, "parse_intermixed_args", parsed(CommandParser.parse_intermixed_args)),
        pytest.raises(_ParsedError) as ended,
    ):
        module.main()
    return ended.value.args[0]


@pytest.mark.parametrize("where, words", SHOWN, ids=[f"{where}-{words[0]}" for where, words in SHOWN])
def test_every_command_is_one_that_there_is(where, words):
    while variable := re.fullmatch(r"[A-Z_]+=(.*)", words[0]):  # set for this command alone
        assert "/" not in variable[1] or (ROOT / variable[1]).exists(), variable[0]
        words = words[1:]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"make has no target {words[1]}"
        return
    if words[0] == "megamini":
        assert words[1] in {*COMMANDS, "--help"}
        return
    if words[0] in OTHERS:
        assert all((ROOT / word).exists() for word in words[1:] if word.startswith("launch/")), words
        return
    assert words[0] in ("python", "deepspeed", "torchrun"), f"{words[0]}: neither ours nor known to be somebody's"
    if words[1] == "-c":
        compile(words[2], where, "exec")
        return
    place = next(place for place, word in enumerate(words) if word.endswith(".py"))
    script, rest = ROOT / words[place], words[place + 1 :]
    arguments = arguments_of(script, rest)
    if script.stem in KINDS:
        read_recipe(arguments.recipe, arguments.overrides, KINDS[script.stem])


@pytest.fixture(scope="session")
def walk(tmp_path_factory) -> Walk:
    return Walk(tmp_path_factory.mktemp("walk"))


@pytest.mark.launched
@pytest.mark.timeout(900)
def test_what_the_readme_shows_runs(walk):
    for block in BLOCKS:
        if block.page == README and block.not_run is None:
            walk.run(block)


@pytest.mark.launched
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.stem == "python-api" else [pytest.mark.all_combinations], id=page.stem)
        for page in PAGES
        if page != README
    ],
)
def test_what_a_page_shows_runs(walk, page):
    """Behind the README, whose commands it builds on."""
    for block in BLOCKS:
        if block.page in (README, page) and block.not_run is None and (block.page == page or block.kind == "sh"):
            walk.run(block)


def test_the_readme_is_short_and_names_what_ci_runs():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    command = (ROOT / ".ci/run").read_text().splitlines()[-1].removeprefix("exec ")
    assert re.search(rf"^{command}\b", text, re.M), f"README.md: name {command}, which CI runs"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("README.md", "options.md", "plans.md")])
def test_a_page_has_its_point_in_its_first_lines(page):
    title, blank, *first = page.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ")
    assert blank == ""
    assert len(first[0]) > 20


def test_the_readmes_accuracies_are_those_of_the_figure():
    ledgers = Ledgers(ROOT / "tools/study/first").read()
    text = README.read_text(encoding="utf-8")
    for series in SHOWN_SERIES:
        assert f"{mean_curve(ledgers, series)[-1][1]:.1f}%" in text, series


def test_the_site_leads_to_every_page():
    def pages_in(nav) -> list[str]:
        inner = nav.values() if isinstance(nav, dict) else nav
        return [nav] if isinstance(nav, str) else [page for one in inner for page in pages_in(one)]

    named = pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert {str(page.relative_to(ROOT)) for page in PAGES} <= set(named)
    assert all((ROOT / name).is_file() for name in named)
