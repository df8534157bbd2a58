"""What every engine has to equal: plain PyTorch in one process, the whole global batch at once, logits in full.

Nothing of our loss, engines, loop, optimizer groups or schedule is used. From our code come the initial weights, the
blocks with their masks, and the draw of a forgotten matrix.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from megamini.data.batches import Batch, validation_batches
from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule, mask_blocks
from megamini.data.order import blocks_at
from megamini.data.tokenizer import load_tokenizer, special_ids
from megamini.models.build import build_primary
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.recipe import Recipe
from megamini.training.forgetting import Forgetting
from tests.integration.cases import (
    DECODERS,
    FORGET_EVERY,
    GLOBAL_BATCH,
    HIGH_MASK_SHARE,
    LEARNING_RATE,
    LOWERED_AFTER,
    MASK_SHARE,
    REMEMBER_LAST,
    UPDATES,
    VALIDATE_EVERY,
    WARMUP,
    Case,
)


@dataclass
class Curve:
    """A run's numbers: scalars by TensorBoard name and update, and the parameters at the end."""

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)

    def record(self, update: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.scalars.setdefault(name, {})[update] = value


def train_reference(case: Case, data: Path) -> Curve:
    """The curve of `case` at dropout 0, whatever its engine, ranks and accumulation."""
    values = case.recipe(data, Path("unused"))
    values["training"] |= {"activation_checkpointing": False, "precision": "fp32"}
    recipe = Recipe.model_validate(values)
    tokenizer = load_tokenizer(str(data))
    blocks, validation = Blocks(str(data), "train"), Blocks(str(data), "validation")
    rule = masking_rule(tokenizer)
    primary = build_primary(recipe, tokenizer, blocks.block_length).train()
    matrices = _token_matrices(primary)
    trained = _trained(primary, case)
    muon = ReferenceMuon(
        {
            name: p
            for name, p in trained.items()
            if case.muon and p.dim() > 1 and not any(p is one for one in matrices) and "embeddings" not in name
        }
    )
    others = [p for p in trained.values() if not any(p is own for own in muon.matrices.values())]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in others if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in others if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        eps=case.eps,
        fused=False,
    )
    curve = Curve()
    for update in range(UPDATES):
        high = case.lowered and update < LOWERED_AFTER
        masks = replace(rule, share=HIGH_MASK_SHARE) if high else rule
        if case.causal:
            heads = _next_token_losses_of_global_batch(primary, blocks, tokenizer, case, update)
        else:
            heads = _losses_of_global_batch(primary, blocks, masks, update)
        weights = case.head_weights or [1.0] * len(heads)
        loss = sum(w * mean for w, mean in zip(weights, heads.values(), strict=True)) / sum(weights)
        primary.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(primary.parameters(), case.clip_norm or float("inf"))
        rate = LEARNING_RATE * ((update + 1) / WARMUP if update < WARMUP else _linear_fall(update))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        muon.step(rate)

        done = update + 1
        curve.record(done, {f"train/loss_{name}": mean.item() for name, mean in heads.items()})
        curve.record(done, {"train/loss": loss.item(), "train/lr": rate, "train/grad_norm": norm.item()})
        if case.forgetting and done % FORGET_EVERY == 0 and done <= UPDATES - REMEMBER_LAST:
            forgetting = Forgetting(FORGET_EVERY, UPDATES, 3, tokenizer.pad_token_id, 0.02)
            drawn = forgetting.draw_all(tuple(matrices[0].shape), done, len(matrices))
            for matrix, fresh in zip(matrices, drawn, strict=True):
                matrix.data.copy_(fresh)
                del optimizer.state[matrix]  # moments and step counter
        if done % VALIDATE_EVERY == 0 or done == UPDATES:
            if case.causal:
                curve.record(done, _next_token_validation_losses(primary, validation, tokenizer, case))
            else:
                curve.record(done, _validation_losses(primary, validation, rule))
    curve.parameters = {name: p.detach().clone() for name, p in primary.named_parameters()}
    return curve


