"""What is said of a starting point, in words for people."""

from megamini.adaptation.starting_points.initialise import StartingPoint

# Of the text: FreeDict's lists of the right language know 12% (2,000 lines) to 57%, most of another language's less.
_FEW_WORDS = 0.1


def in_words(start: StartingPoint) -> str:
    """On one line."""
    facts = start.facts
    words = f"'{facts['kind']}'"
    if (shared := facts.get("shared_token_share")) is not None:
        words += f", {shared:.0%} of the text in pieces that the source has too"
        words += " (all: the source's own language, or tokenizer?)" if shared == 1 else ""
    if listed := facts.get("lexicon_pieces"):
        share = facts["lexicon_token_share"]
        words += f"; {listed:,} pieces from the word list, {share:.0%} of the text as whole words"
        if share < _FEW_WORDS:
            words += " (few: is it a list of this language, with this language's words in front?)"
    if aligned := facts.get("aligned_pieces"):
        words += f"; {aligned:,} pieces aligned by parallel text, {facts['aligned_token_share']:.0%} of the text"
    unspelled = {script: share for script, share in facts.get("spelled_by_bytes", {}).items() if share > 0.5}
    for script, share in unspelled.items():
        words += f"; the source can spell {share:.0%} of the new {script} pieces only byte by byte: these are drawn"
    return words
