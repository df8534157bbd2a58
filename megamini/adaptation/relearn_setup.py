"""A checked recipe of `launch/adapt.py`: source and texts, and what the run that follows from it costs and gives."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from megamini.adaptation.beside_source import kind_of, source_text
from megamini.adaptation.candidates import candidates, probe_updates, trial_updates
from megamini.adaptation.packs.kinds import Kind
from megamini.adaptation.packs.language_pack import LanguagePack, pack_fingerprint
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearn_model import RelearnModel
from megamini.adaptation.source import SourceModel, is_causal, load_source
from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.adaptation.starting_points.parallel_text import read_parallel
from megamini.costs.flops import BodyShape, activation_memory, model_states, training_flops
from megamini.costs.hours import hours_in_words
from megamini.data.batches import BatchPlan, MicroBatches, SideBySide, plan_batches
from megamini.data.mixture import MixedMicroBatches, Shares
from megamini.data.tokenizer import special_roles
from megamini.errors import UserError
from megamini.files import fingerprint_of, sha256_of
from megamini.machine import device_memory
from megamini.models.families import is_untied, truncating
from megamini.training.checkpoints.begun_order import resolve_block_order
from megamini.training.checkpoints.identity import describe_identity
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.engines.precision import use_kernels_of
from megamini.training.intervals import resolve_intervals
from megamini.training.safety.stopping import StopRules
from megamini.training.schedule import build_schedule, check_mask_stages
from megamini.training.setup import Cost, RunSetup, Sharding, in_bytes, plan_table
from megamini.training.state.train_state import TrainState
from megamini.training.text import Text, open_text
from megamini.training.validation import UNIGRAM, measure

_OTHERS = "own"  # the name that `measure` gets for the body learned over


@dataclass(frozen=True, kw_only=True)
class RelearningSetup(RunSetup):
    """A checked recipe of `launch/adapt.py`, with the source model read."""

    recipe: AdaptationRecipe
    texts: dict[str, Text]
    source_text: Text | None
    """In the source's own language, by the tokenizer of the one language that is learned."""
    source: SourceModel
    kinds: dict[str, tuple[Kind, torch.Tensor | None]]
    """Of each language: the kind of its pack, and the ids of the rows that are its own; None for all."""
    starting_facts: dict[str, dict[str, Any]]
    starting_biases: dict[str, torch.Tensor]
    starting_sha256: dict[str, str]

    @property
    def packs_directory(self) -> Path:
        return self.recipe.run_directory / "packs"

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

    @property
    def unplaced(self) -> dict[str, set[int]]:
        """Of each language, the ids that are to be where the source has its pad, if that has another role as well."""
        theirs = special_roles(self.source.tokenizer)
        elsewhere = [role for role in theirs if role != "pad" and theirs[role] == theirs["pad"]]
        roles = {language: special_roles(text.tokenizer) for language, text in self.texts.items()}
        return {
            language: {ours[role] for role in elsewhere if ours[role] is not None} for language, ours in roles.items()
        }

    def flops(self, language: str, updates: int, body: PreTrainedModel | None = None) -> int:
        """Of the first updates of one language over `body`, by default the one that is learned over."""
        text, body = self.texts[language], body or self.source.body
        stages = self.mask_schedule.along(updates)
        return sum(count * _flops_per_update(text, masked, body, self.batches) for count, masked in stages)

    @property
    def spent(self) -> Cost:
        found = [part for facts in self.starting_facts.values() for part in _spent_on(facts)]
        return Cost(sum(part["tokens"] for part in found), sum(part["flops"] for part in found))

    def cost(self, stopped: Collection[str], batch: int) -> Cost:
        going = [text for language, text in self.texts.items() if language not in stopped]
        masked, body = self.mask_schedule.masked(batch), self.source.body
        flops = sum(_flops_per_update(text, masked, body, self.batches) for text in going)
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

    def alone(self) -> "RelearningSetup":
        """The same for one process that does all of an update, whatever the number of ranks."""
        training = self.recipe.training
        return replace(self, batches=plan_batches(training.global_batch, training.micro_batch, 1))

    def identity(self) -> dict[str, Any]:
        fingerprints: list[Any] = [text.fingerprint for text in self.texts.values()]
        if self.recipe.data.source_share:
            fingerprints += [self.source_text.fingerprint, self.recipe.data.source_share]
        data = fingerprint_of(fingerprints)
        free = {"adaptation": ["source", "primary", "attention", "stop", "pack_every", "pack"]}
        identity = describe_identity(self.recipe, data, self.source.fingerprint, free)
        section = self.recipe.adaptation
        # What list and pack say counts, and not where they lie.
        if section.lexicon is not None:
            identity["adaptation"]["lexicon"] = f"sha256 {sha256_of(section.lexicon)}"
        if section.parallel is not None:
            identity["adaptation"]["parallel"] = [f"sha256 {sha256_of(path)}" for path in section.parallel]
        if section.pack is not None:
            identity["adaptation"]["pack_sha256"] = pack_fingerprint(section.pack)
        if self.starting_sha256:
            # Last: where a key of the recipe makes it another one, that key is named.
            identity["starting_point"] = {"sha256": self.starting_sha256}
        return identity

    def micro_batches(self, rank: int) -> MicroBatches:
        order, share = self.recipe.training.block_order, self.recipe.data.source_share
        if share:
            own = [text.micro_batches(self.batches, rank, order) for text in (*self.texts.values(), self.source_text)]
            return MixedMicroBatches(own, Shares([1 - share, share], self.batches.global_batch), self.batches, rank)
        return SideBySide([text.micro_batches(self.batches, rank, order) for text in self.texts.values()])

    def validate(self, engine: PlainEngine) -> dict[str, float]:
        """Every language over the body, and plugged into the primary model where that is known."""
        model: RelearnModel = engine.model
        model.eval()
        values = {}
        with torch.no_grad():
            for language, text in self.texts.items():
                values |= self._measured(engine, language, text, (*_bodies(model), UNIGRAM), "")
                if self.source_text is not None:
                    values |= self._measured(engine, language, self.source_text, _bodies(model), "_of_source")
        model.train()
        return values

    def _measured(
        self, engine: PlainEngine, language: str, text: Text, heads: Iterable[str], of: str
    ) -> dict[str, float]:
        """A language's embeddings on a text, by the names of the log. of: what these say of the text."""
        model: RelearnModel = engine.model
        bodies = _bodies(model)

        def evaluate(batch):
            return torch.cat([model.losses_of(language, batch, body) for body in bodies.values()])

        most = self.recipe.telemetry.validation_blocks
        found = measure(engine, text, list(bodies), evaluate, most, self.batches.micro_batch)
        return {
            f"validation/{kind}_{language}{of}{'' if head == _OTHERS else f'_{head}'}": found[f"{kind}_{head}"]
            for head in heads
            for kind in ("loss", "bits_per_byte")
        }

    def after_update(self, engine: PlainEngine, state: TrainState) -> None:
        every = self.intervals.pack
        if every and state.update % every == 0 and engine.rank == 0:
            self.save_packs(engine, state)

    def save_packs(self, engine: PlainEngine, state: TrainState, replace_existing: bool = True) -> None:
        """A pack of each language as it stands, beside those of earlier updates. Rank 0 only."""
        for language in self.texts:
            directory = self.packs_directory / f"{language}-step-{state.update:08d}"
            if replace_existing or not directory.exists():
                self.pack(language, engine, state).save(directory)

    def pack(self, language: str, engine: PlainEngine, state: TrainState) -> LanguagePack:
        """The pack of a language as it stands."""
        model: RelearnModel = engine.model
        matrix, bias, output = (
            engine.trained_value(values[language]) for values in (model.matrices, model.biases, model.outputs)
        )
        kind, ids = self.kinds[language]
        if not self.trains_bias:  # as it started: in the model it may be rounded to bf16
            bias = self.starting_biases[language]
            bias = bias if ids is None else bias[ids]
        updates = state.stopped.get(language, state.update)
        facts = self.starting_facts[language]
        earlier = [facts.get("ledger", {}), *_spent_on(facts)]  # the first: of the pack that this one goes on from
        costs = {
            "updates": updates,
            "tokens": updates * self.tokens_per_update,
            "flops": self.flops(language, updates),
            "seconds": round(state.seconds / len(self.texts), 3),  # a share of the run's, as tokens and FLOPs are
        }
        details = {
            "method": self.recipe.adaptation.method,
            "body": self.source.provenance,
            "starting_point": facts,
            "settings": state.recipe or self.recipe.model_dump(mode="json"),
            "settings_changed": state.changes,
            "text": self._sources(language),
            **(
                {"vocabulary": vocabulary}
                if (vocabulary := self.texts[language].train.manifest.get("vocabulary"))
                else {}
            ),
            "ledger": {
                **{name: cost + sum(part.get(name, 0) for part in earlier) for name, cost in costs.items()},
                "languages_side_by_side": len(self.texts),
                "device": engine.device.type,
                "ranks": engine.world_size,
            },
        }
        tokenizer = truncating(self.texts[language].tokenizer, self.source.body.config)
        own_output = output if is_untied(self.source.body.config) else None
        ids = ids if kind == "replacement" else None
        return LanguagePack(language, matrix, bias, tokenizer, self.source.lineage, details, own_output, kind, ids)

    def _sources(self, language: str) -> list[dict[str, Any]]:
        """The files whose text a language is learned from, with their licences."""
        mixed = [self.source_text] if self.recipe.data.source_share else []
        return [file for text in (self.texts[language], *mixed) for file in text.train.manifest["sources"]]

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
        rows["hours"] = hours_in_words(sum(self.flops(language, updates) for language in self.texts))
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


