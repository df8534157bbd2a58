"""The study's machinery: what depends on what, what is kept, and how seeds are pooled."""

import itertools
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from megamini.commands.reporting.quality import Curve, curves
from megamini.commands.reporting.runs import RunRecord
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.downstream.results import Learned, Mean, Result, means
from megamini.errors import UserError
from megamini.recipes.file import read_recipe
from tools.study.grid import Cell, cells_of, load_study
from tools.study.ledger import Ledger, Ledgers
from tools.study.pages import write_pages
from tools.study.pooling import MEAN, pooled, with_mean
from tools.study.sections import amortised, spent_once, summary
from tools.study.speeds import speeds_on
from tools.study.steps import Steps
from tools.study.workers import Step, run_steps

LEDGER = ("flops", "tokens", "updates", "seconds", "ranks", "device")
SMALL = """
text: {sources: [debian-handbook], source_language: en, vocab_size: 4000, block_length: 64}
tasks:
  libreoffice: {path: text, evaluate: [tasks.libreoffice.reference_lines=true]}
  ud_pos: {path: "{data}/ud_pos", languages: [de], finetune: [tasks.ud_pos.limit=300]}
primaries:
  joint: {exits: [2]}
  plain: {changes: [objective.method=mlm, "model.exits=[]"]}
  bridge: {recipe: bridge, after: plain, tasks: false}
series:
  standard: {primary: joint, source: joint, method: standard, start: overlap, about: all}
  mini: {primary: joint, source: joint-exit-2, method: mini, start: overlap, about: two}
  then: {primary: joint, source: joint, method: standard, start: overlap, after: mini, about: curriculum}
  post: {primary: plain, source: bridge, method: mini, start: overlap, about: bridged}
  words: {primary: joint, source: joint-exit-2, method: mini, start: words, word_list: true, about: with a word list}
  both: {primary: joint, source: joint, method: standard, start: both, word_list: true, parallel: 500, about: both}
reference: standard
cells:
  - {series: [then, post], languages: [de], seeds: [0, 1]}
  - {series: [words], languages: [it, de], seeds: [0]}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(SMALL)
    return load_study(tmp_path / "study.yaml")


def test_a_curriculum_brings_what_it_goes_on_from(study):
    assert [cell.name for cell in cells_of(study)] == [
        "mini-de-s0", "then-de-s0", "post-de-s0", "mini-de-s1", "then-de-s1", "post-de-s1",
        "words-it-s0", "words-de-s0",
    ]  # fmt: skip


@pytest.mark.parametrize("series, once", [("standard", 0), ("mini", 30), ("then", 30), ("post", 5)])
def test_what_is_spent_once_is_that_of_all_stages(series, once, study):
    assert spent_once(series, study, {"joint": 130.0, "plain": 100.0, "bridge": 5.0}) == once


def test_what_exits_cost_is_not_known_without_a_plain_primary_model(study):
    assert spent_once("then", study, {"joint": 130.0}) is None


def ledgers_with(folder, *kept):
    """Ledgers of cells or primary models with the tasks that were measured of them."""
    folder.mkdir(exist_ok=True)
    values = {"made_with": {}, "recipe": {}, "ledger": {}, "metrics": []}
    for file, name, tasks in kept:
        facts = {"primary": name} if file == "primaries" else {"series": file, "language": "de", "seed": 0}
        results = [Result(task, "de", "accuracy", {"accuracy": 0.5}, 9, "m").entry() for task in tasks]
        with (folder / f"{file}.jsonl").open("a") as out:
            out.write(json.dumps({"name": name, "facts": facts, **values, "results": results}) + "\n")
    return Ledgers(folder)


def test_steps_are_those_that_open_cells_need(study, tmp_path):
    post = [cell for cell in cells_of(study) if cell.series == "post" and cell.seed == 0]
    names = [step.name for step in Steps(study, tmp_path, Ledgers(tmp_path / "none"), None, 2).of(post)]
    assert names == [
        "text-en", "text-de", "data-en", "data-de", "pretrain-plain", "tasks-plain-libreoffice", "pretrain-bridge",
        "learn-post-de-s0", "post-de-s0",
    ]  # fmt: skip
    kept = ledgers_with(
        tmp_path / "kept", ("post", "post-de-s0", ["libreoffice"]), ("mini", "mini-de-s0", ["libreoffice"])
    )
    steps = Steps(study, tmp_path, kept, None, 2)
    assert steps.of(post) == [], "what has a ledger needs nothing"
    by_name = {step.name: step for step in steps.of([cell for cell in cells_of(study) if cell.series == "then"])}
    assert "mini-de-s0" not in by_name, "measured already"
    assert "learn-mini-de-s0" in by_name["learn-then-de-s0"].needs
    assert "adaptation.pack=runs/mini-de-s0/packs/de" in by_name["learn-then-de-s0"].commands[0]
    for step in by_name.values():
        assert set(step.needs) <= by_name.keys()


def test_a_task_whose_data_come_later_is_added_to_what_is_measured(study, tmp_path):
    """Real evaluation data may not be at hand; a task that is missing in a ledger is measured beside the others."""
    kept = ledgers_with(tmp_path / "kept", ("post", "post-de-s0", ["libreoffice"]))
    post = [cell for cell in cells_of(study) if cell.series == "post" and cell.seed == 0]
    without, beside = (Steps(study, tmp_path, kept, data, 2) for data in (None, tmp_path / "data"))
    assert without.left_out == ["ud_pos"] and without.of(post) == []
    by_name = {step.name: step for step in beside.of(post)}
    assert beside.left_out == [] and {"tasks-plain-ud_pos", "tasks-plain-libreoffice"} <= by_name.keys()
    finetune, evaluate = by_name["tasks-plain-ud_pos"].commands
    assert f"tasks.ud_pos.path={tmp_path}/data/ud_pos" in finetune and "tasks.ud_pos.limit=300" in finetune
    assert "tasks.ud_pos.models=[runs/tasks-plain-ud_pos/ud_pos]" in evaluate
    for command, kind in ((finetune, FinetuneRecipe), (evaluate, EvaluateRecipe)):
        assert list(read_recipe(command[2], command[3:], kind).tasks) == ["ud_pos"], "no other task beside it"
    assert by_name["post-de-s0"].needs == ["learn-post-de-s0", "tasks-plain-libreoffice", "tasks-plain-ud_pos"]
    [italian] = [cell for cell in cells_of(study) if cell.language == "it"]
    assert "words-it-s0" in {step.name for step in beside.of([italian])}
    assert not any("ud_pos" in part for part in beside.of([italian])[-1].commands[0]), "no treebank of that language"


def test_a_run_that_was_stopped_is_not_exported(study, tmp_path):
    """Stopped by a signal it ends with 0; only a checkpoint of its last update is made a model of."""
    post = [cell for cell in cells_of(study) if cell.series == "post"]
    by_name = {step.name: step for step in Steps(study, tmp_path, Ledgers(tmp_path), None, 2).of(post)}
    for name, last in (("plain", "step-00004000"), ("bridge", "step-00001000")):
        pretrain, *exports = by_name[f"pretrain-{name}"].commands
        assert f"name=pretrain-{name}" in pretrain
        assert [command[2] for command in exports] == [f"runs/pretrain-{name}/checkpoints/{last}"]


def test_a_step_that_ends_well_and_has_made_nothing_has_failed(tmp_path):
    stopped = Step("stopped", [[sys.executable, "-c", "1"]], lambda: False)
    with pytest.raises(UserError, match=r"stopped: see .*stopped.log"):
        run_steps([stopped, touch(tmp_path, "behind", ["stopped"])], tmp_path, 1)
    assert not (tmp_path / "behind").exists()


def test_what_is_kept_of_another_run_is_not_added_to(tmp_path):
    """Weights made anew are not those that a ledger's cells were measured with."""

    def run(name: str, loss: float) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text("name: x\n")
        (folder / "compute.json").write_text(json.dumps(dict.fromkeys(LEDGER, 1)))
        lines = [{"update": 2, "validation/loss_en": 3.0}, {"update": 4, "validation/loss_en": loss, "train/lr": 0.5}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    ledgers = Ledgers(tmp_path / "ledgers")
    keep = partial(ledgers.keep, "primaries", "joint", {"primary": "joint"})
    keep(run("first", 2.123456789), [])
    keep(tmp_path / "first", [])
    [kept] = ledgers.read()
    assert kept.run.validations[-1] == {"update": 4, "validation/loss_en": 2.12346}
    with pytest.raises(UserError, match=r"primaries.jsonl: joint: was kept of another run than .*--ledgers"):
        keep(run("second", 2.2), [])


def test_word_lists_are_fetched_at_once_and_handed_over(study, tmp_path):
    cells = [cell for cell in cells_of(study) if cell.series == "words"]
    by_name = {step.name: step for step in Steps(study, tmp_path, Ledgers(tmp_path), None, 2).of(cells)}
    fetches = [name for name in by_name if name.startswith(("text", "words-it-", "words-de-")) or name[:-2] == "words-"]
    assert fetches[:5] == ["text-en", "text-it", "text-de", "words-it", "words-de"]
    for before, name in itertools.pairwise(fetches[:5]):
        assert by_name[name].needs == [before], "one fetch at a time writes to the folder"
    for language in ("it", "de"):
        assert by_name[f"words-{language}"].commands[0][2:5] == ["freedict", "--languages", language]
        learn = by_name[f"learn-words-{language}-s0"]
        assert f"adaptation.lexicon=text/freedict.{language}.tsv" in learn.commands[0]
        assert f"words-{language}" in learn.needs
        evaluate = by_name[f"words-{language}-s0"].commands[0]
        assert "tasks.libreoffice.word_lists=text/freedict.{language}.tsv" in evaluate


def test_parallel_text_is_made_of_pages_and_handed_over(study, tmp_path):
    cells = [Cell("both", "it", 0)]
    by_name = {step.name: step for step in Steps(study, tmp_path, Ledgers(tmp_path), None, 2).of(cells)}
    made, learn = by_name["parallel-500-it"], by_name["learn-both-it-s0"]
    pages = ["text/debian-handbook.it.jsonl", "text/debian-handbook.en.jsonl"]
    assert made.commands[0][2:] == [*pages, "--lines", "500", "--out", "text/parallel-500-it"]
    assert made.needs == ["text-it", "text-en"] and "parallel-500-it" in learn.needs
    files = "text/parallel-500-it.it.txt, text/parallel-500-it.en.txt"
    assert f"adaptation.parallel=[{files}]" in learn.commands[0]
    assert "adaptation.lexicon=text/freedict.it.tsv" in learn.commands[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("source: joint-exit-2", "source: jiont-exit-2"), "no primary 'jiont'"),
        (("after: mini", "after: mimi"), "no series 'mimi'"),
        (("series: [then, post]", "series: [them]"), "no series 'them'"),
        (("method: mini, start", "methud: mini, start"), "unknown key 'series.mini.methud'"),
    ],
)
def test_a_broken_study_is_named(change, words, tmp_path):
    (tmp_path / "study.yaml").write_text(SMALL.replace(*change))
    with pytest.raises(UserError, match=words):
        load_study(tmp_path / "study.yaml")


