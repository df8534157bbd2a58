"""The DeepSpeed JSON: what is its own, what is the recipe's, and what DeepSpeed would train wrongly."""

import json
from pathlib import Path

import pytest

from megamini.data.batches import plan_batches
from megamini.errors import UserError
from megamini.recipes.optimizer import PretrainingOptimizerSection
from megamini.training.engines.deepspeed_config import (
    ALLOWED_KEYS,
    DEFAULT,
    OWNED_BY_RECIPE,
    merge,
    read_deepspeed_json,
    swap_folder,
    zero_stage,
)
from tests.models.bodies import small_recipe

READY = sorted((Path(__file__).parents[3] / "ds_configs").glob("*.json"))


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "ds.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def refusal(path):
    with pytest.raises(UserError) as error:
        read_deepspeed_json(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"zero_optimisation": {"stage": 2}}, "unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ({"qqqqqq": 1}, "unknown key 'qqqqqq'"),
        (
            {"train_batch_size": 8, "qqqqqq": 1, "fp16": {}},
            "'train_batch_size' belongs to the recipe: set training.global_batch there; unknown key 'qqqqqq'; "
            "'fp16' belongs to the recipe: set training.precision there",
        ),
        ({"zero_optimization": 2}, 'zero_optimization: expected an object such as {"stage": 2}'),
        ({"train_batch_size": 8}, "'train_batch_size' belongs to the recipe: set training.global_batch there"),
        ({"gradient_clipping": 1.0}, "'gradient_clipping' belongs to the recipe: set optimizer.clip_norm there"),
        ({"bf16": {"enabled": True}}, "'bf16' belongs to the recipe: set training.precision there"),
        ([], "expected a JSON object, found list"),
        (
            b'{"zero_optimization": {"stage": 1},\n "zero_optimization": {"stage": 2}}',
            "'zero_optimization' appears twice",
        ),
        (b'{"zero_optimization": {"stage": 1, "stage": 3}}', "key 'stage' appears twice"),
        (b'{"zero_optimization":\n {"stage": 1}', "line 2: not valid JSON"),
        (b"", "line 1: not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8 text; a DeepSpeed configuration is a JSON file"),
    ],
)
def test_what_is_refused(write, content, expected):
    assert expected in refusal(write(content))


@pytest.mark.parametrize("key", sorted(OWNED_BY_RECIPE))
def test_every_key_of_the_recipes_is_refused_with_its_place(write, key):
    assert refusal(write({key: {}})) == f"'{key}' belongs to the recipe: set {OWNED_BY_RECIPE[key]} there"


def test_a_file_that_is_not_there(tmp_path):
    assert "No such file or directory; ds_configs/ holds ready" in refusal(tmp_path / "none.json")


def test_a_recipe_key_that_is_named_exists():
    """The places that messages point to are sections or fields of a recipe."""
    sections = small_recipe(family="bert").model_dump()
    for place in " and ".join(OWNED_BY_RECIPE.values()).split(" and "):
        section, _, field = place.partition(".")
        assert section in sections and (not field or field in sections[section]), place


@pytest.mark.parametrize("path", READY, ids=lambda path: path.name)
def test_ready_configurations_are_taken_by_us_and_by_deepspeed(path):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    values = read_deepspeed_json(path)
    zero = DeepSpeedZeroConfig(**values["zero_optimization"])
    assert zero.stage == zero_stage(values) == int(path.stem.removeprefix("zero")[0])
    assert not (zero.model_extra or {}), "DeepSpeed does not know these"
    assert ("offload" in path.stem) == (zero.offload_optimizer is not None and zero.offload_param is not None)


def test_the_ready_ones_are_found():
    assert {path.name for path in READY} >= {f"zero{stage}.json" for stage in range(4)}


def test_allowed_keys_are_keys_that_deepspeed_reads():
    """A name that DeepSpeed dropped or renamed would be ignored by it without a word."""
    import deepspeed.runtime as runtime

    sources = [p.read_text() for p in Path(runtime.__file__).parents[1].rglob("*.py") if p.stat().st_size < 200_000]
    for key in ALLOWED_KEYS:
        assert any(f'"{key}"' in text or f"'{key}'" in text for text in sources), key


NVME = {"device": "nvme", "nvme_path": "swap"}


def zero3(stage=3, **sections):
    return {"zero_optimization": {"stage": stage, **sections}}


def merged(values, precision="bf16", on_cpu=False, clip=0.7, ranks=2):
    recipe = small_recipe(family="bert")
    recipe = recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update={"precision": precision}),
            "optimizer": recipe.optimizer.model_copy(update={"clip_norm": clip}),
        }
    )
    return merge(values, recipe, plan_batches(24, 4, ranks), on_cpu)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_recipe_decides_batch_clipping_and_precision(precision):
    values = {"zero_optimization": {"stage": 2, "overlap_comm": True}}
    found = merged(values, precision)
    assert found["zero_optimization"] == values["zero_optimization"]
    assert (found["train_batch_size"], found["train_micro_batch_size_per_gpu"]) == (24, 4)
    assert found["gradient_accumulation_steps"] == 3
    assert found["gradient_clipping"] == 0.7
    assert (found["bf16"]["enabled"], found["fp16"]["enabled"]) == (precision == "bf16", precision == "fp16")
    assert values == {"zero_optimization": {"stage": 2, "overlap_comm": True}}, "the user's own is left as it is"


