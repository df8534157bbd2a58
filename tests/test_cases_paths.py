"""`~` in every key and every option that is a path; a file is what is in it, not how it is spelled."""

from pathlib import Path

import pytest

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.errors import CommandParser
from megamini.recipes.options import options
from megamini.recipes.recipe import Recipe

# Every key whose value is a path, as docs/options.md has it.
PATHS = {
    Recipe: {"model.from_checkpoint", "data.path", "data.measured", "training.runs"},
    AdaptationRecipe: {
        "adaptation.source", "adaptation.primary", "adaptation.lexicon", "adaptation.parallel", "adaptation.pack",
        "data.path", "data.source", "training.runs",
    },
    FinetuneRecipe: {"model.primary", "tasks.NAME.path", "tasks.NAME.dataset", "tasks.NAME.further", "training.runs"},
    EvaluateRecipe: {
        "model.finetuned", "model.primary", "packs", "tasks.NAME.path", "tasks.NAME.dataset", "tasks.NAME.models",
        "tasks.NAME.word_lists", "measures.bits_per_byte.data", "measures.bits_per_byte.text",
        "measures.retrieval.files", "evaluation.runs",
    },
}  # fmt: skip
# What speaks of files and folders and is no path of the user's: patterns inside `path`, rules, names.
OTHERS = {"name", "data.weights", "tasks.NAME.files", "checkpoint.resume", "training.profile"}


def paths_in(section, prefix: str = ""):
    """The keys of a recipe whose type is that of paths."""
    for name, info in section.model_fields.items():
        kinds = (info.annotation, *getattr(info.annotation, "__args__", ()))
        inner = next((kind for kind in kinds if isinstance(kind, type) and hasattr(kind, "model_fields")), None)
        if inner is not None:
            named = "NAME." if getattr(info.annotation, "__origin__", None) is dict else ""
            yield from paths_in(inner, f"{prefix}{name}.{named}")
        elif "expanduser" in f"{info.annotation!r} {info.metadata!r}":
            yield f"{prefix}{name}"


@pytest.mark.parametrize("kind", PATHS)
def test_cases_every_path_has_the_type_of_paths(kind) -> None:
    assert set(paths_in(kind)) == PATHS[kind]
    named = {
        key for key, _, meaning in options(kind) if any(word in meaning.lower() for word in ("folder", "director"))
    }
    assert named - OTHERS <= PATHS[kind], "a key that speaks of folders: is it a path?"


def test_cases_the_home_folder_in_recipes(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe = EvaluateRecipe.model_validate({
        "name": "x",
        "model": {"finetuned": "~/tuned", "primary": "~/primary"},
        "packs": {"de": "~/packs/de-step-*"},
        "tasks": {"sib200": {"path": "~/sib200", "models": ["~/a", "b/~"], "reference_lines": True,
                             "word_lists": "~/{language}.tsv"}},
        "measures": {"bits_per_byte": {"data": {"de": "~/de"}}, "retrieval": {"files": "~/{language}.jsonl"}},
        "evaluation": {"runs": "~/runs"},
    })  # fmt: skip
    assert recipe.run_directory == Path("/home/me/runs/x")
    assert (recipe.packs["de"], recipe.tasks["sib200"].models) == ("/home/me/packs/de-step-*", ("/home/me/a", "b/~"))
    text = recipe.model_dump_json()
    assert text.count("~") == 1 and text.count("/home/me/") == 9


def test_cases_the_home_folder_in_options(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    parser = CommandParser("x")
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--text", nargs="+")
    parser.add_argument("--out", type=Path)
    read = parser.parse_intermixed_args(["~/r.yaml", "--out=~/o", "a.b=~/x", "--text", "~/p*.txt", "q~"])
    assert (read.recipe, read.out, read.text) == ("/home/me/r.yaml", Path("/home/me/o"), ["/home/me/p*.txt", "q~"])
    assert read.overrides == ["a.b=~/x"], "that is for the recipe, which knows what is a path"
