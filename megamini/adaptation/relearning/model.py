"""A frozen body, and for each language a token matrix, an output bias and, where the body has an output matrix of its
own, such a matrix, that learn over it."""

from collections.abc import Collection, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from megamini.data.batches import Batch
from megamini.models.families import embed, family_of, run_body
from megamini.models.joint_loss import joint_cross_entropy


class RelearnModel(nn.Module):
    """Languages side by side over one body: their blocks share each pass, and nothing that trains.

    `starts`: language -> (token matrix fp32 [V, d], output bias fp32 [V]). `outputs`: language -> output matrix fp32
    [V, d], where the body does not tie it. `body`: a language model whose own token matrix is dropped, for nothing
    looks at it any more. `primary`: another one, for validation only. `unplaced`: ids of
    a language that will be where the source has its pad, though texts hold them too; RoBERTa counts positions without
    these. The loss is the sum of the languages' means, so that each gradient is that of the language learned alone.
    `own`: ids int64 [N] of the rows that a language learns, where the others are the source's and stay; they are frozen
    parameters of their own, so that nothing can move them.
    """

    def __init__(
        self,
        body: PreTrainedModel,
        starts: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        train_bias: bool = True,
        primary: PreTrainedModel | None = None,
        workspace_bytes: int = 256 * 2**20,
        unplaced: Mapping[str, Collection[int]] | None = None,
        outputs: Mapping[str, torch.Tensor] | None = None,
        own: Mapping[str, torch.Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        self._unplaced = unplaced or {}
        self.body, self.primary = _without_vocabulary(body), None
        if primary is not None:
            self.primary = _without_vocabulary(primary)
        # Lists, since a dictionary of parameters cannot hold a language named as a method of modules (to, Tongan).
        own = [(own or {}).get(language) for language in starts]
        learned = [
            (matrix, bias) if ids is None else (matrix[ids], bias[ids])
            for (matrix, bias), ids in zip(starts.values(), own, strict=True)
        ]
        self._matrices = nn.ParameterList(nn.Parameter(matrix) for matrix, _ in learned)
        self._biases = nn.ParameterList(nn.Parameter(bias, requires_grad=train_bias) for _, bias in learned)
        # All rows, of which the learned ones are not looked at; empty where all are learned.
        whole = [
            start[:0] if ids is None else start
            for pair, ids in zip(starts.values(), own, strict=True)
            for start in pair
        ]
        self._kept = nn.ParameterList(nn.Parameter(start, requires_grad=False) for start in whole)
        for number, ids in enumerate(own):
            self.register_buffer(f"_own_{number}", ids, persistent=False)
        self.head_names = tuple(starts)
        untied = [(outputs[name], ids) for name, ids in zip(self.head_names, own, strict=True) if outputs]
        self._outputs = nn.ParameterList(nn.Parameter(one if ids is None else one[ids]) for one, ids in untied)
        self._kept_outputs = nn.ParameterList(
            nn.Parameter(one[:0] if ids is None else one, requires_grad=False) for one, ids in untied
        )
        self.workspace_bytes = workspace_bytes
        self._stopped: set[str] = set()

    @property
    def matrices(self) -> dict[str, nn.Parameter]:
        """Language -> token matrix [V, d], or the rows [N, d] of it that are learned."""
        return dict(zip(self.head_names, self._matrices, strict=True))

    @property
    def biases(self) -> dict[str, nn.Parameter]:
        """Language -> output bias [V], or the numbers [N] of it that are learned."""
        return dict(zip(self.head_names, self._biases, strict=True))

    def vocabulary(self, language: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token matrix [V, d], output matrix [V, d] and output bias [V], kept rows and learned ones."""
        number = self.head_names.index(language)
        matrix, bias, ids = self._matrices[number], self._biases[number], getattr(self, f"_own_{number}")
        if ids is None:
            return matrix, self.outputs[language], bias
        matrix = output = self._kept[2 * number].index_copy(0, ids, matrix)
        if self._outputs:
            output = self._kept_outputs[number].index_copy(0, ids, self._outputs[number])
        return matrix, output, self._kept[2 * number + 1].index_copy(0, ids, bias)

    @property
    def outputs(self) -> dict[str, nn.Parameter]:
        """Language -> output matrix [V, d], or the rows [N, d] of it that are learned: the token matrix, or the one of
        its own."""
        return dict(zip(self.head_names, self._outputs or self._matrices, strict=True))

    @property
    def token_matrices(self) -> tuple[nn.Parameter, ...]:
        return (*self._matrices, *self._outputs)

    @property
    def hidden_matrices(self) -> tuple[()]:
        """None: the body is frozen."""
        return ()

    @property
    def layers(self) -> nn.ModuleList:
        """Of the body learned over."""
        return family_of(self.body.config).layer_list(self.body)

    @property
    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Each language by itself."""
        groups = zip(self._matrices, self._biases, self._outputs or self._matrices, strict=True)
        return [list({id(p): p for p in group if p.requires_grad}.values()) for group in groups]

    def stop_head(self, name: str) -> None:
        """Learn this language no more: its blocks are passed over from now on."""
        self._stopped.add(name)

    def train(self, mode: bool = True) -> "RelearnModel":
        super().train(mode)
        if self.primary is not None:
            self.primary.eval()
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and losses at the predicted positions; n languages, whose b blocks each stand behind one another.

        input_ids: int64 [n * b, L]. positions: int64 [n * R], indices into the n * b * L flattened positions. labels:
        int64 [n * R]. weights: fp32 [n * R], of the positions in the means; unset, 1 each. Returns the sum of the
        languages' mean negative log-likelihoods (fp32 scalar), and the negative log-likelihoods in nats times their
        weights (fp32 [n, R], detached; zeros for a language that has stopped).
        """
        count = len(self.head_names)
        ids, rows_of, labels = input_ids.unflatten(0, (count, -1)), positions.view(count, -1), labels.view(count, -1)
        going = [number for number, name in enumerate(self.head_names) if name not in self._stopped]
        per_language = ids[0].numel()
        # Where a language's blocks stand once those of stopped ones before it are left out.
        moved = torch.cat([rows_of[old] + (new - old) * per_language for new, old in enumerate(going)])
        vocabularies = {number: self.vocabulary(self.head_names[number]) for number in going}
        embedded = torch.cat([embed(self.body, ids[number], vocabularies[number][0]) for number in going])
        positions = [self._positions(self.head_names[number], ids[number], self.body) for number in going]
        position_ids = None if positions[0] is None else torch.cat(positions)
        if attention_mask is not None:
            attention_mask = attention_mask.unflatten(0, (count, -1))[going].flatten(0, 1)
        rows = _head_rows(self.body, embedded, moved, attention_mask, position_ids).chunk(len(going))

        losses = torch.zeros(labels.shape, device=input_ids.device)
        total = torch.zeros((), device=input_ids.device)
        each = [None] * count if weights is None else weights.view(count, -1)
        for number, own_rows in zip(going, rows, strict=True):
            loss, losses[number] = self._loss(vocabularies[number], own_rows, labels[number], each[number])
            total = total + loss
        return total, losses

    def losses_of(self, language: str, batch: Batch, body: PreTrainedModel) -> torch.Tensor:
        """Negative log-likelihoods fp32 [1, R] of one language's batch through `body`: the own one, or `primary`."""
        vocabulary = self.vocabulary(language)
        embedded = embed(body, batch.input_ids, vocabulary[0])
        position_ids = self._positions(language, batch.input_ids, body)
        rows = _head_rows(body, embedded, batch.positions, batch.attention_mask, position_ids)
        return self._loss(vocabulary, rows, batch.labels)[1][None]

    def _positions(self, language: str, ids: torch.Tensor, body: PreTrainedModel) -> torch.Tensor | None:
        """Position ids [b, L] as RoBERTa gives them by the ids of tokens; None where it needs none to be told."""
        if not (any(self._unplaced.values()) and family_of(body.config).pads_shift_positions):
            return None
        unplaced = torch.tensor(sorted(self._unplaced.get(language, ())), device=ids.device, dtype=ids.dtype)
        placed = ~torch.isin(ids, unplaced)
        return placed.cumsum(1) * placed + body.config.pad_token_id

    def _loss(
        self,
        vocabulary: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        rows: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        coefficients = torch.full((len(labels),), 1 / len(labels), device=rows.device)
        if weights is not None:
            coefficients = coefficients * weights
        _, output, bias = vocabulary
        loss, losses = joint_cross_entropy(rows, output, bias, labels, coefficients, self.workspace_bytes)
        return loss, losses if weights is None else losses * weights


def _head_rows(
    body: PreTrainedModel,
    embedded: torch.Tensor,
    positions: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> torch.Tensor:
    """What the head projects onto a vocabulary, [R, d], from token embeddings [b, L, d]."""
    family = family_of(body.config)
    placed = {} if position_ids is None else {"position_ids": position_ids}
    states = run_body(body, inputs_embeds=embedded, attention_mask=attention_mask, **placed).last_hidden_state
    return family.apply_transform(family.transform_modules(body), states.flatten(0, 1).index_select(0, positions))


def _without_vocabulary(body: PreTrainedModel) -> PreTrainedModel:
    """The body frozen, its token and output matrices empty: several hundred megabytes with a large vocabulary."""
    body.requires_grad_(False)
    width = body.get_input_embeddings().embedding_dim
    empty = nn.Parameter(torch.empty(0, width), requires_grad=False)
    body.get_input_embeddings().weight = empty
    body.get_output_embeddings().weight = empty
    return body
