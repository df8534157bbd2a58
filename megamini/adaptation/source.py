"""What a language is learned over: a body out of a checkpoint folder, a hub name or a run, and what it speaks."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.recipe import AdaptationSection
from megamini.adaptation.starting_points.vocabularies import Source
from megamini.data.tokenizer import load_tokenizer
from megamini.errors import UserError
from megamini.files import fingerprint_of
from megamini.library_internals import check_internals
from megamini.models.build import check_positions
from megamini.models.families import family_of, is_untied
from megamini.models.lineage import Lineage, declared_lineage, described, lineage_of, same_lineage
from megamini.models.mini_model import extract_mini_model
from megamini.models.pretrained import load_config, load_lm, weights_fingerprint
from megamini.training.checkpoints.manifest import read_manifest
from megamini.training.finished.model_card import describe
from megamini.training.finished.weights import is_causal_run, is_run, load_run

check_internals(__name__)


@dataclass(frozen=True)
class SourceModel:
    """`body`: the language model to learn over. `primary`: that of the whole method, where it is known; else None.

    `fingerprint`: of the weights. `provenance`: where the body comes from, for the pack's description.
    """

    body: PreTrainedModel
    primary: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    lineage: Lineage
    fingerprint: str
    provenance: dict[str, Any]

    @property
    def vocabulary(self) -> Source:
        """What starting points are made of."""
        pieces = len(self.tokenizer)  # rows behind them belong to none
        matrix, output = self.body.get_input_embeddings().weight, self.body.get_output_embeddings()
        return Source(
            matrix.detach()[:pieces],
            None if output.bias is None else output.bias.detach()[:pieces],
            self.tokenizer,
            output.weight.detach()[:pieces] if is_untied(self.body.config) else None,
        )


def is_causal(section: AdaptationSection) -> bool:
    """Whether the recipe's source is a decoder; cheap. Raises `UserError` where its configuration cannot be read."""
    if is_run(Path(section.source)):
        return is_causal_run(Path(section.source))
    return family_of(load_config(section.source, f"adaptation.source: {section.source}", None)).causal


def load_source(section: AdaptationSection, block_length: int) -> SourceModel:
    """The source of a recipe. Raises `UserError` for one that cannot be read, or is not what the method needs."""
    where = f"adaptation.source: {section.source}"
    read = _from_run if is_run(Path(section.source)) else _from_folder
    source = read(section, where)
    check_positions(source.body.config, source.tokenizer, block_length, where)
    if section.primary is None:
        return source
    primary = _other_primary(section, source)
    check_positions(primary.config, source.tokenizer, block_length, f"adaptation.primary: {section.primary}")
    return SourceModel(**{**vars(source), "primary": primary})


def _from_folder(section: AdaptationSection, where: str) -> SourceModel:
    body, tokenizer = _load_folder(section.source, section, where)
    entry = described(body.config)
    is_mini = entry.get("role") == "mini-model"
    if is_mini != (section.method == "mini"):
        found = "a mini-model" if is_mini else "no mini-model (tools/export.py --exit makes one)"
        raise UserError(f"adaptation.method {section.method}: {section.source} is {found}")
    if declared_lineage(body):
        raise UserError(f"{where}: has the pack '{entry['plugged']}' plugged in; give the model without it")
    provenance = {"model": section.source, **{k: v for k, v in entry.items() if k != "lineage"}}
    return SourceModel(
        body,
        None,
        tokenizer,
        lineage_of(body, tokenizer),
        weights_fingerprint(section.source),
        {**provenance, "layers": body.config.num_hidden_layers},
    )


def _load_folder(name: str, section: AdaptationSection, where: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = load_config(name, where, section.dropout)
    try:
        tokenizer = load_tokenizer(name, decoder=family_of(config).causal)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return load_lm(name, config, section.attention, where), tokenizer


def _from_run(section: AdaptationSection, where: str) -> SourceModel:
    run = load_run(Path(section.source))
    is_minipost = run.recipe.objective.method == "minipost"
    exit_layer = _chosen_exit(section, run.recipe.model.exits)
    if is_minipost and exit_layer is None:
        raise UserError(f"adaptation.method standard: {section.source} is a mini-model; give the primary's folder")
    extracted = exit_layer is not None and not is_minipost
    body = extract_mini_model(run.model, exit_layer) if extracted else run.model.model
    return SourceModel(
        _with_settings(body, section),
        run.model.model if extracted else None,
        run.tokenizer,
        lineage_of(body, run.tokenizer),
        fingerprint_of(read_manifest(run.checkpoint)[0]["files"]),
        {
            "model": section.source,
            "checkpoint": run.checkpoint.name,
            **describe(run, exit_layer),
            "layers": body.config.num_hidden_layers,
        },
    )


def _chosen_exit(section: AdaptationSection, exits: tuple[int, ...]) -> int | None:
    """The layer of the mini-model in a run with these exits; None for the whole model."""
    if section.method == "standard":
        return None
    there_are = f"{section.source} has exits after layers: {', '.join(map(str, exits)) or 'none'}"
    if not exits:
        raise UserError(f"adaptation.method mini: {there_are}; use standard, or bridge a mini-model: minipost")
    if section.exit is None and len(exits) > 1:
        raise UserError(f"adaptation.exit: {there_are}; choose one")
    if section.exit is not None and section.exit not in exits:
        raise UserError(f"adaptation.exit {section.exit}: {there_are}")
    return section.exit or exits[0]


def _with_settings(body: PreTrainedModel, section: AdaptationSection) -> PreTrainedModel:
    """The same body with the recipe's dropout and attention."""
    config = copy.deepcopy(body.config)
    if section.dropout is not None:
        for key in family_of(config).dropout_keys:
            setattr(config, key, section.dropout)
    rebuilt = type(body)._from_config(config, attn_implementation=section.attention)
    rebuilt.load_state_dict(body.state_dict())
    rebuilt.tie_weights()
    return rebuilt


def _other_primary(section: AdaptationSection, source: SourceModel) -> PreTrainedModel:
    where = f"adaptation.primary: {section.primary}"
    primary, tokenizer = _load_folder(section.primary, section, where)
    if not same_lineage(lineage_of(primary, tokenizer), source.lineage):
        raise UserError(f"{where}: has other token embeddings, or another tokenizer, than {section.source}")
    return primary
