"""A checked recipe of `launch/adapt.py`: what identifies the run, what it reads, measures and leaves behind."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from megamini.adaptation.packs.language_pack import LanguagePack, pack_fingerprint
from megamini.adaptation.relearning.costs import RelearningCosts
from megamini.adaptation.relearning.model import RelearnModel
from megamini.data.batches import MicroBatches, SideBySide, plan_batches
from megamini.data.mixture import MixedMicroBatches, Shares
from megamini.data.tokenizer import special_roles
from megamini.files import fingerprint_of, sha256_of
from megamini.models.families import is_untied, truncating
from megamini.training.checkpoints.identity import describe_identity
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.setup import Cost
from megamini.training.state.train_state import TrainState
from megamini.training.text import Text
from megamini.training.validation import UNIGRAM, measure

_OTHERS = "own"  # the name that `measure` gets for the body learned over


@dataclass(frozen=True, kw_only=True)
class RelearningSetup(RelearningCosts):
    """A checked recipe of `launch/adapt.py`, with the source model read."""

    starting_facts: dict[str, dict[str, Any]]
    starting_biases: dict[str, torch.Tensor]
    starting_sha256: dict[str, str]

    @property
    def measures_the_start(self) -> bool:
        """What the rows are worth before they learn anything; it shows what learning adds."""
        return self.intervals.validate is not None

    @property
    def packs_directory(self) -> Path:
        return self.recipe.run_directory / "packs"

    @property
    def unplaced(self) -> dict[str, set[int]]:
        """Of each language, the ids that are to be where the source has its pad, if that has another role as well."""
        theirs = special_roles(self.source.tokenizer)
        elsewhere = [role for role in theirs if role != "pad" and theirs[role] == theirs["pad"]]
        roles = {language: special_roles(text.tokenizer) for language, text in self.texts.items()}
        return {
            language: {ours[role] for role in elsewhere if ours[role] is not None} for language, ours in roles.items()
        }

    @property
    def spent(self) -> Cost:
        found = [part for facts in self.starting_facts.values() for part in _spent_on(facts)]
        return Cost(sum(part["tokens"] for part in found), sum(part["flops"] for part in found))

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


def _bodies(model: RelearnModel) -> dict[str, PreTrainedModel]:
    """What embeddings are measured over, by the names that `measure` gets."""
    return {_OTHERS: model.body} | ({"primary": model.primary} if model.primary is not None else {})


def _spent_on(start: dict[str, Any]) -> list[dict[str, Any]]:
    """What tokens, FLOPs and seconds went into a starting point, by its facts, before the run's own first update."""
    return [start[part] for part in ("probes", "distillation") if part in start]
