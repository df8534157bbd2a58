"""What is planned: a recipe's shape and lengths, with or without its data at hand."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from megamini.costs.flops import (
    hidden_matrices,
    matrix_parameters,
    muon_flops_of_a_rank,
    parameter_counts,
    trainable_parameters,
    training_flops,
)
from megamini.costs.shape import BodyShape, ExitShape
from megamini.data.blocks import load_manifest
from megamini.data.masking import MaskSchedule
from megamini.data.next_token import NextTokenSchedule
from megamini.errors import UserError
from megamini.models.build import body_config, check_positions, is_causal
from megamini.models.lora import lora_rank
from megamini.models.pretrained import load_config
from megamini.models.primary_model import check_exits
from megamini.recipes.recipe import Recipe
from megamini.training.schedule import build_mask_schedule, build_schedule, check_mask_stages


@dataclass(frozen=True)
class Vocabulary:
    """Stands in for a tokenizer that is not trained yet: its size, and special tokens where RoBERTa has them."""

    pieces: int
    bos_token_id: int = 0
    cls_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    sep_token_id: int = 2

    def __len__(self) -> int:
        return self.pieces


@dataclass(frozen=True)
class Subject:
    """A pretraining run on paper."""

    recipe: Recipe
    shape: BodyShape
    exits: tuple[ExitShape, ...]
    mask_schedule: MaskSchedule | NextTokenSchedule
    updates: int

    @property
    def block_length(self) -> int:
        return self.mask_schedule.block_length

    @property
    def method(self) -> str:
        return self.recipe.objective.method

    @property
    def parameters(self) -> dict[str, int]:
        return parameter_counts(self.shape, self.method, self.exits)

    @property
    def trainable(self) -> int:
        return trainable_parameters(self.shape, self.method, self.exits)

    @property
    def muon_parameters(self) -> int:
        """How many of those that train Muon moves."""
        return matrix_parameters(self.shape, self.method, self.exits) if self.recipe.optimizer.muon_settings else 0

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest one that Muon moves; 0 with AdamW."""
        sizes = hidden_matrices(self.shape, self.method, self.exits) if self.recipe.optimizer.muon_settings else {}
        return max((rows * columns for rows, columns in sizes), default=0)

    def muon_flops(self, ranks: int) -> float:
        """Of one update on the rank that has the most to do, beside the model's; 0 with AdamW."""
        muon = self.recipe.optimizer.muon_settings
        steps = muon.newton_schulz_steps if muon else 0
        return muon_flops_of_a_rank(self.shape, self.method, self.exits, steps, ranks)

    @property
    def tokens_per_update(self) -> int:
        return self.recipe.training.global_batch * self.block_length

    def flops(self, method: str | None = None, exits: tuple[ExitShape, ...] | None = None) -> int:
        """Model FLOPs of the whole run; of another method than the recipe's, for comparison."""
        method, exits = method or self.method, self.exits if exits is None else exits
        of_blocks = (
            updates * training_flops(self.shape, self.block_length, masked, method, exits)
            for updates, masked in self.mask_schedule.along(self.updates)
        )
        return sum(of_blocks) * self.recipe.training.global_batch


def sizes_in_data(recipe: Recipe) -> tuple[int, int] | None:
    """Number of pieces and block length of a recipe's data; None where they are not there."""
    first = recipe.data.paths[0]
    if not (Path(first) / "manifest.json").is_file():
        return None
    manifest = load_manifest(first)
    return manifest["vocab_size"], manifest["block_length"]


def pieces_of_checkpoint(recipe: Recipe) -> int | None:
    """Rows of the token matrix of the checkpoint that a recipe starts from; None from scratch. Raises UserError where
    the checkpoint cannot be read."""
    return _source_config(recipe).vocab_size if recipe.model.from_checkpoint else None


def _source_config(recipe: Recipe) -> PretrainedConfig:
    start = recipe.model.from_checkpoint
    return load_config(start, f"model.from_checkpoint: {start}", recipe.model.dropout)


def _config(recipe: Recipe, vocab_size: int, block_length: int) -> PretrainedConfig:
    if recipe.model.from_checkpoint is None:
        return body_config(recipe.model, Vocabulary(vocab_size), block_length)
    config, where = _source_config(recipe), f"model.from_checkpoint: {recipe.model.from_checkpoint}"
    check_positions(config, Vocabulary(vocab_size), block_length, where)
    check_exits(recipe.model.exits, config.num_hidden_layers, recipe.model.bridge_layers)
    config.vocab_size = vocab_size
    return config


def subject_of(recipe: Recipe, vocab_size: int, block_length: int) -> Subject:
    """The run of a recipe, on data of so many pieces and blocks so long. Raises UserError where the stretches of its
    schedule, or the stages of its mask share, do not fit into it."""
    config, causal = _config(recipe, vocab_size, block_length), is_causal(recipe.model)
    if problem := recipe.objective.problem_of(causal):
        raise UserError(problem)
    exits = tuple(ExitShape(layer, recipe.model.bridge_layers) for layer in recipe.model.exits)
    global_batch = recipe.training.global_batch
    masks = build_mask_schedule(recipe.objective, block_length, global_batch, causal)
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, global_batch * block_length)
    check_mask_stages(masks, schedule.updates)
    shape = BodyShape.from_config(config, recipe.model.attention, lora_rank(recipe))
    return Subject(recipe, shape, exits, masks, schedule.updates)