@pytest.mark.parametrize(
    "values, precision, on_cpu, expected",
    [
        ({"zero_optimization": {"stage": 0}}, "bf16", True, "bf16 needs ZeRO stage 1 or higher"),
        ({}, "bf16", True, "bf16 needs ZeRO stage 1 or higher"),
        ({"zero_optimization": {"stage": 0}}, "fp16", False, "fp16 needs ZeRO stage 1 or higher"),
        (DEFAULT, "fp16", True, "training.precision: fp16 does not run on a CPU; use bf16 or fp32"),
        (zero3(offload_param=NVME), "fp32", True, "offload_param.device: nvme is not supported"),
        (zero3(offload_optimizer=NVME, stage=2), "fp32", True, "offload_optimizer.device: nvme needs ZeRO stage 3"),
        (zero3(offload_optimizer={"device": "nvme"}), "fp32", True, "offload_optimizer.nvme_path: missing"),
        (zero3(offload_optimizer={**NVME, "pipeline_read": True}), "fp32", True, "offload_optimizer: pipeline_read"),
        (zero3(offload_optimizer={**NVME, "buffer_count": 3}), "fp32", True, "buffer_count: 4 or more"),
        (zero3(offload_optimizer={"device": "cpu", "ratio": 0.5}), "bf16", False, "ratio and super_offload are not"),
        (
            {"zero_optimization": {"stage": 2, "round_robin_gradients": True}},
            "bf16",
            True,
            "round_robin_gradients is not",
        ),
        (zero3(offload_optimizer={"device": "cpu", "super_offload": True}), "bf16", False, "ratio and super_offload"),
    ],
)
def test_combinations_that_deepspeed_trains_wrongly(values, precision, on_cpu, expected):
    with pytest.raises(UserError, match=expected):
        merged(values, precision, on_cpu)


def test_states_on_disk_lie_in_a_folder_of_the_run(tmp_path):
    """DeepSpeed names files by ranks alone, so that two runs would write over each other's."""
    values = zero3(offload_optimizer={**NVME, "nvme_path": str(tmp_path)})
    folder = swap_folder(merged(values))
    assert folder.parent == tmp_path and folder.name.startswith(small_recipe(family="bert").name)
    assert swap_folder(merged(values)) == folder, "where a killed run's is written over"
    assert values["zero_optimization"]["offload_optimizer"]["nvme_path"] == str(tmp_path)
    assert swap_folder(merged(zero3(offload_optimizer={"device": "cpu"}))) is None


@pytest.mark.parametrize(
    "values, precision, on_cpu",
    [
        ({}, "fp32", True),
        (DEFAULT, "bf16", True),
        (DEFAULT, "fp16", False),
        ({**DEFAULT, "data_types": {"grad_accum_dtype": "fp32"}}, "fp32", True),
        ({**DEFAULT, "data_types": {"grad_accum_dtype": "fp32"}}, "bf16", True),
        (zero3(offload_optimizer={"device": "cpu"}), "fp32", True),
        ({"zero_optimization": {"stage": 2}, "data_types": {"grad_accum_dtype": "fp32"}}, "bf16", True),
    ],
)
def test_combinations_next_to_those_are_taken(values, precision, on_cpu):
    assert merged(values, precision, on_cpu)["zero_optimization" if values else "train_batch_size"]


@pytest.mark.parametrize("values", [DEFAULT, zero3(stage=2), zero3()])
def test_micro_batches_in_bf16_are_summed_in_fp32(values):
    assert merged(values)["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "data_types" not in merged(values, "fp32")
    own = {"grad_accum_dtype": "bf16"}
    assert merged({**values, "data_types": own})["data_types"] == own, "who says so gets it"


def test_offloaded_muon_needs_no_cpu_adam():
    """DeepSpeed otherwise refuses an optimizer that is not its own where states are offloaded."""
    muon = small_recipe(family="bert")
    muon = muon.model_copy(update={"optimizer": PretrainingOptimizerSection(learning_rate=1e-3, name="muon")})
    values = zero3(offload_optimizer={"device": "cpu"})
    assert merge(values, muon, plan_batches(4, 4, 1), True)["zero_force_ds_cpu_optimizer"] is False
    assert "zero_force_ds_cpu_optimizer" not in merged(values)
    with pytest.raises(UserError, match=r"zero_force_ds_cpu_optimizer: true leaves no room for optimizer\.name: muon"):
        merge({**values, "zero_force_ds_cpu_optimizer": True}, muon, plan_batches(4, 4, 1), True)
