"""Schemes by which tags mark entities (Ramshaw and Marcus 1995; Ratinov and Roth 2009), and entity F1 by them."""

import itertools
from collections.abc import Iterable, Sequence

Tags = Sequence[Sequence[str]]

# Prefixes beside O -> the scheme. Of two the sentences decide: see `_first_or_second`.
_SCHEMES = (("IB", ("IOB1", "IOB2")), ("IE", ("IOE1", "IOE2")), ("IBES", ("IOBES",)), ("IBLU", ("BILOU",)))


def scheme_of(tags: Iterable[str], gold: Tags) -> str | None:
    """The name of the scheme in `seqeval`, by all `tags` that there may be and the gold ones; None where they are not
    those of entities, or of a scheme that is not known."""
    prefixes = {_split(tag)[0] for tag in tags} - {"O"}
    if not prefixes:
        return None
    for known, schemes in _SCHEMES:
        if prefixes <= set(known):
            return schemes[0] if len(schemes) == 1 else schemes[_first_or_second(gold, known[1]) - 1]
    return None


def entity_counts(gold: Tags, predicted: Tags, scheme: str) -> list[tuple[int, int, int]]:
    """Per sentence, how many entities are in gold and predicted, in predicted, and in gold.

    They are those of `seqeval` in its strict mode: an entity is right when span and type are, and is one only if its
    tags are as the scheme has them.
    """
    import seqeval.scheme  # slow to import, and only entities need it

    kind = getattr(seqeval.scheme, scheme)
    ours, theirs = (
        [
            {one.to_tuple() for one in own}
            for own in seqeval.scheme.Entities([list(tags) for tags in side], kind).entities
        ]
        for side in (predicted, gold)
    )
    return [(len(one & other), len(one), len(other)) for one, other in zip(ours, theirs, strict=True)]


def entity_f1(counts: Sequence[tuple[int, int, int]]) -> tuple[float, float, float]:
    """(precision, recall, F1) over all sentences, by their `entity_counts`; 0 where undefined."""
    both, predicted, gold = (sum(column) for column in zip(*counts, strict=True))
    quotients = (both, predicted), (both, gold), (2 * both, predicted + gold)
    return tuple(right / total if total else 0.0 for right, total in quotients)


def _split(tag: str) -> tuple[str, str]:
    """Prefix and type; a tag that has none of the schemes' prefixes is all prefix."""
    prefix, dash, kind = tag.partition("-")
    return (tag, "") if prefix == "O" and dash else (prefix, kind)


def _first_or_second(gold: Tags, mark: str) -> int:
    """1 where the mark B (or E) only parts two neighbours of one type, as in CoNLL 2003; 2 where every entity begins
    (or ends) with it. Real files have slips, so the most entities that stand alone decide."""
    marked = plain = 0
    for tags in gold:
        ordered = tags if mark == "B" else tags[::-1]
        for before, tag in itertools.pairwise(["O", *ordered]):
            prefix, kind = _split(tag)
            if prefix != "O" and (_split(before)[0] == "O" or _split(before)[1] != kind):
                marked += prefix == mark
                plain += prefix != mark
    return 2 if marked >= plain else 1
