"""The shape of a model, and how many parameters each part of it has: `BodyShape`, `ExitShape`, `parameter_counts`."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from megamini.errors import UserError
from megamini.recipes.values import DecoderName, FamilyName

Method = Literal["mlm", "causal", "minijoint", "minipost", "head", "lora", "embeddings", "standard", "mini"]
"""Pretraining: mlm (causal: of a decoder, whose costs are alike), minijoint, minipost, head (a fresh head over a frozen
body), lora (token matrices, and low-rank updates of the layers' matrices), embeddings (token matrices alone).
Adaptation (relearning the embeddings): standard, over the whole primary model, or mini, over one exit."""

TOKENS_ALONE: tuple[Method, ...] = ("embeddings", "standard", "mini")
"""Methods that train token matrices and output bias over a frozen body."""


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
    """Everything that the cost of a language model depends on: body, and head, mostly tied to the embeddings."""

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
    causal: bool = False
    """A decoder. Its attention counts as the whole square, as for an encoder (Chowdhery et al. 2022, appendix B)."""
    kv_heads: int | None = None
    """Heads of keys and values, where several of the queries share one; None: as many as of queries."""
    head_width: int | None = None
    """None: hidden / heads."""
    attention_output_bias: bool | None = None
    """None: as `attention_bias`."""
    head_norms: bool = False
    """Qwen3 normalises queries and keys, head by head."""
    fused_attention: bool = False
    """Queries, keys and values come out of one matrix."""
    interleaved_heads: bool = False
    """GPT-NeoX: that matrix holds them head by head, so that it counts as one."""
    parallel_layers: bool = False
    """GPT-NeoX: attention and feed-forward network read the same states."""
    rms_norm: bool = False
    """Norms that the library computes step by step, in fp32."""
    drops_states: bool = True
    """Whether there is dropout of hidden states."""
    transform: bool = True
    """A head has a matrix and a norm before the projection onto the vocabulary."""
    tied: bool = True
    """That projection is the token matrix."""
    lora_rank: int = 0
    """Of the low-rank update beside each matrix of a layer; 0: there are none."""

    @classmethod
    def from_config(cls, config: Any, attention: str | None = None, lora_rank: int = 0) -> "BodyShape":
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
        if config.model_type in get_args(DecoderName):
            return cls(**sizes, **_decoder_details(config, attention), lora_rank=lora_rank)
        is_xl = config.model_type == "xlm-roberta-xl"
        return cls(
            **sizes,
            positions=config.max_position_embeddings,
            token_types=config.type_vocab_size,
            pre_norm=is_xl,
            embedding_norm=not is_xl,
        )

    @property
    def query_width(self) -> int:
        """Of all heads together."""
        return self.heads * self.head_width if self.head_width else self.hidden

    @property
    def key_width(self) -> int:
        """Of the keys of all heads together, and of the values."""
        return self.query_width * self.kv_heads // self.heads if self.kv_heads else self.query_width

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
        "fused_attention": True,
    }


def _decoder_details(config: Any, attention: str | None) -> dict[str, Any]:
    kind = config.model_type
    is_neox, window = kind == "gpt_neox", getattr(config, "sliding_window", None)
    sliding = [one == "sliding_attention" for one in getattr(config, "layer_types", None) or ()] if window else []
    implementation = attention or getattr(config, "_attn_implementation", None) or ""
    bias = kind == "qwen2" or config.attention_bias
    return {
        "causal": True,
        "pre_norm": True,
        "embedding_norm": False,
        "gated_ffn": not is_neox,
        "kv_heads": getattr(config, "num_key_value_heads", None),
        "head_width": getattr(config, "head_dim", None),
        "attention_bias": bias,
        "attention_output_bias": bias and kind != "qwen2",
        "ffn_bias": is_neox or getattr(config, "mlp_bias", False),
        "norm_bias": is_neox,
        "head_norms": kind == "qwen3",
        "fused_attention": is_neox,
        "interleaved_heads": is_neox,
        "parallel_layers": is_neox and config.use_parallel_residual,
        "rms_norm": not is_neox,
        "drops_states": is_neox,
        "transform": False,
        "output_bias": False,
        "tied": config.tie_word_embeddings,
        "spans": tuple(window if one else None for one in sliding),
        "skips_outside_span": implementation.startswith("flash"),
    }


def parameter_counts(shape: BodyShape, method: Method = "mlm", exits: tuple[ExitShape, ...] = ()) -> dict[str, int]:
    """Parameters by group; a tied token matrix counts once.

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
    transform = (width * width + width * shape.head_bias + _norm_parameters(shape)) * shape.transform
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
        "output_embeddings": 0 if shape.tied else shape.vocab * width,
        "low_rank_updates": shape.layers * shape.lora_rank * sum(sum(size) for size in layer_matrices(shape)),
    }


