"""Language codes: which of several names is the language that is meant, by BCP 47 and CLDR (`langcodes`)."""

import re
from collections.abc import Iterable
from functools import cache

from langcodes import Language, standardize_tag, tag_distance
from langcodes.tag_parser import LanguageTagError

from megamini.errors import UserError

# Of prepared text and packs: it names folders, and stands in reports and model cards.
CODE_PATTERN = "[a-z]{2,3}([-_][A-Z][a-z]{3})?([-_]([A-Z]{2}|[0-9]{3}))?"
# CLDR's distances. What is one language under two codes (nb and no) is at most 1 apart; two scripts that all readers of
# a language read (sr-Latn, sr-Cyrl) are 5 apart, two regions at most 5, any two other scripts (zh-Hans, zh-Hant) 50.
_ONE_LANGUAGE, _ONE_TEXT = 1, 10


def closest(language: str, names: Iterable[str], where: object) -> str | None:
    """The one of `names` that is `language`, if need be in another spelling (pt_BR, por), with or without its script
    (ace_Latn) or from another region (pt). None where all are other languages, or are written in another script.

    Raises UserError, which names `where` they are, for several that are as close.
    """
    ranked = {name: rank for name in dict.fromkeys(names) if (rank := distance(language, name)) is not None}
    best = [name for name, rank in ranked.items() if rank == min(ranked.values())]
    if len(best) > 1:
        raise UserError(
            f"{where}: language '{language}' may be any of {', '.join(sorted(best))}; name the one that is meant"
        )
    return best[0] if best else None


@cache
def distance(language: str, name: str) -> int | None:
    """How far `name` is from the text that `language` asks for: 0 where it is that very name, more for another
    spelling, script or region; None for another language or a script that other people read."""
    if name == language:
        return 0
    if not same_language(language, name):
        return None
    if _standard(language) == _standard(name):
        return 1
    apart = tag_distance(language, name)
    return 2 + apart if apart < _ONE_TEXT else None


@cache
def same_language(one: str, other: str) -> bool:
    """Whether both codes are of one language, whatever its script or region."""
    if one == other:
        return True
    ours, theirs = _standard(one), _standard(other)
    if ours is None or theirs is None:
        return False
    ours, theirs = ours.language, theirs.language
    if tag_distance(ours, theirs) > _ONE_LANGUAGE:
        return False
    # Two languages that a third code has in common (Twi and Fante: ak) are two.
    common = standardize_tag(ours, macro=True)
    return ours == theirs or common != standardize_tag(theirs, macro=True) or common in (ours, theirs)


def check_code(code: object, where: str) -> None:
    """Raise UserError, which begins with `where` and the code, for what prepared text and packs cannot be called."""
    if not isinstance(code, str) or not re.fullmatch(CODE_PATTERN, code):
        shown = " ".join(str(code).split())[:60]
        raise UserError(f"{where} {shown}: not a language code; write it like de, ace, zh-Hans or pt-BR")


def is_code(name: str) -> bool:
    """Whether `name` is a language code that is registered."""
    standard = _standard(name)
    return standard is not None and standard.is_valid()


@cache
def _standard(name: str) -> Language | None:
    try:
        return Language.get(name, normalize=True)
    except LanguageTagError:
        return None
