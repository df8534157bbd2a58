"""Learn languages over a frozen body: recipe to language packs, in one process, without DeepSpeed."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from megamini.adaptation.packs.language_pack import LanguagePack, pack_fingerprint
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearn_model import RelearnModel
from megamini.adaptation.source import SourceModel, load_source
from megamini.adaptation.starting_points.initialise import StartingPoint, Target, initialise
from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.costs.flops import BodyShape, activation_memory, training_flops
from megamini.data.batches import BatchPlan, MicroBatches, SideBySide, plan_batches
from megamini.data.tokenizer import fingerprint, special_roles
from megamini.errors import UserError
from megamini.files import fingerprint_of, sha256_of
from megamini.machine import device_memory
from megamini.models.families import truncating
from megamini.models.lineage import same_lineage
from megamini.training.checkpoints.begun_order import resolve_block_order
from megamini.training.checkpoints.identity import describe_identity
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.engines.precision import resolve_precision
from megamini.training.intervals import resolve_intervals
from megamini.training.loop import is_over
from megamini.training.run import check_plain, execute, locked_run_directory, plain_engine
from megamini.training.safety.stopping import StopRules
from megamini.training.schedule import build_schedule, check_mask_stages
from megamini.training.setup import Cost, RunSetup, in_bytes, masked_in_words, plan_table
from megamini.training.state.train_state import TrainState
from megamini.training.text import Text, open_text
from megamini.training.validation import UNIGRAM, measure

# Of the text: FreeDict's lists of the right language know 12% (2,000 lines) to 57%, most of another language's less.
_FEW_WORDS = 0.1
_OTHERS = "own"  # the name that `measure` gets for the body learned over


def adapt(recipe: AdaptationRecipe) -> list[Path]:
    """Learn the recipe's languages and write a pack of each into the run directory; resumes where it was stopped.

    Returns the folders of the packs; none where the run was stopped before its end."""
    recipe = resolve_precision(recipe)
    setup = build_setup(recipe)
    with locked_run_directory(setup):
        starts = {language: setup.starting_point(language) for language in setup.texts}
        setup = replace(
            setup,
            starting_facts={language: start.facts for language, start in starts.items()},
            starting_biases={language: start.bias.clone() for language, start in starts.items()},
        )
        own = [part.strip() for part in str(setup.source.provenance.get("language", "")).split(",")]
        for language, start in starts.items():
            if language in own:
                print(f"{language}: is the source's own language; launch/evaluate.py measures that without a pack")
            shared = start.facts.get("shared_token_share")
            known = "" if shared is None else f", {shared:.0%} of the text in pieces that the source has too"
            if shared == 1:
                known += " (all: the source's own language, or tokenizer?)"
            if listed := start.facts.get("lexicon_pieces"):
                share = start.facts["lexicon_token_share"]
                known += f"; {listed:,} pieces from the word list, {share:.0%} of the text as whole words"
                if share < _FEW_WORDS:
                    known += " (few: is it a list of this language, with this language's words in front?)"
            print(f"{language}: starts from '{recipe.adaptation.initialise}'{known}", flush=True)
        model = RelearnModel(
            setup.source.body,
            {language: (start.matrix, start.bias) for language, start in starts.items()},
            setup.trains_bias,
            setup.source.primary,
            recipe.objective.loss_workspace_bytes(device_memory()),
            {language: _unplaced(setup.source, text) for language, text in setup.texts.items()},
        )
        engine = plain_engine(model, setup)
        if recipe.adaptation.pack_every:
            setup.save_packs(engine, TrainState(), replace_existing=False)
        state = execute(setup, engine)
        if not is_over(setup, engine, state):
            return []
        directories = [setup.packs_directory / language for language in setup.texts]
        for language, directory in zip(setup.texts, directories, strict=True):
            setup.pack(language, engine, state).save(directory)
            print(f"language pack: {directory}")
        return directories


@dataclass(frozen=True, kw_only=True)
class RelearningSetup(RunSetup):
    """A checked recipe of `launch/adapt.py`, with the source model read."""

    recipe: AdaptationRecipe
    texts: dict[str, Text]
    source: SourceModel
    starting_facts: dict[str, dict[str, Any]]
    starting_biases: dict[str, torch.Tensor]

    @property
    def packs_directory(self) -> Path:
        return self.recipe.run_directory / "packs"

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
        return sum(count * _flops_per_update(text, masked, body, self.batches) for count, masked in stages)

    def cost(self, stopped: Collection[str], batch: int) -> Cost:
        going = [text for language, text in self.texts.items() if language not in stopped]
        masked, body = self.mask_schedule.masked(batch), self.source.body
        flops = sum(_flops_per_update(text, masked, body, self.batches) for text in going)
        return Cost(self.tokens_per_update * len(going), flops)

    def identity(self) -> dict[str, Any]:
        data = fingerprint_of([text.fingerprint for text in self.texts.values()])
        free = {"adaptation": ["source", "primary", "attention", "stop", "pack_every", "pack"]}
        identity = describe_identity(self.recipe, data, self.source.fingerprint, free)
        section = self.recipe.adaptation
        # What list and pack say counts, and not where they lie.
        if section.lexicon is not None:
            identity["adaptation"]["lexicon"] = f"sha256 {sha256_of(section.lexicon)}"
        if section.pack is not None:
            identity["adaptation"]["pack_sha256"] = pack_fingerprint(section.pack)
        return identity

    def micro_batches(self, rank: int) -> MicroBatches:
        order = self.recipe.training.block_order
        return SideBySide([text.micro_batches(self.batches, rank, order) for text in self.texts.values()])

    def validate(self, engine: PlainEngine) -> dict[str, float]:
        """Every language over the body, and plugged into the primary model where that is known."""
        model: RelearnModel = engine.model
        model.eval()
        values = {}
        with torch.no_grad():
            for language, text in self.texts.items():
                bodies = {_OTHERS: model.body} | ({"primary": model.primary} if model.primary is not None else {})

                def evaluate(batch, language=language, bodies=bodies):
                    return torch.cat([model.losses_of(language, batch, body) for body in bodies.values()])

                found = measure(
                    engine,
                    text,
                    list(bodies),
                    evaluate,
                    self.recipe.telemetry.validation_blocks,
                    self.batches.micro_batch,
                )
                for head in (*bodies, UNIGRAM):
                    suffix = "" if head == _OTHERS else f"_{head}"
                    for kind in ("loss", "bits_per_byte"):
                        values[f"validation/{kind}_{language}{suffix}"] = found[f"{kind}_{head}"]
        model.train()
        return values

    def after_update(self, engine: PlainEngine, state: TrainState) -> None:
        every = self.intervals.pack
        if every and state.update % every == 0:
            self.save_packs(engine, state)

    def save_packs(self, engine: PlainEngine, state: TrainState, replace_existing: bool = True) -> None:
        """A pack of each language as it stands, beside those of earlier updates."""
        for language in self.texts:
            directory = self.packs_directory / f"{language}-step-{state.update:08d}"
            if replace_existing or not directory.exists():
                self.pack(language, engine, state).save(directory)

    def starting_point(self, language: str) -> StartingPoint:
        """Where a language starts from; the same each time."""
        section, text = self.recipe.adaptation, self.texts[language]
        if section.initialise == "pack":
            return self._from_pack(section.pack, text)
        start = initialise(
            section.initialise,
            self.source.vocabulary,
            Target.of(text.path),
            self.recipe.training.seed,
            bias=section.bias,
            lexicon=section.lexicon,
            focus_through=section.focus_through,
        )
        if self.source.vocabulary.output_bias is None:
            start = replace(start, bias=torch.zeros_like(start.bias))
        return start

    def _from_pack(self, path: str, text: Text) -> StartingPoint:
        pack = LanguagePack.load(path)
        if not same_lineage(pack.lineage, self.source.lineage):
            raise UserError(f"adaptation.pack: {path}: learned beside other token embeddings than the source's")
        if fingerprint(pack.tokenizer) != fingerprint(text.tokenizer):
            raise UserError(f"adaptation.pack: {path}: has another tokenizer than {text.path}")
        return StartingPoint(
            pack.token_embeddings, pack.output_bias, {"kind": "pack", "ledger": pack.details.get("ledger", {})}
        )

    def pack(self, language: str, engine: PlainEngine, state: TrainState) -> LanguagePack:
        """The pack of a language as it stands."""
        model: RelearnModel = engine.model
        matrix, bias = (
            engine.trained_value(parameter) for parameter in (model.matrices[language], model.biases[language])
        )
        if not self.trains_bias:  # as it started: in the model it may be rounded to bf16
            bias = self.starting_biases[language]
        updates = state.stopped.get(language, state.update)
        earlier = self.starting_facts[language].get("ledger", {})  # of the pack that this one goes on from
        costs = {
            "updates": updates,
            "tokens": updates * self.tokens_per_update,
            "flops": self.flops(language, updates),
            "seconds": round(state.seconds / len(self.texts), 3),  # a share of the run's, as tokens and FLOPs are
        }
        details = {
            "method": self.recipe.adaptation.method,
            "body": self.source.provenance,
            "starting_point": self.starting_facts[language],
            "settings": state.recipe or self.recipe.model_dump(mode="json"),
            "settings_changed": state.changes,
            "text": self.texts[language].train.manifest["sources"],
            "ledger": {
                **{name: cost + earlier.get(name, 0) for name, cost in costs.items()},
                "languages_side_by_side": len(self.texts),
                "device": engine.device.type,
            },
        }
        tokenizer = truncating(self.texts[language].tokenizer, self.source.body.config)
        return LanguagePack(language, matrix, bias, tokenizer, self.source.lineage, details)

    def plan(self) -> str:
        """What will be learned, over what, and what it costs."""
        updates, batch = self.schedule.updates, self.batches
        rows = {
            "body": f"{self.source.body.config.num_hidden_layers} layers of {self.source.provenance['model']}, frozen",
            "update": f"{self.tokens_per_update:,} tokens of each language = {batch.global_batch} blocks of "
            f"{self.block_length}: {batch.accumulation} accumulation x {batch.micro_batch} blocks",
            "masked": masked_in_words(self.mask_schedule.along(updates)),
        }
        for language, text in self.texts.items():
            vocab, width = len(text.tokenizer), self.source.body.config.hidden_size
            flops = self.flops(language, updates)
            passes = updates * batch.global_batch / len(text.train)
            rows[language] = (
                f"{updates:,} updates = {updates * self.tokens_per_update:,} tokens = {passes:.1f} passes; "
                f"{vocab * width + vocab * self.trains_bias:,} parameters ({vocab:,} pieces); "
                f"{flops / updates / self.tokens_per_update:.3g} FLOPs a token, {flops:.3g} in all"
            )
            if self.source.primary is not None:
                full = self.flops(language, updates, self.source.primary)
                layers = self.source.primary.config.num_hidden_layers
                rows[language] += f", {full / flops:.2f}x less than over the {layers} layers of the primary model"
        rows["activations"] = in_bytes(sum(self._activations(text) for text in self.texts.values()))
        rows["checkpoint"] = self.checkpoint_plan()
        return plan_table(rows)

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


def build_setup(recipe: AdaptationRecipe) -> RelearningSetup:
    """Check a recipe against its data and source; `UserError` where they do not fit."""
    recipe = resolve_block_order(recipe)
    check_plain(recipe)
    if recipe.adaptation.lexicon is not None:  # read again where it is used; what is wrong with it is said at once
        read_lexicon(recipe.adaptation.lexicon)
    training = recipe.training
    opened = [open_text(path, recipe.objective, training.seed, training.global_batch) for path in recipe.data_paths]
    texts = {text.language: text for text in opened}
    if len(texts) < len(opened):
        raise UserError(f"data.path: two of {', '.join(recipe.data_paths)} hold the same language")
    lengths = {text.path: text.block_length for text in opened}
    if len(set(lengths.values())) > 1:
        raise UserError(f"data.path: languages side by side need blocks of one length, these have {lengths}")
    block_length = opened[0].block_length
    batches = plan_batches(training.global_batch, training.micro_batch, 1)
    tokens_per_update = batches.global_batch * block_length
    intervals = resolve_intervals(recipe, tokens_per_update, recipe.adaptation.pack_every)
    source = load_source(recipe.adaptation, block_length)
    if training.activation_checkpointing:
        source.body.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    mask_schedule = opened[0].mask_schedule
    affordable = _affordable(recipe.adaptation.stop.flops, batches, opened, source)
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, tokens_per_update, affordable)
    check_mask_stages(mask_schedule, schedule.updates)
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
        source=source,
        starting_facts={},
        starting_biases={},
    )


def _unplaced(source: SourceModel, text: Text) -> set[int]:
    """The ids of a language that are to be where the source has its pad, if that has another role as well."""
    theirs, ours = special_roles(source.tokenizer), special_roles(text.tokenizer)
    return {ours[role] for role in ours if role != "pad" and theirs[role] == theirs["pad"] and ours[role] is not None}


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
            raise UserError(f"adaptation.stop.flops: {most:.3g} FLOPs do not pay for one update of {each:.3g}")
        return paid

    return affordable


def _flops_per_update(text: Text, masked: int, body: PreTrainedModel, batches: BatchPlan) -> int:
    return batches.global_batch * training_flops(_shape(text, body), text.block_length, masked, "standard")


def _shape(text: Text, body: PreTrainedModel) -> BodyShape:
    """That of the body with the language's vocabulary; a mini-model is a whole body here."""
    return replace(BodyShape.from_config(body.config), vocab=len(text.tokenizer))