def touch(folder, name, needs=(), fails=False, **more):
    code = f"import sys, pathlib; pathlib.Path({name!r}).write_text('x'); sys.exit({int(fails)})"
    return Step(name, [[sys.executable, "-c", code]], (folder / name).exists, needs, **more)


def test_a_step_that_would_wait_for_ever_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no step text, which others wait for"):
        run_steps([Step("data", [[sys.executable, "-c", "1"]], lambda: False, ["text"])], tmp_path, 1)


def test_steps_run_in_order_and_failures_stop_only_what_needs_them(tmp_path):
    kept = []
    steps = [
        touch(tmp_path, "first", then=lambda: kept.append("first")),
        touch(tmp_path, "bad", fails=True, then=lambda: kept.append("bad")),
        touch(tmp_path, "behind-bad", ["bad"]),
        touch(tmp_path, "behind-that", ["behind-bad"]),
        touch(tmp_path, "second", ["first"], whole=True, then=lambda: kept.append("second")),
    ]
    with pytest.raises(UserError, match=r"bad: see .*logs/bad.log") as raised:
        run_steps(steps, tmp_path, jobs=2)
    assert "mend it and run again" in str(raised.value)
    assert kept == ["first", "second"]
    assert not (tmp_path / "behind-bad").exists()
    assert not (tmp_path / "behind-that").exists()


