"""Vocabularies beside the source's: tokens of a word by tokenizer, and what the source's text became on the way."""

from megamini.adaptation.packs.pack_description import DESCRIPTION, read_description
from megamini.commands.reporting.runs import RunRecord
from megamini.commands.reporting.tables import plain_table

_TITLES = {"fertility": "new text", "fertility_of_old_text": "old text"}


def fertility_table(language: str, runs: list[RunRecord]) -> str:
    """Markdown; empty where no run has a vocabulary made from the source's."""
    rows, columns = [], ("old", "new", "mixed", "extended")
    for run in runs:
        folder = run.directory / "packs" / language
        told = read_description(folder).get("vocabulary") if (folder / DESCRIPTION).is_file() else None
        for key, title in _TITLES.items() if isinstance(told, dict) else ():
            values = told.get(key, {})
            shown = [f"{values[column]:.2f}" if column in values else "-" for column in columns]
            rows += [[run.name, told.get("kind", "-"), title, *shown]] if values else []
    if not rows:
        return ""
    titles = ["run", "kind", "tokens of a word in", *(f"{column} tokenizer" for column in columns)]
    return plain_table(titles, rows)


def source_table(language: str, runs: list[RunRecord]) -> str:
    """Markdown: bits per byte on the source's own text along the way, so that forgetting is seen; empty where no run
    has measured it."""
    rows = []
    for run in runs:
        name = f"validation/bits_per_byte_{language}_of_source"
        for suffix, over in (("", "body learned over"), ("_primary", "primary, plugged")):
            along = [line for line in run.validations if f"{name}{suffix}" in line]
            if along:
                share = run.recipe.get("data", {}).get("source_share", 0.0)
                numbers = ", ".join(f"{line[f'{name}{suffix}']:.3f}" for line in along)
                rows.append([run.name, f"{share:.0%}", over, numbers])
    return (
        plain_table(["run", "source text", "over", "bits per byte of source text, along the way"], rows) if rows else ""
    )
