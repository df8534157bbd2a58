"""Plans: the page regenerates byte for byte, numbers by hand, the JSON is one that the launcher takes, bad input."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megamini.commands import plan
from megamini.commands.planning.clusters import GB, GPUS, Cluster, find_gpu
from megamini.commands.planning.memory_plan import Layout, bytes_of, deepspeed_json, layouts, smallest_that_fits
from megamini.commands.planning.subject import subject_of
from megamini.commands.planning.time_plan import break_even, communicated_bytes, times_of
from megamini.errors import UserError
from megamini.recipes.recipe import load_recipe
from megamini.training.engines.deepspeed_config import DEFAULT, check_combination, read_deepspeed_json
from tests.models import bodies

ROOT = Path(__file__).parents[2]
A100 = GPUS["a100-80gb"]


def subject(name: str = "base", vocab_size: int = 50_000, **overrides: object):
    """With AdamW, unless said otherwise."""
    overrides = {"optimizer__name": "adamw"} | overrides
    changes = [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
    return subject_of(load_recipe(ROOT / f"launch/recipes/{name}/minijoint.yaml", changes), vocab_size, 512)


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["tools/plan.py", *arguments])
    try:
        runpy.run_path(str(ROOT / "tools/plan.py"), run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_page_is_the_one_of_the_code():
    page = plan.page()
    assert page == (ROOT / "docs/plans.md").read_text(encoding="utf-8"), "run python tools/plan.py --page docs/plans.md"
    summary = page[page.index("| recipe") : page.index("\n\n## ")]
    assert summary in (ROOT / "docs/clusters.md").read_text(encoding="utf-8"), "docs/clusters.md: replace the summary"


SHAPES = [("base", 50_000, 0.125), ("large", 50_000, 0.357), ("xl", 250_002, 3.5), ("xxl", 250_002, 10.7)]


@pytest.mark.parametrize(("name", "vocab_size", "billions"), SHAPES)
def test_parameters_are_those_of_the_published_shapes(name, vocab_size, billions):
    assert sum(subject(name, vocab_size).parameters.values()) / 1e9 == pytest.approx(billions, rel=0.02)


def test_model_states_by_hand():
    """bf16, ZeRO-2 on 4 GPUs: 2 bytes of weights, 4 of summed gradients and 12 of optimizer a parameter."""
    run = subject()
    count = run.trainable
    size = bytes_of(run, Cluster("", A100, 4), Layout(2, False, False, 8, 64))
    assert size.weights == 2 * count
    assert size.gradients == pytest.approx(4 * count / 4)
    assert size.optimizer == pytest.approx(12 * count / 4)
    assert size.buffers == 2 * 2 * count, "buckets no larger than the model"
    assert size.building == 4 * count, "on each rank, before anything is spread"
    first = bytes_of(run, Cluster("", A100, 4), Layout(1, False, False, 8, 64))
    assert (first.gradients, first.buffers) == (4 * count, 2 * 4 * count), "sums in fp32"
    offloaded = bytes_of(run, Cluster("", A100, 4), Layout(3, True, False, 8, 64))
    assert (offloaded.weights, offloaded.optimizer) == (0, 0)
    assert offloaded.host == pytest.approx(14 * count / 4, rel=1e-6)


def test_xxl_on_paper():
    """10.7 billion parameters, and a token matrix of more than DeepSpeed lets be whole at a time by itself."""
    run, cluster = subject("xxl", 250_002), Cluster("", A100, 64)
    matrix = run.parameters["token_embeddings"]
    assert matrix > 1_000_000_000
    below, at_3 = (bytes_of(run, cluster, Layout(stage, False, True, 1, 32)) for stage in (2, 3))
    assert below.building == pytest.approx(43e9, rel=0.02) and at_3.building == 4 * matrix
    zero = deepspeed_json(run, Layout(3, False, True, 1, 32))["zero_optimization"]
    assert zero["stage3_max_live_parameters"] == matrix + 250_000_000
    assert at_3.buffers == 2 * (2 * 200_000_000 + matrix + 250_000_000 + matrix)
    assert "stage3_max_live_parameters" not in deepspeed_json(subject(), Layout(3, False, True, 1, 32))


@pytest.mark.parametrize("stage, offload, name", [(1, False, "zero1"), (2, False, "zero2"), (3, False, "zero3"),
                                                  (3, True, "zero3_offload")])  # fmt: skip
def test_a_plan_and_the_ready_files_say_the_same(stage, offload, name):
    own = deepspeed_json(subject("xl", 250_002), Layout(stage, offload, False, 1, 32))["zero_optimization"]
    ready = json.loads((ROOT / f"ds_configs/{name}.json").read_text())
    assert own == ready["zero_optimization"]
    if name == "zero1":
        assert ready == DEFAULT, "what a run gets without a file"


def test_the_least_sharding_that_fits_is_taken():
    small = replace(A100, memory=6 * GB)
    cluster = Cluster("", small, 8)
    chosen, every = smallest_that_fits(subject(), cluster), layouts(subject(), cluster)
    before = every[: every.index(chosen)]
    assert all(bytes_of(subject(), cluster, layout).total > cluster.budget for layout in before)
    assert bytes_of(subject(), cluster, chosen).total <= cluster.budget
    larger = replace(chosen, micro_batch=2 * chosen.micro_batch, accumulation=chosen.accumulation // 2)
    assert chosen.micro_batch == 64 or bytes_of(subject(), cluster, larger).total > cluster.budget
    assert chosen.micro_batch * chosen.accumulation * 8 == 2048


@pytest.mark.parametrize("gpus", [1, 8, 64])
@pytest.mark.parametrize("memory", [24, 80])
@pytest.mark.parametrize(("name", "vocab_size"), [("base", 50_000), ("xl", 250_002)])
def test_the_json_is_one_that_the_launcher_takes(name, vocab_size, memory, gpus, tmp_path):
    run, cluster = subject(name, vocab_size), Cluster("", replace(A100, memory=memory * GB), gpus)
    try:
        layout = smallest_that_fits(run, cluster)
    except UserError as error:
        assert name == "xl"
        assert f"no layout fits {gpus} GPUs of {memory} GB" in str(error)
        return
    (tmp_path / "zero.json").write_text(json.dumps(deepspeed_json(run, layout)))
    values = read_deepspeed_json(tmp_path / "zero.json")
    assert values["zero_optimization"]["stage"] == layout.stage
    if gpus > 1:
        check_combination(values, "bf16")


def test_communication_by_hand():
    """Rajbhandari et al. 2020, section 7: two models at stage 1, one and a half times that at stage 3."""
    run, cluster = subject(), Cluster("", A100, 2)
    model = 2 * run.trainable / 2
    volume = {stage: communicated_bytes(run, cluster, Layout(stage, False, False, 8, 4)) for stage in (1, 2, 3)}
    assert volume == {1: 2 * model, 2: 5 * model, 3: 12 * model}
    assert times_of(run, cluster, Layout(1, False, False, 8, 4)).communication == pytest.approx(2 * model / 300e9)
    assert Cluster("", A100, 64).slowest_link == 25e9


def test_muon_by_hand():
    """12 layers of four 768 x 768 and two 768 x 3072, and two heads: one momentum instead of two. What a rank sends
    twice is its own part, for which it has two buffers, and the iteration takes four of the largest matrix."""
    run, cluster, layout = subject(optimizer__name="muon"), Cluster("", A100, 8), Layout(1, False, False, 64, 4)
    adamw = subject()
    matrices = 12 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 768**2
    square, oblong = (5 * 2 * 768**2 * (2 * larger + 768) for larger in (768, 3072))
    assert run.muon_parameters == matrices
    assert 8 * run.muon_flops(8) == 50 * square + 24 * oblong
    theirs, ours = (bytes_of(one, cluster, layout) for one in (adamw, run))
    assert ours.optimizer == pytest.approx(theirs.optimizer - 4 * matrices / 8, abs=8)
    assert ours.buffers == theirs.buffers + 4 * (2 * (matrices // 8) + 4 * 768 * 3072)
    assert communicated_bytes(run, cluster, layout) == communicated_bytes(adamw, cluster, layout) + matrices
    share = 8 * run.muon_flops(8) * run.updates / run.flops()
    assert share < 0.05, "a million tokens an update"
    assert times_of(run, cluster, layout).compute == pytest.approx(
        times_of(adamw, cluster, layout).compute * (1 + share)
    )
    many = times_of(run, Cluster("", A100, 1024), Layout(1, False, False, 2, 1)).compute
    own = (run.flops() / run.updates) / 1024 + oblong
    assert many == pytest.approx(own / (0.4 * 312e12)), "no rank has less than a matrix to do"
    v100 = Cluster("", GPUS["v100-32gb"], 8)
    fp16, plain = (subject(optimizer__name=name, training__precision="fp16") for name in ("muon", "adamw"))
    slower = times_of(fp16, v100, layout).compute - times_of(plain, v100, layout).compute
    assert slower == pytest.approx(fp16.muon_flops(8) / (0.4 * 15.7e12)), "the iteration runs in fp32 there"


def test_time_follows_from_flops():
    run, cluster = subject(), Cluster("", A100, 8, utilisation=0.5)
    times = times_of(run, cluster, Layout(1, False, False, 64, 4))
    assert times.gpu_hours == pytest.approx(run.flops() / (0.5 * 312e12) / 3600)
    assert times.days == pytest.approx(times.gpu_hours / 8 / 24)


def test_a_mask_share_that_changes_is_planned_stage_by_stage(capsys, monkeypatch):
    """A quarter of the run at 204 of 512 positions, the rest at 76; memory for 204."""
    stages = "[{share: 0.4, until: 250 updates}, {share: 0.15}]"
    high, low, both = (
        subject(schedule__duration="1000 updates", schedule__warmup="9 updates", objective__mask_share=share)
        for share in (0.4, 0.15, stages)
    )
    assert both.flops() * 4 == high.flops() + 3 * low.flops()
    of_row = 3 * 2 * 2 * (768**2 + 768 * 50_000)  # 3 forwards of two heads, 2 FLOPs a product
    assert high.flops() - low.flops() == 1000 * 2048 * (204 - 76) * of_row
    cluster, layout = Cluster("", A100, 8), Layout(1, False, False, 64, 4)
    assert bytes_of(both, cluster, layout) == bytes_of(high, cluster, layout) != bytes_of(low, cluster, layout)
    assert times_of(both, cluster, layout).days * 4 == pytest.approx(
        times_of(high, cluster, layout).days + 3 * times_of(low, cluster, layout).days
    )
    assert break_even(both).mini == break_even(low).mini, "a language is learned at the share of the end"
    assert break_even(both).extra * 4 == break_even(high).extra + 3 * break_even(low).extra

    arguments = ["schedule.duration=1000 updates", "schedule.warmup=9 updates", f"objective.mask_share={stages}"]
    status, out, _ = run(monkeypatch, capsys, "launch/recipes/base/minijoint.yaml", *arguments)
    assert status == 0
    assert "* Masked: 204 positions in every block for 250 updates, then 76 for 750\n" in out
    assert f"= {both.flops():.3g} model FLOPs\n" in out


def test_break_even_by_hand():
    found = break_even(subject())
    assert found.standard / found.mini == pytest.approx(2.56, rel=0.02), "the method's arithmetic at 4 of 12 layers"
    assert found.languages == pytest.approx(found.extra / (found.standard - found.mini))
    half = break_even(subject(schedule__duration="62500 updates"))
    assert half.languages == pytest.approx(found.languages / 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch/recipes/base/minijoint.yaml", "--gpu", "a100-80"], "--gpu a100-80: not known; did you mean 'a100-"),
        (["launch/recipes/base/minijoint.yaml", "--gpus", "0"], "--gpus 0: must be above 0"),
        (["launch/recipes/base/minijoint.yaml", "--utilisation", "40"], "--utilisation 40.0: a share above 0"),
        (["launch/recipes/base/minijoint.yaml", "--gpus", "7"], "cannot be divided over 7 ranks"),
        (["launch/recipes/xxl/minijoint.yaml", "--gpus", "1", "--gpu-memory", "8"], "no layout fits 1 GPUs of 8 GB"),
        (["launch/recipes/base/minijoint.yaml", "--gpu", "v100-32gb"], "training.precision: bf16: V100-SXM2 lacks it"),
        (["launch/recipes/base/minijoin.yaml"], "minijoin.yaml"),
        (["launch/recipes/base/minijoint.yaml", "schedule.duration=0 updates"], "schedule.duration: a run needs"),
        (
            [
                "launch/recipes/base/minijoint.yaml",
                "objective.mask_share=[{share: 0.3, until: 125k updates}, {share: 0.1}]",
            ],
            "objective.mask_share: the stage of share 0.3 ends after 125000 updates, and the run after 125000",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, words, monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_a_plan_is_printed_and_its_json_written(monkeypatch, capsys, tmp_path):
    path = tmp_path / "zero.json"
    arguments = ["launch/recipes/large/minijoint.yaml", "--gpus", "4", "--gpu-memory", "16", "--write", str(path)]
    status, out, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0
    assert out.startswith("50,000 pieces and blocks of 512, assumed (--vocab-size, --block-length)")
    assert "Least sharding that fits: **ZeRO-" in out
    assert json.loads(path.read_text()) == read_deepspeed_json(path)
    assert find_gpu("h100").peak("bf16") == 989.4e12


def test_flash_attention_of_modernbert_counts_what_its_windows_see():
    """And so does pretraining; adaptation reads it off the model."""
    overrides = {"model__family": "modernbert", "model__config": "{}", "training__precision": "bf16"}
    square, windows = (subject(**overrides, model__attention=attention) for attention in ("sdpa", "flash_attention_2"))
    assert square.shape.spans == windows.shape.spans and None in square.shape.spans and 64 in square.shape.spans
    assert (square.shape.skips_outside_span, windows.shape.skips_outside_span) == (False, True)
    assert windows.flops() < square.flops()


def test_a_recipe_over_a_checkpoint_is_planned_by_what_lies_there(tmp_path, capsys, monkeypatch):
    """Its rows where there are no data yet; a bridge, and the three ways of continued training."""
    bodies.small_model("llama").save_pretrained(tmp_path / "llama")
    bodies.small_model("roberta").save_pretrained(tmp_path / "roberta")
    start, short = f"model.from_checkpoint={tmp_path}", ["--block-length", "32", "--gpus", "1"]
    for changes in (["objective.method=causal", "objective.lora=null"], ["objective.lora.rank=4"]):
        status, printed, _ = run(monkeypatch, capsys, "decoder/8b", f"{start}/llama", *changes, *short)
        assert status == 0 and "120 pieces" in printed
        lora = 4 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 96))
        assert (f"low rank updates {lora:,}" in printed) == (changes[0] == "objective.lora.rank=4")
    status, printed, _ = run(
        monkeypatch, capsys, "base/minipost", f"{start}/roberta", "model.exits=[1]", "model.bridge_layers=1", *short
    )
    assert status == 0 and "120 pieces" in printed
    status, _, problem = run(monkeypatch, capsys, "decoder/8b", f"{start}/roberta", *short)
    assert status == 2 and "objective.method lora: goes with decoders alone" in problem
    status, _, problem = run(monkeypatch, capsys, "decoder/8b", f"{start}/none", *short)
    assert status == 2 and "model.from_checkpoint:" in problem and "no such folder" in problem
