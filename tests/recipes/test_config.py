"""Recipes: what is read, what is refused, and with which words."""

import copy
from pathlib import Path

import pytest
import yaml

from megamini.adaptation.recipe import AdaptationRecipe, load_adaptation_recipe
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.errors import UserError
from megamini.recipes.command_line import recipes_of
from megamini.recipes.file import read_recipe
from megamini.recipes.objective import MaskingSection
from megamini.recipes.recipe import Recipe, dump_recipe, load_recipe
from megamini.recipes.values import duration_in_updates

VALUES = {
    "name": "test",
    "model": {"family": "roberta", "config": {"num_hidden_layers": 4}, "exits": [2]},
    "data": {"path": "data/x"},
    "objective": {"method": "minijoint"},
    "optimizer": {"learning_rate": 1e-3},
    "schedule": {"duration": "100 updates", "warmup": "10 updates"},
    "training": {"global_batch": 32, "micro_batch": 8},
}


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return path


def refusal(path, overrides=()):
    """The one line with which a recipe is refused."""
    with pytest.raises(UserError) as error:
        load_recipe(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_dumped_recipe_reads_back_the_same(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["optimizer.learning_rate=7e-4", "objective.head_weights=[1, 3]"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe
    assert recipe.head_weights == (0.25, 0.75)
    assert str(recipe.run_directory) == "runs/test"


def test_head_weights_are_equal_unless_given(recipe_file):
    assert load_recipe(recipe_file, ["model.exits=[1, 2, 3]"]).head_weights == (0.25,) * 4


@pytest.mark.parametrize(
    "override, read",
    [
        ("optimizer.learning_rate=7e-4", lambda r: r.optimizer.learning_rate == 7e-4),
        ("optimizer.learning_rate=7.5E-04", lambda r: r.optimizer.learning_rate == 7.5e-4),
        ("optimizer.betas=[0.8, 0.9]", lambda r: r.optimizer.betas == (0.8, 0.9)),
        ("model.exits=[1, 3]", lambda r: r.model.exits == (1, 3)),
        ("name='2024'", lambda r: r.name == "2024"),
        ("data.path=a=b", lambda r: r.data.path == "a=b"),
        ("schedule.duration=1.5M tokens", lambda r: r.schedule.duration == "1.5M tokens"),
        ("model.config.hidden_size=64", lambda r: r.model.config["hidden_size"] == 64),
        ("checkpoint.every=5 updates", lambda r: r.checkpoint.every == "5 updates"),
        ("training.compile=true", lambda r: r.training.compile is True),
        ("model.dropout=null", lambda r: r.model.dropout is None),
        ("objective.mask_share=3e-1", lambda r: r.objective.mask_share == 0.3),
        (
            "objective.mask_share=[{share: 0.30, until: 2000 updates}, {share: 0.15}]",
            lambda r: [(s.share, s.until) for s in r.objective.mask_share] == [(0.3, "2000 updates"), (0.15, None)],
        ),
        (
            "objective.forgetting={every: 10 updates, none_in_last: 1k updates}",
            lambda r: r.objective.forgetting.every == "10 updates",
        ),
    ],
)
def test_overrides(recipe_file, override, read):
    assert read(load_recipe(recipe_file, [override]))


def test_the_last_override_wins_and_other_keys_stay(recipe_file):
    recipe = load_recipe(recipe_file, ["training.seed=1", "training.seed=2"])
    assert (recipe.training.seed, recipe.training.global_batch) == (2, 32)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("training", "'training' is no override; write section.key=value"),
        ("=3", "'=3' is no override"),
        ("name.first=3", "'name' has no keys of its own"),
        ("model.exits=[1", "'[1' is not valid YAML"),
    ],
)
def test_overrides_that_are_none(recipe_file, override, expected):
    assert expected in refusal(recipe_file, [override])


@pytest.mark.parametrize(
    "override, expected",
    [
        ("schedule.duratoin=5M tokens", "unknown key 'schedule.duratoin'; did you mean 'duration'?"),
        ("schedule.duration=5 steps", "schedule.duration: '5 steps' is no duration"),
        ("optimizer.betas=[0.9, 2]", "optimizer.betas.1: input should be less than 1"),
        ("objective.forgetting={evry: 1 updates}", "unknown key 'objective.forgetting.evry'; did you mean 'every'?"),
    ],
)
def test_a_bad_value_of_an_override_is_not_blamed_on_the_file(recipe_file, override, expected):
    innocent = "schedule.warmup=5 updates"
    for overrides in ([innocent, override], [override, innocent]):
        assert refusal(recipe_file, overrides).startswith(f"'{override}': {expected}")


def test_who_breaks_the_rule_of_a_section(tmp_path, recipe_file):
    """The file where it does so alone; else file and overrides together."""
    overrides = ["model.exits=[3, 1]", "model.dropout=0.1"]
    together = f"{recipe_file} with {' '.join(overrides)}: model: model.exits must rise"
    assert refusal(recipe_file, overrides).startswith(together)
    assert refusal(recipe_file, ["objective.method=mlm"]).startswith(f"{recipe_file} with objective.method=mlm: ")
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(VALUES | {"schedule": {**VALUES["schedule"], "shape": "warmup-stable-decay"}}))
    assert refusal(broken, ["schedule.duration=5M tokens"]).startswith(f"{broken}: schedule: schedule.decay goes with")
    broken.write_text(yaml.safe_dump(VALUES | {"nmae": "x"}))
    assert refusal(broken, ["schedule.duration=5 steps"]) == f"{broken}: unknown key 'nmae'; did you mean 'name'?"
    template = tmp_path / "template.yaml"  # complete only with an override
    template.write_text(yaml.safe_dump({key: value for key, value in VALUES.items() if key != "data"}))
    given = ["data.path=d", "model.exits=[3, 1]"]
    assert refusal(template, given).startswith(f"{template} with {' '.join(given)}: model: model.exits must rise")
    unknown = "schedulee.duration=5M tokens"
    assert refusal(template, [unknown, "data.path=d"]).startswith(f"'{unknown}': unknown key 'schedulee'")