def cell(series, seed, accuracies, flops, language="de"):
    """Accuracy of two fine-tuned models at each number of updates; `flops` an update."""
    method = "standard" if series == "standard" else "mini"
    found = [
        Result("libreoffice", language, "accuracy", {"accuracy": value + shift}, 380, "m",
               f"{series}/{language}-step-{updates}", model, "test",
               Learned(series, method, updates, updates, updates * flops, updates))
        for updates, value in accuracies.items()
        for model, shift in ((0, -0.01), (1, 0.01))
    ]  # fmt: skip
    facts = {"series": series, "language": language, "seed": seed}
    return Ledger(f"{series}-{language}-s{seed}", facts, RunRecord(Path("x"), {}, {}, []), found, {})


def test_seeds_are_pooled_and_a_curriculum_begins_with_what_it_goes_on_from(study):
    ledgers = [
        cell("standard", 0, {0: 0.2, 10: 0.6}, 100.0),
        cell("mini", 0, {0: 0.2, 10: 0.5}, 10.0),
        cell("mini", 1, {0: 0.2, 10: 0.4}, 10.0),
        cell("then", 0, {10: 0.5, 11: 0.6}, 20.0),
        cell("then", 1, {10: 0.4, 11: 0.62}, 20.0),
    ]
    record = pooled(study, ledgers)
    ends = {mean.learned.series: mean for mean in means(record.results) if mean.learned.updates >= 10}
    assert ends["mini"].mean == pytest.approx(0.45)
    assert ends["mini"].seeds == 4
    (then,) = [curve for curve in curves([record]) if curve.series == "then"]
    assert [point.learned.updates for point in then.points] == [0, 10, 11]
    assert then.points[-1].mean == pytest.approx(0.61)
    [speeds] = speeds_on("libreoffice", record.results, study, rounds=100)
    assert str(speeds.found["de", "mini", 0.9, "flops"]) == "- (0%)"
    then = speeds.found["de", "then", 0.9, "flops"]
    # Standard needs 9 updates of 100 for 90% of its gain; the curriculum reaches it between its 10th and 11th.
    assert then.low <= then.value <= then.high and then.value > 1
    assert then.reaching == 1.0


