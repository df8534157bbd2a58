"""Language codes: users write `en`, `de`, `zh`; each source has its own spelling (`en-us`, `de-DE`, `zh_CN`)."""

from collections.abc import Iterable

from megamini.errors import UserError, did_you_mean

# Where the short code alone does not decide.
PREFERRED = {"en": ["en", "en-us"], "zh": ["zh", "zh-cn"], "pt": ["pt", "pt-pt", "pt-br"], "nb": ["nb", "no"]}


def normal(code: str) -> str:
    """`zh_CN.UTF-8` and `zh-CN` are `zh-cn`."""
    return code.partition(".")[0].replace("_", "-").lower()


def find(language: str, codes: Iterable[str]) -> str | None:
    """The source's own code for `language`, or None: the same code, the preferred one, or the only regional one."""
    own = {normal(code): code for code in sorted(codes)}
    language = normal(language)
    for candidate in [language, *PREFERRED.get(language, [])]:
        if candidate in own:
            return own[candidate]
    regional = [code for code in own if code.startswith(f"{language}-")]
    return own[regional[0]] if len(regional) == 1 else None


def require(language: str, codes: Iterable[str], source: str) -> str:
    """As `find`; a language that the source lacks is a `UserError` that lists what there is."""
    codes = list(codes)
    code = find(language, codes)
    if code is None:
        known = shown(codes)
        raise UserError(
            f"language '{language}': {source} has none{did_you_mean(language, known)}; it has {', '.join(known)}"
        )
    return code


def shown(codes: Iterable[str]) -> list[str]:
    """The codes as a user may write them: short where that is enough."""
    codes = list(codes)
    short = {normal(code).partition("-")[0] for code in codes}
    found = {language: find(language, codes) for language in short}
    rest = {normal(code) for code in codes if code not in found.values()}
    return sorted({language for language, code in found.items() if code} | rest)