def build_setup(recipe: AdaptationRecipe, world_size: int = 1) -> RelearningSetup:
    """Check a recipe against its data, its source and the number of ranks; `UserError` where they do not fit."""
    recipe = resolve_block_order(recipe)
    use_kernels_of(recipe.training)
    if recipe.adaptation.lexicon is not None:  # read again where it is used; what is wrong with it is said at once
        read_lexicon(recipe.adaptation.lexicon)
    if recipe.adaptation.parallel is not None:
        read_parallel(recipe.adaptation.parallel)
    training, causal = recipe.training, is_causal(recipe.adaptation)
    if problem := recipe.objective.problem_of(causal):
        raise UserError(problem)
    opened = [
        open_text(path, recipe.objective, training.seed, training.global_batch, causal) for path in recipe.data_paths
    ]
    texts = {text.language: text for text in opened}
    if len(texts) < len(opened):
        raise UserError(f"data.path: two of {', '.join(recipe.data_paths)} hold the same language")
    lengths = {text.path: text.block_length for text in opened}
    if len(set(lengths.values())) > 1:
        raise UserError(f"data.path: languages side by side need blocks of one length, these have {lengths}")
    block_length = opened[0].block_length
    batches = plan_batches(training.global_batch, training.micro_batch, world_size)
    tokens_per_update = batches.global_batch * block_length
    intervals = resolve_intervals(recipe, tokens_per_update, recipe.adaptation.pack_every)
    source = load_source(recipe.adaptation, block_length)
    if training.activation_checkpointing:
        source.body.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    mask_schedule = opened[0].mask_schedule
    affordable = _affordable(recipe.adaptation.stop.flops, batches, opened, source)
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, tokens_per_update, affordable)
    check_mask_stages(mask_schedule, schedule.updates)
    if recipe.adaptation.initialise == "auto":
        probe_updates(schedule.updates, candidates(recipe.adaptation))  # says so where the run is too short
    stop = recipe.adaptation.stop
    return RelearningSetup(
        recipe=recipe,
        batches=batches,
        block_length=block_length,
        schedule=schedule,
        mask_schedule=mask_schedule,
        intervals=intervals,
        stopping=StopRules(
            stop.seconds,
            stop.plateau.patience if stop.plateau else None,
            stop.plateau.least_gain if stop.plateau else 0.0,
        ),
        texts=texts,
        source_text=source_text(recipe, opened[0], source, causal),
        source=source,
        kinds={language: kind_of(text, source) for language, text in texts.items()},
        starting_facts={},
        starting_biases={},
        starting_sha256={},
    )