def test_the_summary_is_of_the_mean_of_languages(study):
    ledgers = [
        cell(series, 0, accuracies, flops, language)
        for language in ("de", "it")
        for series, accuracies, flops in (
            ("standard", {0: 0.2, 10: 0.6}, 100.0),
            ("mini", {0: 0.2, 10: 0.7}, 10.0),
            ("post", {0: 0.2, 10: 0.3}, 10.0),
        )
    ]
    record = pooled(study, [*ledgers, cell("words", 0, {0: 0.5, 10: 0.7}, 10.0)])
    [speeds] = speeds_on("libreoffice", record.results, study, rounds=100)
    assert speeds.languages("words") == ["de"], "one language has no average"
    assert speeds.languages("post") == [], "of another primary model, nothing is compared"
    # Standard is there after 9.5 updates of 100; the mini-model after 7.6 of 10, of which only the 10th was looked at.
    assert speeds.cell("mini", "de", 0.95, "seconds").startswith("**≥ 0.95** [")
    lines = summary(record, [speeds], study).splitlines()
    assert lines[0] == "**libreoffice**"
    rows = {line.split(" | ")[0].removeprefix("| "): line.strip(" |").split(" | ")[2:] for line in lines[4:]}
    assert rows["standard"][:4] == ["de it", "1", "20.0", "60.0"] and "words" not in rows
    assert rows["mini"][:4] == ["de it", "1", "20.0", "70.0"] and rows["mini"][4].startswith("**≥ 9.5** [")
    assert rows["mini"][5:] == ["100%", "same"]
    assert rows["post"][:4] == ["de it", "1", "20.0", "30.0"] and not any(cell.strip() for cell in rows["post"][4:])


def test_a_row_of_one_language_is_written_up_too(study):
    """What the second command of the page gives."""
    ledgers = [
        cell("standard", 0, {0: 0.2, 10: 0.6, 20: 0.6}, 100.0),
        cell("mini", 0, {0: 0.2, 10: 0.4, 20: 0.6}, 10.0),
    ]
    record = pooled(study, ledgers)
    [speeds] = speeds_on("libreoffice", record.results, study, rounds=100)
    assert speeds.overall == "de" and MEAN not in speeds.languages("mini")
    row = summary(record, [speeds], study).splitlines()[-1].strip(" |").split(" | ")
    # Standard is there after 9.5 updates of 100, the mini-model after 19 of 10.
    assert row[2:6] == ["de", "1", "20.0", "60.0"] and row[6].startswith("**5** [") and row[8] == "same"
    rows = [line.split(" | ") for line in amortised([], [speeds], study).splitlines()[2:]]
    assert [(row[0].strip("| "), row[1]) for row in rows] == [("standard", "1e+03"), ("mini", "190")]
    assert amortised([], [], study) == "`standard` was not measured."


