"""The model card of a language pack: what `pack.json` says, for people and for model hubs."""

from collections.abc import Sequence
from typing import Any

from megamini.markup import plain
from megamini.training.finished.model_card import language_line

_KINDS = {
    "swapped": "Token embeddings and a tokenizer of one language.",
    "extension": "Token embeddings of pieces that are added to a model's own, and the tokenizer that has both.",
    "replacement": "Token embeddings in the place of a model's least used ones, and the tokenizer of the mixture.",
}


def pack_card(
    language: str, shape: Sequence[int], lineage: dict[str, Any], details: dict[str, Any], kind: str = "swapped"
) -> str:
    """Markdown with the front matter that model hubs read. shape: of the token matrix, [V, d]. details and kind: as in
    `LanguagePack`."""
    pieces, width = shape
    body, start, ledger = (details.get(key) or {} for key in ("body", "starting_point", "ledger"))
    rows = {
        "language": language,
        "kind": None if kind == "swapped" else kind,
        "token embeddings": f"{pieces:,} pieces of {width} numbers",
        "learned over": _body_line(body),
        "method": details.get("method"),
        "started from": start.get("kind"),
        "updates": _number(ledger.get("updates")),
        "tokens": _number(ledger.get("tokens")),
        "FLOPs (by formula)": f"{ledger['flops']:.3g}" if ledger.get("flops") else None,
        "seconds": _number(ledger.get("seconds")),
        **_fertility(details.get("vocabulary") or {}),
        "fits models whose token embeddings have the SHA-256": lineage["embeddings_sha256"],
        "and whose tokenizer has": lineage["tokenizer_sha256"],
    }
    text = [
        f"- {plain(str(source['file']))}, {plain(source.get('licence') or 'licence not stated')}"
        for source in details.get("text") or []
    ]
    return "\n".join(
        [
            "---",
            language_line([language]),
            "library_name: megamini",
            "tags: [language-pack, mini-model-adaptation]",
            "---",
            "",
            f"# A language pack: `{language}`",
            "",
            f"{_KINDS[kind]} They plug into the language model that they were learned beside, and into every "
            "task model that was fine-tuned from it with frozen token embeddings:",
            "",
            "```python",
            "import megamini",
            "",
            'model, tokenizer = megamini.load("FOLDER OF THE MODEL", pack="THIS FOLDER")',
            "```",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {plain(str(value))} |" for name, value in rows.items() if value is not None),
            "",
            "The text that it was learned from, with its licence:",
            "",
            *(text or ["- not stated"]),
            "",
        ]
    )


def _fertility(vocabulary: dict[str, Any]) -> dict[str, str]:
    """Tokens of a word, by tokenizer, in the new text and in the old."""
    titles = {"fertility": "tokens of a word", "fertility_of_old_text": "tokens of a word of the old text"}
    return {
        title: ", ".join(f"{value:.2f} {name}" for name, value in vocabulary[key].items())
        for key, title in titles.items()
        if key in vocabulary
    }


def _body_line(body: dict[str, Any]) -> str | None:
    if not body:
        return None
    layers = f"{body['layers']} layers of " if body.get("layers") else ""
    return f"{layers}{body.get('model', 'a model')}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"
