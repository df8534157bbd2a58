"""The primary model of a run with the weights of a checkpoint, from the plain engine or any ZeRO stage, in fp32."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from megamini.data.blocks import fingerprint_of_all, load_manifest
from megamini.data.tokenizer import fingerprint, load_tokenizer
from megamini.errors import UserError
from megamini.models.build import build_primary, is_causal, model_config, outline_of, source_weights
from megamini.models.lora import low_rank_update, plain_name
from megamini.models.materialise import Weights
from megamini.models.primary_model import PrimaryModel, assert_tied
from megamini.recipes.recipe import Recipe, load_recipe
from megamini.training.checkpoints.checkpoint import is_checkpoint, newest_first
from megamini.training.checkpoints.identity import check_identity, defaults_of, identity_of, keeps_source
from megamini.training.checkpoints.manifest import read_manifest, verify
from megamini.training.finished.kept_data import data_of, source_config_of
from megamini.training.state.shards import WEIGHT, Shards


@dataclass(frozen=True)
class RunCheckpoint:
    """A run as of one checkpoint, whose weights can be read one by one."""

    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    data_manifests: list[dict[str, Any]]
    """Of each data directory."""
    directory: Path
    checkpoint: Path

    def build(self) -> PrimaryModel:
        """The run's model, in which what does not train stands as it is, and the rest for `read` to give."""
        block_length, recipe = self.data_manifests[0]["block_length"], self._merged
        return build_primary(recipe, self.tokenizer, block_length, from_source=keeps_source(recipe))

    @cached_property
    def outline(self) -> PrimaryModel:
        """The run's model without weights, on the meta device."""
        return outline_of(self._merged, self.tokenizer, self.data_manifests[0]["block_length"])

    def read(self, name: str) -> torch.Tensor:
        """One tensor of the model's state dict, fp32, as of the checkpoint, with its low-rank update if there is one.
        Raises `UserError` where the checkpoint lacks it."""
        parameter = self._parameters[name]
        first_name, *more_names = self._names[id(parameter)]
        if parameter.requires_grad:
            return self._shards.read(WEIGHT, first_name, 0, parameter.numel()).reshape(parameter.shape)
        # What the run's method leaves as it is stands in its source: checkpoints hold what trains.
        found = (self._source(own.removeprefix("model.")) for own in (first_name, *more_names))
        tensor = next(tensor for tensor in found if tensor is not None).float()
        lora = self.recipe.objective.lora_settings
        update = low_rank_update(name, self._parameters, self.read, lora) if lora else None
        return tensor if update is None else tensor + update

    @property
    def _merged(self) -> Recipe:
        """The recipe of the model that comes out of the run: low-rank updates are added to what they update."""
        if self.recipe.objective.lora_settings is None:
            return self.recipe
        objective = self.recipe.objective.model_copy(update={"method": "causal", "lora": None})
        return self.recipe.model_copy(update={"objective": objective})

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        """Of the model as it was trained, by their names in the one that comes out of the run."""
        outline = self.outline
        if self._merged is not self.recipe:
            outline = outline_of(self.recipe, self.tokenizer, self.data_manifests[0]["block_length"])
        return {plain_name(name): one for name, one in outline.named_parameters(remove_duplicate=False)}

    @cached_property
    def _names(self) -> dict[int, list[str]]:
        """All names of a parameter; a checkpoint holds a tied one by the first."""
        names: dict[int, list[str]] = {}
        for name, parameter in self._parameters.items():
            names.setdefault(id(parameter), []).append(name)
        return names

    @cached_property
    def _source(self) -> Weights:
        config = model_config(self.recipe.model, self.tokenizer, self.data_manifests[0]["block_length"])
        return source_weights(self.recipe, config)

    @cached_property
    def _shards(self) -> Shards:
        shards = Shards(self.checkpoint)
        if unexpected := shards.names() - {name for name, p in self._parameters.items() if p.requires_grad}:
            raise UserError(f"{self.checkpoint}: holds '{min(unexpected)}', which is not in the recipe's model")
        return shards


@dataclass(frozen=True)
class LoadedRun(RunCheckpoint):
    """A run's primary model as of one checkpoint."""

    model: PrimaryModel


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory or a checkpoint in one."""
    return (_run_directory(path) / "recipe.yaml").is_file()


def is_causal_run(path: Path) -> bool:
    """Whether the model of a run, or of a checkpoint in it, is a decoder; cheap."""
    directory = _run_directory(path)
    return is_causal(_with_source(load_recipe(directory / "recipe.yaml"), directory).model)


def _run_directory(path: Path) -> Path:
    return path.parent.parent if is_checkpoint(path) else path


def load_run(path: Path) -> LoadedRun:
    """The model of a run directory (its newest complete checkpoint) or of one checkpoint in it; see `open_run`."""
    run = open_run(path)
    model = run.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied matrix appears once
            if parameter.requires_grad:
                parameter.copy_(run.read(name))
    assert_tied(model.model)
    return LoadedRun(run.tokenizer, run.recipe, run.data_manifests, run.directory, run.checkpoint, model.eval())


def open_run(path: Path) -> RunCheckpoint:
    """A run directory's newest complete checkpoint, or one checkpoint in it.

    Only what its manifest verifies is read. Raises `UserError` for anything else than a run made here.
    """
    directory = _run_directory(path)
    if not is_run(path):
        raise UserError(f"{path}: neither a run directory (no recipe.yaml) nor one of its checkpoints")
    recipe = load_recipe(directory / "recipe.yaml", ["model.attention=sdpa"])  # whatever the run used, a CPU reads it
    checkpoint = _checked(path) if is_checkpoint(path) else _newest_complete(directory / "checkpoints")
    folders, tokenizer_folder = data_of(directory, recipe.data.paths)
    manifests = [load_manifest(folder) for folder in folders]
    own = identity_of(recipe, fingerprint_of_all(manifests, recipe.data.weights), of_checkpoint=True)
    check_identity(own, read_manifest(checkpoint)[0]["identity"], checkpoint, defaults_of(recipe))
    tokenizer = load_tokenizer(tokenizer_folder)
    if fingerprint(tokenizer) != manifests[0]["tokenizer_fingerprint"]:
        raise UserError(f"{tokenizer_folder}: the tokenizer there is not the one that {directory} was trained with")
    return RunCheckpoint(tokenizer, _with_source(recipe, directory), manifests, directory, checkpoint)


def _with_source(recipe: Recipe, directory: Path) -> Recipe:
    """The recipe, whose source may be known to the run alone: of what trains whole only the configuration is needed."""
    kept, start = source_config_of(directory), recipe.model.from_checkpoint
    if kept is None or keeps_source(recipe) or Path(start).is_dir():
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"from_checkpoint": str(kept)})})


def _checked(path: Path) -> Path:
    _, problem = verify(path)
    if problem:
        raise UserError(f"{path}: not a complete checkpoint: {problem}")
    return path


def _newest_complete(directory: Path) -> Path:
    problems = []
    for path in newest_first(directory):
        _, problem = verify(path)
        if not problem:
            return path
        problems.append(f"{path.name}: {problem}")
    raise UserError(f"{directory}: no complete checkpoint there{': ' if problems else ''}{'; '.join(problems)}")