BAD_VALUES = {  # section.key: value, and what the line says
    "optimizer.learning_rat": (0.1, "unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?"),
    "optimiser": ({}, "unknown key 'optimiser'; did you mean 'optimizer'?"),
    "schedule.d": (1, "unknown key 'schedule.d'; did you mean 'duration'?"),
    "model.exit": ([2], "unknown key 'model.exit'; did you mean 'exits'?"),
    "objective.forgetting": (
        {"evry": "1 updates", "every": "1 updates", "none_in_last": "1 updates"},
        "unknown key 'objective.forgetting.evry'; did you mean 'every'?",
    ),
    "training.qqqqqqqq": (1, "unknown key 'training.qqqqqqqq'"),
    "optimizer.learning_rate": ("7e-4", "optimizer.learning_rate: YAML reads '7e-4' as text; write 7.0e-4"),
    "optimizer.eps": ("1.e6", "optimizer.eps: YAML reads '1.e6' as text; write 1.e+6"),
    "data.path": (False, "data.path: YAML reads yes, no, on and off as true or false; put the word in quotes"),
    "name": ("a/b", "name: "),
    "training.global_batch": (32.5, "training.global_batch: "),
    "training.micro_batch": (0, "training.micro_batch: input should be greater than or equal to 1, not 0"),
    "training.seed": (-1, "training.seed: "),
    "training.precision": (
        "float32",
        "training.precision: input should be 'auto', 'fp32', 'tf32', 'bf16' or 'fp16', not 'float32'",
    ),
    "training.compile": ("yes", "training.compile: input should be a valid boolean, not 'yes'"),
    "training": ([1], "training: "),
    "schedule.duration": (
        "100 steps",
        "schedule.duration: '100 steps' is no duration; write for example '6000 updates' or '12.5M tokens'",
    ),
    "schedule.warmup": (100, "schedule.warmup: 100 is no duration"),
    "schedule.decay": ("10 updates", "schedule.decay goes with schedule.shape: warmup-stable-decay"),
    "schedule.shape": ("warmup-stable-decay", "schedule.decay goes with schedule.shape: warmup-stable-decay"),
    "schedule.final_share": (1.5, "schedule.final_share: "),
    "checkpoint.every": ("-5 updates", "checkpoint.every: '-5 updates' is no duration"),
    "telemetry.every": (True, "telemetry.every: "),
    "model.exits": ([3, 1], "model.exits must rise without repeats, not [3, 1]"),
    "model.exits ": ([2, 2], "model.exits must rise without repeats, not [2, 2]"),
    "model.family": ("gpt2", "model.family: input should be 'roberta'"),
    "model.from_checkpoint": ("x", "give either model.family (from scratch) or model.from_checkpoint"),
    "model.dropout": (-0.1, "model.dropout: "),
    "model.config": ({"hidden_size": {"a": 1}}, "model.config.hidden_size"),
    "objective.method": ("mlm", "objective.method minijoint needs model.exits, and mlm has none"),
    "objective.method ": (
        "mini-joint",
        "objective.method: input should be 'mlm', 'causal', 'minijoint', 'minipost', 'head', 'lora' or 'embeddings'",
    ),
    "objective.mask_share": (0.5, "objective.mask_share: "),
    "objective.mask_share ": (True, "objective.mask_share: input should be a valid number, not True"),
    "objective.replace_with_mask": (0.95, "add up to more than 1"),
    "objective.head_weights": ([1.0], "objective.head_weights needs 2 positive numbers: exits, primary"),
    "objective.head_weights ": ([1.0, 0.0], "objective.head_weights needs 2 positive numbers"),
    "optimizer.betas": ([0.9], "optimizer.betas"),
}


