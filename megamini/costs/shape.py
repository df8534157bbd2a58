"""The shape of a model, and how many parameters each part of it has: `BodyShape`, `ExitShape`, `parameter_counts`."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from megamini.errors import UserError
from megamini.recipes.sections import FamilyName

Method = Literal["mlm", "minijoint", "minipost", "head", "standard", "mini"]
"""Pretraining: mlm, minijoint, minipost, head (a fresh head over a frozen body). Adaptation (relearning the
embeddings): standard, over the whole primary model, or mini, over one exit."""


@dataclass(frozen=True)
class ExitShape:
    """A mini-model inside the primary: its bottom `layer` layers, then `bridge_layers` layers of its own."""

    layer: int
    bridge_layers: int = 0

    @property
    def depth(self) -> int:
        """Layers that the mini-model runs."""
        return self.layer + self.bridge_layers

    @property
    def bridge(self) -> range:
        """The primary's layers that the bridge stands in for, counted from 0."""
        return range(self.layer, self.depth)


@dataclass(frozen=True)
class BodyShape:
    """Everything that the cost of a masked language model depends on: the body, and the head tied to its embeddings."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    """Width of the feed-forward network, before its gate where it has one."""
    vocab: int
    gated_ffn: bool = False
    """ModernBERT's GLU: the first matrix is hidden x 2 ffn, one half gates the other."""
    pre_norm: bool = False
    """Layers normalise their input, and a final norm follows the last one (and each exit)."""
    positions: int = 0
    """Rows of the learned position table; 0 for rotary positions."""
    token_types: int = 0
    embedding_norm: bool = True
    first_attention_norm: bool = True
    """ModernBERT's first layer has no attention norm: the embeddings are normalised already."""
    attention_bias: bool = True
    ffn_bias: bool = True
    norm_bias: bool = True
    head_bias: bool = True
    """Bias of the head's dense transform."""
    output_bias: bool = True
    spans: tuple[int | None, ...] = ()
    """Per layer, how many tokens away a token sees, to each side; None: the whole block; empty: so for all layers."""
    skips_outside_span: bool = False
    """Whether attention leaves out what lies outside the span. Flash attention does; sdpa computes the whole square and
    masks it, and PyTorch's FLOP counter counts the square."""

    @classmethod
    def from_config(cls, config: Any, attention: str | None = None) -> "BodyShape":
        """The shape of a `transformers` config of one of our families.

        attention: the implementation that the model will run; None for the config's, which it has of a built model.

        Raises:
            UserError: the config is of another family.
        """
        known = get_args(FamilyName)
        if config.model_type not in known:
            raise UserError(f"model_type {config.model_type!r} is not supported; use one of {', '.join(known)}")
        sizes = {
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "heads": config.num_attention_heads,
            "ffn": int(config.intermediate_size),
            "vocab": config.vocab_size,
        }
        if config.model_type == "modernbert":
            return cls(**sizes, **_modernbert_details(config, attention))
        is_xl = config.model_type == "xlm-roberta-xl"
        return cls(
            **sizes,
            positions=config.max_position_embeddings,
            token_types=config.type_vocab_size,
            pre_norm=is_xl,
            embedding_norm=not is_xl,
        )

    def span(self, layer: int) -> int | None:
        return self.spans[layer] if self.spans else None

    def mini(self, exit_shape: ExitShape) -> "BodyShape":
        """The mini-model of one exit; its bridge layers take the spans of the layers that they stand in for."""
        return replace(self, layers=exit_shape.depth, spans=self.spans[: exit_shape.depth])


