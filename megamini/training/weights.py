"""The primary model of a run with the weights of a checkpoint, from the plain engine or any ZeRO stage, in fp32."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from megamini.config import Recipe, load_recipe
from megamini.data.blocks import fingerprint_of_all, load_manifest
from megamini.data.tokenizer import fingerprint, load_tokenizer
from megamini.errors import UserError
from megamini.models.build import build_primary
from megamini.models.masked_lm import PrimaryModel, assert_tied
from megamini.training.checkpoint import is_checkpoint, newest_first
from megamini.training.identity import check_identity, identity_of
from megamini.training.manifest import read_manifest, verify
from megamini.training.shards import WEIGHT, Shards


@dataclass(frozen=True)
class LoadedRun:
    """A run's primary model as of one checkpoint."""

    model: PrimaryModel
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    data_manifests: list[dict[str, Any]]
    """Of each data directory."""
    directory: Path
    checkpoint: Path


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory or a checkpoint in one."""
    return (_run_directory(path) / "recipe.yaml").is_file()


def _run_directory(path: Path) -> Path:
    return path.parent.parent if is_checkpoint(path) else path


def load_run(path: Path) -> LoadedRun:
    """The model of a run directory (its newest complete checkpoint) or of one checkpoint in it.

    Only what its manifest verifies is read. Raises `UserError` for anything else than a run made here.
    """
    directory = _run_directory(path)
    if not is_run(path):
        raise UserError(f"{path}: neither a run directory (no recipe.yaml) nor one of its checkpoints")
    recipe = load_recipe(directory / "recipe.yaml", ["model.attention=sdpa"])  # whatever the run used, a CPU reads it
    checkpoint = _checked(path) if is_checkpoint(path) else _newest_complete(directory / "checkpoints")
    manifests = [load_manifest(path) for path in recipe.data.paths]
    written = read_manifest(checkpoint)[0]
    check_identity(
        identity_of(recipe, fingerprint_of_all(manifests, recipe.data.weights)), written["identity"], checkpoint
    )
    first = recipe.data.paths[0]
    tokenizer = load_tokenizer(first)
    if fingerprint(tokenizer) != manifests[0]["tokenizer_fingerprint"]:
        raise UserError(f"{first}: the tokenizer there is not the one that {directory} was trained with")
    model = build_primary(recipe, tokenizer, manifests[0]["block_length"])
    _load_weights(model, checkpoint)
    return LoadedRun(model.eval(), tokenizer, recipe, manifests, directory, checkpoint)


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


def _load_weights(model: PrimaryModel, checkpoint: Path) -> None:
    """Overwrite all that trains; every one must be there, and nothing else. The rest is that of the run's source."""
    shards = Shards(checkpoint)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}  # a tied matrix appears once
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(shards.read(WEIGHT, name, 0, parameter.numel()).reshape(parameter.shape))
    if unexpected := shards.names() - trained.keys():
        raise UserError(f"{checkpoint}: holds '{min(unexpected)}', which the recipe's model has not")
    assert_tied(model.model)
