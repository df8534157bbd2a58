"""Models out of a checkpoint folder, whatever their task, and the card of one that has a language pack plugged in."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _LazyAutoMapping

from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.packs.pack_description import DESCRIPTION
from megamini.data.tokenizer import load_tokenizer
from megamini.errors import UserError
from megamini.library_internals import check_internals
from megamini.markup import plain
from megamini.models.families import family_of
from megamini.models.pretrained import load_config, load_model
from megamini.training.finished.model_card import language_line

check_internals(__name__)

_ROWS = {
    "swapped": "Its token embeddings (and output bias) are those of the pack",
    "extension": "It has the token embeddings (and output biases) of the pack beside its own",
    "replacement": "It has the token embeddings (and output biases) of the pack in the place of some of its own",
}


def load_any_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a folder in the class that its config.json names, from safetensors, and its tokenizer.

    Raises `UserError` for a folder that holds no whole checkpoint of `transformers`.
    """
    if not (folder / "config.json").is_file():
        if (folder / DESCRIPTION).is_file():
            raise UserError(f"{folder}: a language pack, no model; give it as the pack, beside a model")
        raise UserError(f"{folder}: neither a run directory nor a checkpoint folder (no recipe.yaml, no config.json)")
    config = load_config(str(folder), str(folder), dropout=None)
    kind = _class_named(config)
    if kind is None:
        raise UserError(
            f"{folder}: config.json names under 'architectures' no model class of transformers for {config.model_type}"
        )
    tokenizer = load_tokenizer(folder, decoder=family_of(config).causal)
    return load_model(kind, str(folder), config, str(folder)).eval(), tokenizer


def _class_named(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class that `architectures` names, if the library has it among those for models of this type."""
    names = config.architectures
    name = names[0] if isinstance(names, list) and names else None
    for mapping in vars(modeling_auto).values():
        if isinstance(mapping, _LazyAutoMapping) and type(config) in mapping:
            of_type = mapping[type(config)]
            for kind in of_type if isinstance(of_type, tuple) else (of_type,):
                if kind.__name__ == name:
                    return kind
    return None


def plugged_card(description: dict[str, Any], pack: LanguagePack) -> str:
    """Markdown with the front matter that model hubs read, for a model that speaks the pack's language."""
    ledger, settings = pack.details.get("ledger", {}), pack.details.get("settings", {})
    rows = {
        "model": " ".join(str(description[key]) for key in ("role", "run") if description.get(key)) or "a task model",
        "embeddings learned by": pack.details.get("method", "unknown"),
        "over": pack.details.get("body", {}).get("model", "unknown"),
        "starting point": pack.details.get("starting_point", {}).get("kind", "unknown"),
        "tokens": f"{ledger.get('tokens', 0):,}",
        "FLOPs (by formula)": f"{ledger.get('flops', 0):.3g}",
        "recipe": settings.get("name", "unknown"),
    }
    sources = [
        f"- {plain(source['file'])}, {plain(source.get('licence') or 'licence unknown')}"
        for source in pack.details.get("text", [])
    ]
    return "\n".join(
        [
            "---",
            language_line([pack.language]),
            "library_name: transformers",
            "tags: [mini-model-adaptation]",
            "---",
            "",
            f"# A model with the language pack `{pack.language}` plugged in",
            "",
            f"{_ROWS[pack.kind]}, everything else is the model's, which learned another",
            "language (Mini-Model Adaptation, Marchisio et al. 2023).",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {plain(value)} |" for name, value in rows.items()),
            "",
            "Text of the pack:",
            "",
            *sources,
            "",
        ]
    )