@pytest.mark.parametrize("key", BAD_VALUES)
def test_a_bad_value_is_one_line_that_names_the_key(tmp_path, key):
    value, expected = BAD_VALUES[key]
    values = copy.deepcopy(VALUES)
    *sections, last = key.strip().split(".")
    section = values
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert expected in message
    if key == "model.family":
        assert "'gemma' or 'gpt_neox', not 'gpt2'" in message


@pytest.mark.parametrize(
    "stages, expected",
    [
        ("[]", "objective.mask_share: a list has at least two stages"),
        ("[{share: 0.3}]", "objective.mask_share: a list has at least two stages; for one share write the number"),
        ("[0.3, 0.15]", "objective.mask_share.0: should be keys and values, not 0.3"),
        ("[{share: 0.3}, {share: 0.2}]", "objective.mask_share: the stage of share 0.3 has no until; only the last"),
        ("[{share: 0.3, until: 5 updates}, {share: 0.2, until: 6 updates}]", "objective.mask_share: the last stage"),
        ("[{share: 0.5, until: 5 updates}, {share: 0.2}]", "objective.mask_share.0.share: input should be less than 0"),
        ("[{share: 0.3, until: 5 updates}, {share: 0}]", "objective.mask_share.1.share: input should be greater than"),
        ("[{share: 0.3, until: 5}, {share: 0.2}]", "objective.mask_share.0.until: 5 is no duration"),
        ("[{share: 3e-1, until: 5 updates}, {share: 0.2}]", "objective.mask_share.0.share: YAML reads '3e-1' as text"),
        ("[{share: 0.3, untl: 5 updates}, {share: 0.2}]", "unknown key 'objective.mask_share.0.untl'; did you mean 'u"),
        ("[{until: 5 updates}, {share: 0.2}]", "'objective.mask_share.0.share' is missing"),
        (
            "[{share: 0.4, until: 2k updates}, {share: 0.3, until: 2000 updates}, {share: 0.2}]",
            "objective.mask_share: until must rise from stage to stage, not go from 2k updates to 2000 updates",
        ),
    ],
)
def test_stages_of_a_mask_share_that_are_none(recipe_file, stages, expected):
    override = f"objective.mask_share={stages}"
    assert refusal(recipe_file, ["training.seed=1", override]).startswith(f"'{override}': {expected}")


def test_stages_in_a_file_read_back_the_same(tmp_path, recipe_file):
    stages = [{"share": 0.4, "until": "5k tokens"}, {"share": 0.3, "until": "9 updates"}, {"share": 0.15}]
    recipe_file.write_text(yaml.safe_dump(VALUES | {"objective": {"method": "minijoint", "mask_share": stages}}))
    recipe = load_recipe(recipe_file)
    assert [stage.share for stage in recipe.objective.mask_share] == [0.4, 0.3, 0.15]
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert load_recipe(recipe_file, ["objective.mask_share=0.2"]).objective.mask_share == 0.2


