"""The comparison of four ways: its commands are valid recipes, texts that are withheld are, and its page tells all."""

import json
import shlex
from pathlib import Path

import pytest

from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.downstream.results import Result
from megamini.downstream.tasks.topics import is_test_page
from megamini.errors import UserError
from megamini.recipes.file import read_recipe
from tools.benchmarks.neighbours import split
from tools.benchmarks.neighbours.grid import Cell, cells_of, load_grid
from tools.benchmarks.neighbours.jobs import HERE, LEDGER, Jobs
from tools.benchmarks.neighbours.page import write_page
from tools.study.ledger import Ledgers

GRID = load_grid(HERE / "neighbours.yaml")
FACTS = {"primary": "0123456789abcdef", "settings": GRID.settings()}


def jobs(folder: Path, data: Path | None = Path("real")) -> Jobs:
    return Jobs(GRID, folder, Ledgers(folder / "out"), FACTS, data)


def test_every_command_of_a_recipe_is_valid_and_every_need_is_a_step(tmp_path: Path) -> None:
    steps = jobs(tmp_path).of(cells_of(GRID))
    names = [step.name for step in steps]
    kinds = {"finetune": FinetuneRecipe, "evaluate": EvaluateRecipe}
    read = dict.fromkeys((*kinds, "adapt"), 0)
    for number, step in enumerate(steps):
        assert set(step.needs) <= set(names[:number]), step.name  # what a step needs stands before it
        for command in step.commands:
            script = Path(command[1])
            assert script.is_file()
            if script.stem in kinds:
                read_recipe(command[2], command[3:], kinds[script.stem])
            elif script.stem == "adapt":
                recipe = load_adaptation_recipe(command[2], command[3:])
                assert recipe.adaptation.stop.flops == GRID.flops
                assert (recipe.adaptation.lexicon is not None) == recipe.name.startswith(("lexicon", "swapped-list"))
            read[script.stem] = read.get(script.stem, 0) + 1
    cells = cells_of(GRID)
    assert read["adapt"] == len(cells) and read["finetune"] == len(GRID.tasks)
    assert read["evaluate"] == len(cells) + sum(cell.is_beside_source for cell in cells)


def test_without_real_data_the_pages_are_left(tmp_path: Path) -> None:
    commands = [shlex.join(command) for step in jobs(tmp_path, None).of(cells_of(GRID)) for command in step.commands]
    assert any("tasks.libreoffice" in command for command in commands)
    assert not any("ud_pos" in command or "sib200" in command for command in commands)


def test_withheld_pages_are_the_test_pages_and_few_sentences_are_few(tmp_path: Path, monkeypatch) -> None:
    pages = [
        {"id": f"swriter/{n}.html", "text": f"One {n}. Two {n}. Three {n}.", "label": "swriter"} for n in range(40)
    ]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    monkeypatch.setattr(
        "sys.argv",
        ["split.py", "--pages", str(tmp_path / "pages.jsonl"), "--sentences", "10", "--out", str(tmp_path / "xx")],
    )
    split.main()
    parts = {
        name: [json.loads(line) for line in (tmp_path / f"xx.{name}.jsonl").read_text().splitlines()]
        for name in ("all", "few", "held-out")
    }
    assert len(parts["all"]) + len(parts["held-out"]) == 40
    assert all(is_test_page(page["id"]) for page in parts["held-out"])
    assert not any(is_test_page(page["id"]) for page in parts["all"])
    assert {page["id"] for page in parts["few"]} <= {page["id"] for page in parts["all"]}
    assert sum(page["text"].count(".") for page in parts["few"]) == 10


def test_a_grid_that_learns_from_no_text_without_a_word_list_is_refused(tmp_path: Path) -> None:
    text = (HERE / "neighbours.yaml").read_text()
    (tmp_path / "grid.yaml").write_text(text.replace("text: none, ways: [lexicon]", "text: none, ways: [swapped]"))
    with pytest.raises(UserError, match="without text only the way 'lexicon' is left"):
        load_grid(tmp_path / "grid.yaml")


def ledger(cell: Cell, results: list[Result]) -> str:
    values = {
        "name": cell.name,
        "facts": {"way": cell.way, "text": cell.text, "language": cell.language, **FACTS},
        "made_with": {"commit": "abc", "hardware": "a processor", "versions": {"torch": "2"}},
        "recipe": {},
        "ledger": {"flops": 4e12, "updates": 700, "seconds": 60.0},
        "metrics": [],
        "results": [result.entry() for result in results],
    }
    return json.dumps(values) + "\n"


def pages_of(values: dict[tuple[str, str | None], list[float]]) -> list[Result]:
    return [
        Result("libreoffice", language, "accuracy", {"accuracy": value}, 300, f"m{seed}", pack, seed)
        for (language, pack), of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]


def bits(language: str, pack: str | None, model: str, value: float) -> Result:
    return Result("bits_per_byte", language, "bits_per_byte", {"bits_per_byte": value}, 9, model, pack)


def test_the_page_has_both_languages_differences_and_what_is_missing(tmp_path: Path) -> None:
    swapped = pages_of({("de", "start"): [0.5, 0.6], ("de", "end"): [0.6, 0.7]})
    beside = pages_of({("en", None): [0.8, 0.8], ("en", "end"): [0.8, 0.8], ("de", "start"): [0.1, 0.1]})
    beside += pages_of({("de", "end"): [0.61, 0.73]})
    beside += [bits("en", None, "models/primary", 1.25), bits("en", None, "models/extension-all-de", 1.26)]
    (tmp_path / f"{LEDGER}.jsonl").write_text(
        ledger(Cell("swapped", "all", "de"), [*swapped, bits("de", "end", "models/primary", 1.5)])
        + ledger(Cell("extension", "all", "de"), beside)
    )
    write_page(GRID, Ledgers(tmp_path).read(), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| all | swapped pack | 700 | 55.0 ± 7.1 → 65.0 ± 7.1 | 1.500 |  |  |" in page
    assert "|  | before |  |  |  | 80.0 ± 0.0 | 1.250 |" in page
    assert "| all | extension | 700 | 10.0 ± 0.0 → 67.0 ± 8.5 |  | 80.0 ± 0.0 | 1.260 |" in page
    # Paired: +1 and +3, whose mean has a deviation of 1; t(1, 97.5%) = 12.7.
    assert "| extension, less the swapped pack | de | libreoffice | +2.0 ± 12.7 |" in page
    assert "* swapped-all-de: without ud_pos" in page and "* replacement-all-de: not run" in page