class ReferenceMuon:
    """Muon as Jordan et al. 2024 write it, one matrix after the other, in fp32, with the size of updates of Liu et al.
    2025. ModernBERT's queries, keys and values, and what its feed-forward network activates and its gate, count as
    matrices of their own."""

    def __init__(self, matrices: dict[str, torch.nn.Parameter]) -> None:
        self.matrices = matrices
        self._momentum = {name: torch.zeros_like(p) for name, p in matrices.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for name, parameter in self.matrices.items():
            buffer = self._momentum[name]
            buffer.copy_(0.95 * buffer + 0.05 * parameter.grad)
            ahead = 0.95 * buffer + 0.05 * parameter.grad
            parts = 3 if "Wqkv" in name else 2 if "mlp.Wi" in name else 1
            updates = [0.2 * max(part.shape) ** 0.5 * self._orthogonal(part) for part in ahead.chunk(parts)]
            parameter.copy_(parameter - rate * (0.1 * parameter + torch.cat(updates)))

    @staticmethod
    def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
        x = matrix / matrix.norm()
        for _ in range(5):
            if x.shape[0] <= x.shape[1]:
                gram = x @ x.T
                x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
            else:
                gram = x.T @ x
                x = 3.4445 * x - 4.7750 * x @ gram + 2.0315 * x @ gram @ gram
        return x


def _trained(primary: PrimaryModel, case: Case) -> dict[str, torch.nn.Parameter]:
    """What the method trains, written out by name: all; with MiniPost the layer behind the first, and no other; with
    LoRA token matrices and factors."""
    if case.lora or case.tokens_alone:
        of_tokens, factors = ("embed_tokens.", "embed_in.", "lm_head."), ("lora_A.", "lora_B.")
        wanted = of_tokens + factors if case.lora else of_tokens
        return {name: p for name, p in primary.named_parameters() if any(part in name for part in wanted)}
    in_layers = case.causal or case.family == "modernbert"
    bridge = (
        (".gpt_neox" if case.family == "gpt_neox" else ".model") + ".layers.1." if in_layers else ".encoder.layer.1."
    )
    return {name: p for name, p in primary.named_parameters() if not case.minipost or bridge in name}


def masking_rule(tokenizer) -> MaskingRule:
    """The masks that a recipe with the default shares and seed 3 asks for."""
    return MaskingRule(
        share=MASK_SHARE,
        replace_with_mask=0.8,
        replace_with_random=0.1,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(special_ids(tokenizer).tolist()),
        vocab_size=len(tokenizer),
        seed=3,
    )


def _linear_fall(update: int) -> float:
    """From 1 at the end of the warm-up towards 0.1 at the end of the run."""
    return 1 - 0.9 * (update - WARMUP) / (UPDATES - WARMUP)


def _losses_of_global_batch(
    primary: PrimaryModel, blocks: Blocks, rule: MaskingRule, update: int
) -> dict[str, torch.Tensor]:
    epochs, numbers = blocks_at(np.arange(update * GLOBAL_BATCH, (update + 1) * GLOBAL_BATCH), len(blocks), rule.seed)
    masked = mask_blocks(blocks.read(numbers), numbers, epochs, rule)
    labels = np.full(masked.input_ids.shape, -100)
    np.put_along_axis(labels, masked.positions, masked.labels, axis=1)
    wanted = torch.from_numpy(labels)
    return {
        name: functional.cross_entropy(logits[wanted != -100], wanted[wanted != -100])
        for name, logits in _logits(primary, torch.from_numpy(masked.input_ids)).items()
    }


def _next_token_losses_of_global_batch(
    primary: PrimaryModel, blocks: Blocks, tokenizer, case: Case, update: int
) -> dict[str, torch.Tensor]:
    """The mean over blocks of each block's mean."""
    _, numbers = blocks_at(np.arange(update * GLOBAL_BATCH, (update + 1) * GLOBAL_BATCH), len(blocks), 3)
    ids = torch.from_numpy(blocks.read(numbers).astype(np.int64))
    labels = _next_tokens(ids, [ids.shape[1]] * len(ids), tokenizer, case)
    return {
        name: torch.stack([
            functional.cross_entropy(of_block[:-1], wanted, ignore_index=-100)
            for of_block, wanted in zip(logits, labels, strict=True)
        ]).mean()
        for name, logits in _logits(primary, ids).items()
    }  # fmt: skip


def _next_tokens(ids: torch.Tensor, lengths: list[int], tokenizer, case: Case) -> torch.Tensor:
    """What each position but the last is to predict, int64 [b, L - 1]: the text between <s> and the last </s>."""
    labels = ids[:, 1:].clone()
    for row, length in enumerate(lengths):
        labels[row, length - 2 :] = -100
    if not case.separators:
        labels[labels == tokenizer.eos_token_id] = -100
    return labels


@torch.no_grad()
def _next_token_validation_losses(primary: PrimaryModel, blocks: Blocks, tokenizer, case: Case) -> dict[str, float]:
    """Mean over all predicted positions of the split, one block at a time, without its pads."""
    sums, count = {}, 0
    for number in range(len(blocks)):
        (length,) = blocks.lengths(np.array([number])).tolist()
        ids = torch.from_numpy(blocks.read(np.array([number])).astype(np.int64))[:, :length]
        labels = _next_tokens(ids, [length], tokenizer, case)[0]
        for name, logits in _logits(primary, ids).items():
            total = functional.cross_entropy(logits[0, :-1], labels, ignore_index=-100, reduction="sum")
            sums[name] = sums.get(name, 0.0) + total.item()
        count += int((labels != -100).sum())
    return {f"validation/loss_{name}": total / count for name, total in sums.items()}


def _token_matrices(primary: PrimaryModel) -> list[torch.nn.Parameter]:
    """That of the embeddings, and the output's where it is another one."""
    embeddings, output = primary.model.get_input_embeddings().weight, primary.model.get_output_embeddings().weight
    return [embeddings] if output is embeddings else [embeddings, output]


def _logits(
    primary: PrimaryModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Logits [b, L, V] of every head at every position; the primary's are those of the library's own forward."""
    output = primary.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    matrix, bias = _token_matrices(primary)[-1], primary.model.get_output_embeddings().bias
    heads = {
        f"exit_{layer}": functional.linear(_exit_states(primary, layer, output.hidden_states[layer]), matrix, bias)
        for layer in primary.exit_layers
    }
    return {**heads, primary.head_names[-1]: output.logits}


def _exit_states(primary: PrimaryModel, layer: int, states: torch.Tensor) -> torch.Tensor:
    """Final norm (pre-norm families only) and head transform of an exit, written out for each family."""
    exit_head, family = primary.exits[str(layer)], primary.model.config.model_type
    if family in DECODERS:
        return exit_head.norm(states)
    if family in ("xlm-roberta-xl", "modernbert"):
        states = exit_head.norm(states)
    if family == "bert":
        (transform,) = exit_head.transform
        return transform.LayerNorm(functional.gelu(transform.dense(states)))
    if family == "modernbert":
        (transform,) = exit_head.transform
        return transform.norm(functional.gelu(transform.dense(states)))
    dense, norm = exit_head.transform
    return norm(functional.gelu(dense(states)))


@torch.no_grad()
def _validation_losses(primary: PrimaryModel, blocks: Blocks, rule: MaskingRule) -> dict[str, float]:
    """Mean over all predicted positions of the split, one block at a time."""
    sums, count = {}, 0.0
    for batch in validation_batches(blocks, rule, len(blocks), 1, 0, 1):
        for name, logits in _logits(primary, batch.input_ids, batch.attention_mask).items():
            losses = functional.cross_entropy(logits.flatten(0, 1)[batch.positions], batch.labels, reduction="none")
            sums[name] = sums.get(name, 0.0) + _weighted(losses, batch)
        count += batch.weights.sum().item()
    return {f"validation/loss_{name}": total / count for name, total in sums.items()}


def _weighted(losses: torch.Tensor, batch: Batch) -> float:
    return (losses.double() * batch.weights).sum().item()
