"""Codes of languages: they name folders and files, and stand in reports and model cards."""

import re

from megamini.errors import UserError

LANGUAGE = "[a-z]{2,3}([-_][A-Z][a-z]{3})?([-_]([A-Z]{2}|[0-9]{3}))?"


def check_language(code: object, where: str) -> None:
    """Raise `UserError`, which begins with `where` and the code, for what is no language code."""
    if not isinstance(code, str) or not re.fullmatch(LANGUAGE, code):
        shown = " ".join(str(code).split())[:60]
        raise UserError(f"{where} {shown}: not a language code; write it like de, ace, zh-Hans or pt-BR")