def _bodies(model: RelearnModel) -> dict[str, PreTrainedModel]:
    """What embeddings are measured over, by the names that `measure` gets."""
    return {_OTHERS: model.body} | ({"primary": model.primary} if model.primary is not None else {})


def _affordable(
    most: float | None, batches: BatchPlan, texts: list[Text], source: SourceModel
) -> Callable[[int], int] | None:
    """How many of the updates asked for `adaptation.stop.flops` pays for, in the language that costs most."""
    if most is None:
        return None
    dearest = max(texts, key=lambda text: len(text.tokenizer))

    def affordable(asked: int) -> int:
        paid, left = 0, int(most)
        for count, masked in dearest.mask_schedule.along(asked):
            each = _flops_per_update(dearest, masked, source.body, batches)
            now = min(count, left // each)
            paid, left = paid + now, left - now * each
            if now < count:
                break
        if asked and not paid:
            raise UserError(f"adaptation.stop.flops: {most:.3g} FLOPs are too few for one update of {each:.3g}")
        return paid

    return affordable


def _is_of_vocabulary(parameter: torch.Tensor, body: PreTrainedModel) -> bool:
    """Whether it is the token or the output matrix, which are dropped once the languages' own are there."""
    return parameter is body.get_input_embeddings().weight or parameter is body.get_output_embeddings().weight


def _spent_on(start: dict[str, Any]) -> list[dict[str, Any]]:
    """What tokens, FLOPs and seconds went into a starting point, by its facts, before the run's own first update."""
    return [start[part] for part in ("probes", "distillation") if part in start]


def _flops_per_update(text: Text, masked: int, body: PreTrainedModel, batches: BatchPlan) -> int:
    return batches.global_batch * training_flops(_shape(text, body), text.block_length, masked, "standard")


def _shape(text: Text, body: PreTrainedModel) -> BodyShape:
    """That of the body with the language's vocabulary; a mini-model is a whole body here."""
    return replace(BodyShape.from_config(body.config), vocab=len(text.tokenizer))
