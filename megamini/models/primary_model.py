"""The primary model: a language model of `transformers` with further heads (exits) at lower layers, and one loss."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from megamini.errors import UserError
from megamini.library_internals import check_internals
from megamini.models.families import Family, family_of, is_untied, run_body
from megamini.models.joint_loss import joint_cross_entropy

check_internals(__name__)


class Exit(nn.Module):
    """A head at a lower layer: a final norm where the family has one, and a transform. The projection is the model's.

    Names of its parameters are the ones they have in the exported mini-model, with dots as the module tree allows.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__()
        self._apply_transform = family.apply_transform
        self.norm = _fresh_copy(model, model.get_submodule(family.final_norm)) if family.final_norm else nn.Identity()
        self.transform = nn.ModuleList(_fresh_copy(model, module) for module in family.transform_modules(model))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Hidden states of predicted positions [R, d] to what is projected onto the vocabulary [R, d]."""
        return self._apply_transform(list(self.transform), self.norm(states))


class PrimaryModel(nn.Module):
    """A masked or causal language model of `transformers` with exits.

    `model` keeps the library's names; `exits` holds one `Exit` per layer number. All heads share the output matrix,
    which is that of the token embeddings but in decoders that do not tie them, and the output bias. `top_name` is the
    name of the head on top: of a mini-model that is a model by itself, the name of its exit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        exits: Sequence[int] = (),
        head_weights: Sequence[float] | None = None,
        workspace_bytes: int = 256 * 2**20,
        top_name: str = "primary",
    ) -> None:
        super().__init__()
        self.family = family_of(model.config)
        check_exits(exits, model.config.num_hidden_layers)
        assert_tied(model)
        self.model = model
        self.exit_layers = tuple(exits)
        self.exits = nn.ModuleDict({str(layer): Exit(model, self.family) for layer in exits})
        self.head_weights = tuple(head_weights or [1 / (len(exits) + 1)] * (len(exits) + 1))
        self.workspace_bytes = workspace_bytes
        self._top_name = top_name

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the heads in the order of losses: exits first, the one on top last."""
        return (*(f"exit_{layer}" for layer in self.exit_layers), self._top_name)

    @property
    def token_embeddings(self) -> nn.Parameter:
        """The matrix [V, d] of the token embeddings, mostly also that of the output."""
        return self.model.get_input_embeddings().weight

    @property
    def token_matrices(self) -> tuple[nn.Parameter, ...]:
        """As `models.trained_model.TrainedModel` wants them."""
        output = self.model.get_output_embeddings().weight
        return (self.token_embeddings,) if output is self.token_embeddings else (self.token_embeddings, output)

    @property
    def hidden_matrices(self) -> tuple[tuple[nn.Parameter, int], ...]:
        """As `models.trained_model.TrainedModel` wants them: of attention, feed-forward networks and heads."""
        linear = [(name, module.weight) for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        of_tokens = {id(matrix) for matrix in self.token_matrices}
        return tuple(
            (weight, self.family.matrices_in(name))
            for name, weight in linear
            if weight.requires_grad and id(weight) not in of_tokens
        )

    @property
    def layers(self) -> nn.ModuleList:
        """As `models.trained_model.TrainedModel` wants them."""
        return self.family.layer_list(self.model)

    @property
    def clipped_together(self) -> list[list[nn.Parameter]]:
        """All that trains, by its one norm."""
        return [[parameter for parameter in self.parameters() if parameter.requires_grad]]

    @property
    def token_matrix_shape(self) -> tuple[int, int]:
        """(V, d), also where ZeRO-3 has partitioned the matrix itself."""
        embeddings = self.model.get_input_embeddings()
        return embeddings.num_embeddings, embeddings.embedding_dim

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and per-head losses at the predicted positions.

        input_ids: int64 [b, L]. positions: int64 [R], indices into the b * L flattened positions. labels: int64 [R].
        weights: fp32 [R], of the positions in the mean; unset, 1 each. Returns the weighted mean over heads of the mean
        negative log-likelihood (fp32 scalar), and the negative log-likelihoods in nats times their weights (fp32
        [heads, R], detached; order of `head_names`).
        """
        rows = self.head_rows(input_ids, positions, attention_mask)
        output = self.model.get_output_embeddings()
        count, heads = len(labels), len(self.head_weights)
        # Filled on the device: a tensor made from a Python list would wait for it in every micro-batch.
        coefficients = torch.cat([torch.full((count,), w / count, device=rows.device) for w in self.head_weights])
        if weights is not None:
            coefficients = coefficients * weights.repeat(heads)
        loss, losses = joint_cross_entropy(
            rows, output.weight, output.bias, labels.repeat(heads), coefficients, self.workspace_bytes
        )
        losses = losses.view(heads, count)
        return loss, losses if weights is None else losses * weights

    def head_rows(
        self, input_ids: torch.Tensor, positions: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What every head projects onto the vocabulary, [heads * R, d], head by head in the order of `head_names`."""
        body = run_body(
            self.model,
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=list(self.exit_layers) or None,
        )
        top = self.family.apply_transform(
            self.family.transform_modules(self.model), _at(body.last_hidden_state, positions)
        )
        lower = [self.exits[str(layer)](_at(body.hidden_states[layer], positions)) for layer in self.exit_layers]
        return torch.cat([*lower, top])


def check_exits(exits: Sequence[int], layers: int, bridge_layers: int = 0) -> None:
    """Raise `UserError` for an exit that is not below the top, or whose bridge would not fit below it."""
    for layer in exits:
        if not 1 <= layer < layers:
            raise UserError(f"model.exits: layer {layer} is not below the top of a body of {layers} layers")
        if layer + bridge_layers > layers:
            raise UserError(
                f"model.bridge_layers: {layer} layers and a bridge of {bridge_layers} are more than the body's {layers}"
            )


def assert_tied(model: PreTrainedModel) -> None:
    """Raise `UserError` unless input embeddings and output projection are one parameter; a decoder says in its
    configuration whether they are."""
    if is_untied(model.config):
        return
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        raise UserError(
            "model: token embeddings and output matrix are not tied in this checkpoint, but the method needs it; "
            "use one with tie_word_embeddings: true"
        )


def _at(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows of states [b, L, d] at flattened positions [R]."""
    return states.flatten(0, 1).index_select(0, positions)


def _fresh_copy(model: PreTrainedModel, module: nn.Module) -> nn.Module:
    """A module of the same shape with the library's initial weights (children first, as the library does it)."""

    def initialise(part: nn.Module) -> None:
        part._is_hf_initialized = False
        for parameter in part.parameters(recurse=False):
            parameter._is_hf_initialized = False
        model._init_weights(part)

    return copy.deepcopy(module).apply(initialise)