@pytest.mark.parametrize("key", ["name", "model", "data", "training.global_batch", "schedule.warmup"])
def test_a_missing_key_is_named(tmp_path, key):
    values = copy.deepcopy(VALUES)
    *sections, last = key.split(".")
    del (values[sections[0]] if sections else values)[last]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert refusal(path) == f"{path}: '{key}' is missing"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"name: x\nmodel: [1, 2\n", "line 3: not valid YAML"),
        (b"name: x\n\tmodel: 1\n", "line 2: not valid YAML"),
        (b"name: x\nmodel:\n  exits: [1]\n  exits: [2]\n", "line 4: key 'exits' appears twice"),
        (b"name: x\nname: x\n", "line 2: key 'name' appears twice"),
        (b"\xff\xfe\x00\x81", "not UTF-8 text (byte 0); a recipe is a YAML file"),
        (b"- 1\n- 2\n", "expected sections such as 'model:', found list"),
        (b"", "expected sections such as 'model:', found NoneType"),
        (b"hello\n", "expected sections such as 'model:', found str"),
        (b"name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"? [a, b]\n: 1\n? [a, b]\n: 2\n", "not valid YAML"),
        (b"name: \x00\n", "not valid YAML"),
        (b"a: &a [*a]\n", "recipe.yaml"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, expected):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert expected in refusal(path)


def test_a_recipe_that_is_not_there_and_one_that_is_a_folder(tmp_path):
    assert "No such file or directory; give the path of a recipe (.yaml)" in refusal(tmp_path / "none.yaml")
    assert refusal("launch/recipes/my_langage.yaml").endswith("(.yaml); did you mean 'my_language'?")
    assert refusal("base/minijont").endswith("did you mean 'base/minijoint'?")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    "duration, tokens_per_update, updates",
    [
        ("6000 updates", 7, 6000),
        ("6k updates", 7, 6000),
        ("12.5M tokens", 1000, 12_500),
        ("1001 tokens", 1000, 2),
        ("1B tokens", 2**20, 954),
        ("0 updates", 5, 0),
        ("0.5 updates", 5, 1),
    ],
)
def test_durations(duration, tokens_per_update, updates):
    assert duration_in_updates(duration, tokens_per_update) == updates


RECIPES = sorted((Path(__file__).parents[2] / "launch/recipes").rglob("*.yaml"))
KINDS = {
    Recipe: load_recipe,
    AdaptationRecipe: load_adaptation_recipe,
    FinetuneRecipe: lambda path: read_recipe(path, (), FinetuneRecipe),
    EvaluateRecipe: lambda path: read_recipe(path, (), EvaluateRecipe),
}


@pytest.mark.parametrize(
    "name, kind, reader",
    [
        ("adapt_mini", Recipe, "launch/adapt.py"),
        ("finetune", Recipe, "launch/finetune.py or launch/evaluate.py"),
        ("pretrain", AdaptationRecipe, "launch/pretrain.py"),
        ("evaluate", AdaptationRecipe, "launch/finetune.py or launch/evaluate.py"),
        ("pretrain", FinetuneRecipe, "launch/pretrain.py"),
        ("adapt_mini", EvaluateRecipe, "launch/adapt.py"),
    ],
)
def test_a_recipe_of_another_entry_point_is_one_line(name, kind, reader):
    path = Path(__file__).parents[2] / f"launch/recipes/quickstart/{name}.yaml"
    with pytest.raises(UserError, match=rf"{name}.yaml: a recipe of {reader}$"):
        KINDS[kind](path)


def test_a_mistyped_or_stray_section_is_no_recipe_of_another_entry_point(tmp_path):
    recipes, path = Path(__file__).parents[2] / "launch/recipes/quickstart", tmp_path / "recipe.yaml"
    for name, kind, section, typo in (
        ("finetune", FinetuneRecipe, "optimizer", "optimiser"),
        ("adapt_mini", AdaptationRecipe, "adaptation", "adaptaton"),
        ("pretrain", Recipe, "objective", "objectiv"),
    ):
        values = yaml.safe_load((recipes / f"{name}.yaml").read_text())
        values[typo] = values.pop(section)
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(UserError, match=f"unknown key '{typo}'; did you mean '{section}'?"):
            KINDS[kind](path)
    for name, kind, stray in (("pretrain", Recipe, "adaptation"), ("adapt_mini", AdaptationRecipe, "tasks")):
        path.write_text((recipes / f"{name}.yaml").read_text() + f"{stray}: {{}}\n")
        with pytest.raises(UserError, match=f"unknown key '{stray}'"):
            KINDS[kind](path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_that_comes_along_is_valid_and_listed_by_one_entry_point(path):
    readers = [read for kind, read in KINDS.items() if path in recipes_of(kind)]
    assert len(readers) == 1
    assert readers[0](path).name
    assert path.read_text().startswith("# "), "what it is for"


def test_the_workspace_of_the_loss_follows_the_device():
    unset, chosen = MaskingSection(), MaskingSection(loss_workspace_mib=64)
    assert chosen.loss_workspace_bytes(80e9) == 64 * 2**20
    assert unset.loss_workspace_bytes(None) == unset.loss_workspace_bytes(4e9) == 256 * 2**20
    assert unset.loss_workspace_bytes(16 * 2**30) == 512 * 2**20
    assert unset.loss_workspace_bytes(80e9) == 2 * 2**30