def trainable_parameters(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...] = ()) -> int:
    """Parameters that the method trains: all; in `minipost` the bridge layers; in `head` transform and output bias; in
    adaptation token matrix, bias, and the output matrix where it is another one; in `lora` the low-rank updates too."""
    counts = parameter_counts(shape, method, exits)
    if method == "minipost":
        return counts["exits"]
    if method == "head":
        return counts["head_transform"] + counts["output_bias"]
    if method in ("lora", *TOKENS_ALONE):
        tokens = counts["token_embeddings"] + counts["output_bias"] + counts["output_embeddings"]
        return tokens + counts["low_rank_updates"]
    return sum(counts.values())


def hidden_matrices(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...] = ()) -> dict[tuple[int, int], int]:
    """(rows, columns) -> how many such matrices the method trains, but for embeddings: in attention (queries, keys,
    values, output), feed-forward networks (a gate is a matrix of its own) and heads' transforms."""
    bridges = sum(exit_shape.bridge_layers for exit_shape in exits)
    own_heads = len(exits) if method == "minijoint" else 0
    layers, heads = {
        "mlm": (shape.layers, 1),
        "causal": (shape.layers, 1),
        "minijoint": (shape.layers + bridges, 1 + own_heads),
        "minipost": (bridges, 0),
        "head": (0, 1),
    }.get(method, (0, 0))
    counts = Counter({(shape.hidden, shape.hidden): heads * shape.transform})
    for size in layer_matrices(shape):
        counts[size] += layers
    return {size: count for size, count in counts.items() if count}


def layer_matrices(shape: BodyShape) -> list[tuple[int, int]]:
    """(rows, columns) of the matrices of one layer: queries, keys, values, output, the feed-forward network's."""
    queries, keys, width = shape.query_width, shape.key_width, shape.hidden
    if shape.interleaved_heads:
        attention = [(queries + 2 * keys, width)]
    else:
        attention = [(queries, width), (keys, width), (keys, width)]
    inner = [(shape.ffn, width)] * (2 if shape.gated_ffn else 1)
    return [*attention, (width, queries), *inner, (width, shape.ffn)]


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
    """Query, key, value and output matrices, norms of heads, the feed-forward network, two norms."""
    width, queries, keys = shape.hidden, shape.query_width, shape.key_width
    output_bias = shape.attention_bias if shape.attention_output_bias is None else shape.attention_output_bias
    attention = 2 * width * (queries + keys) + (queries + 2 * keys) * shape.attention_bias + width * output_bias
    attention += 2 * queries // shape.heads * shape.head_norms
    inner = shape.ffn * (2 if shape.gated_ffn else 1)
    feed_forward = width * inner + shape.ffn * width + (inner + width) * shape.ffn_bias
    return attention + feed_forward + 2 * _norm_parameters(shape)


def largest_part(counts: dict[str, int], layers: int) -> int:
    """Elements of the largest part of a model that is made, or gathered, as one: the token matrix, or a layer.

    counts: as `parameter_counts` gives them.
    """
    return max(counts["token_embeddings"], counts["layers"] // layers)
