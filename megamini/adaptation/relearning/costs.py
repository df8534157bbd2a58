"""What is learned over which body, and what that costs: FLOPs, memory, the plan in words."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from megamini.adaptation.candidates import candidates, probe_updates, trial_updates
from megamini.adaptation.packs.kinds import Kind
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.source import SourceModel
from megamini.costs.flops import BodyShape, activation_memory, measured_matmul_rate, model_states, training_flops
from megamini.costs.hours import hours_in_words
from megamini.data.batches import BatchPlan
from megamini.machine import best_device, device_memory
from megamini.models.families import is_untied
from megamini.training.setup import Cost, RunSetup, Sharding, in_bytes, plan_table
from megamini.training.text import Text


@dataclass(frozen=True, kw_only=True)
class RelearningCosts(RunSetup):
    """Texts and source of a recipe of `launch/adapt.py`, and what an update over them costs."""

    recipe: AdaptationRecipe
    texts: dict[str, Text]
    source_text: Text | None
    """In the source's own language, by the tokenizer of the one language that is learned."""
    source: SourceModel
    kinds: dict[str, tuple[Kind, torch.Tensor | None]]
    """Of each language: the kind of its pack, and the ids of the rows that are its own; None for all."""

    @property
    def own(self) -> dict[str, torch.Tensor | None]:
        """Of each language, the ids of the rows that it learns; None for all."""
        return {language: ids for language, (_, ids) in self.kinds.items()}

    def learned_pieces(self, language: str) -> int:
        """How many rows a language learns."""
        ids = self.own[language]
        return len(self.texts[language].tokenizer) if ids is None else len(ids)

    @property
    def trains_bias(self) -> bool:
        """A model whose projection has no bias could not take one along."""
        return self.recipe.adaptation.train_bias and self.source.vocabulary.output_bias is not None

    @property
    def head_weights(self) -> tuple[float, ...]:
        return (1 / len(self.texts),) * len(self.texts)

    def flops(self, language: str, updates: int, body: PreTrainedModel | None = None) -> int:
        """Of the first updates of one language over `body`, by default the one that is learned over."""
        text, body = self.texts[language], body or self.source.body
        stages = self.mask_schedule.along(updates)
        return sum(count * flops_per_update(text, masked, body, self.batches) for count, masked in stages)

    def cost(self, stopped: Collection[str], batch: int) -> Cost:
        going = [text for language, text in self.texts.items() if language not in stopped]
        masked, body = self.mask_schedule.masked(batch), self.source.body
        flops = sum(flops_per_update(text, masked, body, self.batches) for text in going)
        return Cost(self.tokens_per_update * len(going), flops)

    def planned_memory(self, sharding: Sharding) -> int:
        trained = sum(map(self._parameters, self.texts))
        bodies = [body for body in (self.source.body, self.source.primary) if body is not None]
        frozen = sum(p.numel() for body in bodies for p in body.parameters() if not _is_of_vocabulary(p, body))
        precision = self.recipe.training.precision
        whole = sum(len(text.tokenizer) for language, text in self.texts.items() if self.own[language] is not None)
        frozen += whole * (self.source.body.config.hidden_size * self._matrices + 1)
        states = model_states(trained, frozen, precision, 0, 1, fp32_gradients=precision in ("bf16", "fp16"))
        return states.total + sum(self._activations(text) for text in self.texts.values())

    def plan(self) -> str:
        """What will be learned, over what, and what it costs."""
        updates, batch = self.schedule.updates, self.batches
        rows = {
            "body": f"{self.source.body.config.num_hidden_layers} layers of {self.source.provenance['model']}, frozen",
            "update": f"{self.tokens_per_update:,} tokens of each language = {batch.global_batch} blocks of "
            f"{self.block_length}: {f'{batch.world_size} ranks x ' if batch.world_size > 1 else ''}"
            f"{batch.accumulation} accumulation x {batch.micro_batch} blocks",
            **self.prediction_row(),
        }
        for language, text in self.texts.items():
            learned = self.learned_pieces(language)
            kept = len(text.tokenizer) - learned
            flops = self.flops(language, updates)
            rows[language] = (
                f"{updates:,} updates = {updates * self.tokens_per_update:,} tokens{self._passes(text)}; "
                f"{self._parameters(language):,} parameters ({learned:,} pieces"
                f"{f' beside {kept:,} of the source' if kept else ''}); "
                f"{flops / updates / self.tokens_per_update:.3g} FLOPs a token, {flops:.3g} in all"
            )
            if self.source.primary is not None:
                full = self.flops(language, updates, self.source.primary)
                layers = self.source.primary.config.num_hidden_layers
                rows[language] += f", {full / flops:.2f}x less than over the {layers} layers of the primary model"
        if self.recipe.adaptation.initialise == "auto":
            wanted = candidates(self.recipe.adaptation)
            each = probe_updates(updates, wanted)
            rows["probes"] = (
                f"{len(wanted)} starts ({'; '.join(one.name for one in wanted)}), {each} updates from each: "
                f"at most {trial_updates(wanted, each) / updates:.0%} of the run"
            )
        on_cpu = best_device().type == "cpu"
        rate = measured_matmul_rate("cpu", torch.float32) if on_cpu else None
        rows["hours"] = hours_in_words(sum(self.flops(language, updates) for language in self.texts), rate)
        rows["activations"] = in_bytes(sum(self._activations(text) for text in self.texts.values()))
        rows["checkpoint"] = self.checkpoint_plan()
        return plan_table(rows)

    def _passes(self, text: Text) -> str:
        """How often a language's text is read, and that of the source where it is mixed in."""
        blocks, share = self.schedule.updates * self.batches.global_batch, self.recipe.data.source_share
        own = f" = {(1 - share) * blocks / len(text.train):.1f} passes"
        if not share:
            return own
        return f", {share:.0%} of the source{own}, {share * blocks / len(self.source_text.train):.1f} over the source"

    def _parameters(self, language: str) -> int:
        """How many of a language train."""
        width = self.source.body.config.hidden_size
        return self.learned_pieces(language) * (width * self._matrices + self.trains_bias)

    @property
    def _matrices(self) -> int:
        """How many a language has: the token matrix, and the output matrix where it is another one."""
        return 2 if is_untied(self.source.body.config) else 1

    def _activations(self, text: Text) -> int:
        shape = _shape(text, self.source.body)
        return activation_memory(
            shape,
            self.block_length,
            self.batches.micro_batch,
            self.mask_schedule.most_masked,
            "standard",
            precision=self.recipe.training.precision,
            checkpointing=self.recipe.training.activation_checkpointing,
            workspace_bytes=self.recipe.objective.loss_workspace_bytes(device_memory()),
        ).total


def flops_per_update(text: Text, masked: int, body: PreTrainedModel, batches: BatchPlan) -> int:
    return batches.global_batch * training_flops(_shape(text, body), text.block_length, masked, "standard")


def _shape(text: Text, body: PreTrainedModel) -> BodyShape:
    """That of the body with the language's vocabulary; a mini-model is a whole body here."""
    return replace(BodyShape.from_config(body.config), vocab=len(text.tokenizer))


def _is_of_vocabulary(parameter: torch.Tensor, body: PreTrainedModel) -> bool:
    """Whether it is the token or the output matrix, which are dropped once the languages' own are there."""
    return parameter is body.get_input_embeddings().weight or parameter is body.get_output_embeddings().weight