def test_a_curriculum_has_the_tasks_of_all_its_stages(study):
    first, last = cell("mini", 0, {0: 0.2, 10: 0.5}, 10.0), cell("then", 0, {11: 0.6}, 20.0)
    tags = replace(last, results=[replace(result, task="ud_pos") for result in last.results])
    assert {result.task for result in pooled(study, [first, last, tags]).results} == {"libreoffice"}
    both = replace(first, results=[replace(result, task="ud_pos") for result in first.results])
    record = pooled(study, [first, last, tags, both])
    ends = {(one.task, one.series): [p.learned.updates for p in one.points] for one in curves([record])}
    assert ends["ud_pos", "then"] == ends["libreoffice", "then"] == [0, 10, 11]


def test_the_mean_of_languages_is_one_more_language():
    def curve(language, series, method, accuracies, flops):
        points = tuple(
            Mean("t", language, None, "accuracy", value, None, 1, 100, Learned(series, method, u, u, u * flops, u))
            for u, value in accuracies.items()
        )
        return Curve("t", language, "accuracy", series, method, points)

    of = [
        curve("de", "standard", "standard", {0: 0.2, 10: 0.6}, 100.0),
        curve("it", "standard", "standard", {0: 0.4, 10: 0.6}, 100.0),
        curve("de", "mini", "mini", {0: 0.2, 10: 0.5, 20: 0.5}, 10.0),
        curve("it", "mini", "mini", {0: 0.4, 10: 0.7}, 10.0),
        curve("de", "alone", "mini", {0: 0.2, 10: 0.6}, 10.0),
    ]
    means = {one.series: one for one in with_mean(of, "standard") if one.language == MEAN}
    assert means.keys() == {"standard", "mini"}, "a series without all languages has no mean"
    assert [point.mean for point in means["mini"].points] == pytest.approx([0.3, 0.6])


def test_torn_ledgers_are_named(tmp_path):
    (tmp_path / "mini.jsonl").write_text('{"name": "mini-de-s0"')
    with pytest.raises(UserError, match=r"mini.jsonl: line 1: not a ledger of the study"):
        Ledgers(tmp_path).read()


def test_the_pages_are_written_from_ledgers_alone(study, tmp_path):
    record = RunRecord(Path("joint"), {}, {"flops": 1.0, "seconds": 60.0, "ranks": 1, "updates": 1, "tokens": 1}, [])
    losses = {"update": 1, "validation/loss_primary": 4.0, "validation/loss_unigram": 6.0}
    made_with = {"hardware": "one", "versions": {}, "commit": "c"}
    scores = [
        Result("libreoffice", "en", "accuracy", {"accuracy": 0.8 + seed / 100}, 9, "m", None, seed) for seed in (0, 2)
    ]
    joint = Ledger("joint", {"primary": "joint"}, replace(record, metrics=[losses]), scores, made_with)
    cells = [
        replace(cell(series, 0, accuracies, flops, language), run=record, made_with=made_with)
        for language in ("de", "it")
        for series, accuracies, flops in (
            ("standard", {0: 0.2, 10: 0.6, 20: 0.6}, 100.0),
            ("mini", {0: 0.2, 10: 0.4, 20: 0.6}, 10.0),
        )
    ]
    write_pages(study, [joint, *cells], tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "<!--" not in page and len(page.splitlines()) <= 200
    # Standard is there after 9.5 updates of 100, the mini-model after 19 of 10, in both languages.
    assert "| mini | two | **5** [" in page and "| joint | 81.0 ± 1.4 |" in page
    assert "| libreoffice | it |  |  | 20.0 | 60.0 ± 1.4 | 60.0 ± 1.4 |" in page
    details = (tmp_path / "DETAILS.md").read_text()
    assert (
        "## Compute to reach standard's best: libreoffice" in details and (tmp_path / "plots/libreoffice.png").is_file()
    )