def _modernbert_details(config: Any, attention: str | None) -> dict[str, Any]:
    is_sliding = [kind == "sliding_attention" for kind in config.layer_types]
    implementation = attention or getattr(config, "_attn_implementation", None) or ""
    return {
        "gated_ffn": True,
        "pre_norm": True,
        "first_attention_norm": False,
        "attention_bias": config.attention_bias,
        "ffn_bias": config.mlp_bias,
        "norm_bias": config.norm_bias,
        "head_bias": config.classifier_bias,
        "output_bias": config.decoder_bias,
        "spans": tuple(config.local_attention // 2 if sliding else None for sliding in is_sliding),
        "skips_outside_span": implementation.startswith("flash"),
    }


def parameter_counts(shape: BodyShape, method: Method = "mlm", exits: tuple[ExitShape, ...] = ()) -> dict[str, int]:
    """Parameters by group; the tied token matrix counts once.

    `exits` holds the exits' own parameters: bridge layers, and with `minijoint` a head transform each, behind a final
    norm in pre-norm families. `minipost` reuses the model's norm and head. Under `mini` all groups are those of the
    mini-model alone.
    """
    if method == "mini":
        return parameter_counts(shape.mini(only_exit(exits)), "standard")
    width = shape.hidden
    other_embeddings = (shape.positions + shape.token_types) * width
    if shape.embedding_norm:
        other_embeddings += _norm_parameters(shape)
    bridges = sum(exit_shape.bridge_layers for exit_shape in exits)
    missing_norm = 0 if shape.first_attention_norm else _norm_parameters(shape)
    transform = width * width + width * shape.head_bias + _norm_parameters(shape)
    final_norm = _norm_parameters(shape) if shape.pre_norm else 0
    own_heads = len(exits) * (final_norm + transform) if method == "minijoint" else 0
    return {
        "token_embeddings": shape.vocab * width,
        "other_embeddings": other_embeddings,
        "layers": shape.layers * _layer_parameters(shape) - missing_norm,
        "final_norm": final_norm,
        "head_transform": transform,
        "exits": bridges * _layer_parameters(shape) + own_heads,
        "output_bias": shape.vocab * shape.output_bias,
    }


def trainable_parameters(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...] = ()) -> int:
    """Parameters that the method trains: all; in `minipost` the bridge layers; in `head` transform and output bias; in
    adaptation token matrix and bias."""
    counts = parameter_counts(shape, method, exits)
    if method == "minipost":
        return counts["exits"]
    if method == "head":
        return counts["head_transform"] + counts["output_bias"]
    if method in ("standard", "mini"):
        return counts["token_embeddings"] + counts["output_bias"]
    return sum(counts.values())


def hidden_matrices(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...] = ()) -> dict[tuple[int, int], int]:
    """(rows, columns) -> how many such matrices the method trains, but for embeddings: in attention (queries, keys,
    values, output), feed-forward networks (a gate is a matrix of its own) and heads' transforms."""
    bridges = sum(exit_shape.bridge_layers for exit_shape in exits)
    own_heads = len(exits) if method == "minijoint" else 0
    layers, heads = {
        "mlm": (shape.layers, 1),
        "minijoint": (shape.layers + bridges, 1 + own_heads),
        "minipost": (bridges, 0),
        "head": (0, 1),
    }.get(method, (0, 0))
    counts = Counter({(shape.hidden, shape.hidden): 4 * layers + heads})
    counts[shape.ffn, shape.hidden] += layers * (2 if shape.gated_ffn else 1)
    counts[shape.hidden, shape.ffn] += layers
    return {size: count for size, count in counts.items() if count}


def matrix_parameters(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...] = ()) -> int:
    """Parameters in `hidden_matrices`."""
    return sum(rows * columns * count for (rows, columns), count in hidden_matrices(shape, method, exits).items())


def only_exit(exits: tuple[ExitShape, ...]) -> ExitShape:
    """The one exit of a method that builds on a single mini-model."""
    if len(exits) != 1:
        raise ValueError(f"this method takes one exit, not {len(exits)}")
    return exits[0]


def _norm_parameters(shape: BodyShape) -> int:
    return shape.hidden * (1 + shape.norm_bias)


def _layer_parameters(shape: BodyShape) -> int:
    """Query, key, value and output matrices, the feed-forward network, two norms."""
    width = shape.hidden
    attention = 4 * width * width + 4 * width * shape.attention_bias
    inner = shape.ffn * (2 if shape.gated_ffn else 1)
    feed_forward = width * inner + shape.ffn * width + (inner + width) * shape.ffn_bias
    return attention + feed_forward + 2 * _norm_parameters(shape)


def largest_part(counts: dict[str, int], layers: int) -> int:
    """Elements of the largest part of a model that is made, or gathered, as one: the token matrix, or a layer.

    counts: as `parameter_counts` gives them.
    """
    return max(counts["token_embeddings"], counts["layers"] // layers)
