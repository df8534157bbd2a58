"""Mini-Model Adaptation on DeepSpeed and transformers. `__all__` names what is public; docs/python-api.md shows it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from megamini.errors import UserError

if TYPE_CHECKING:
    from megamini.adaptation.api import adapt, load, prepare
    from megamini.adaptation.packs.language_pack import LanguagePack, plug
    from megamini.adaptation.packs.plugging import plugged, unplug

__all__ = ["LanguagePack", "UserError", "adapt", "load", "plug", "plugged", "prepare", "unplug"]

_HOMES = {
    "adapt": "megamini.adaptation.api",
    "load": "megamini.adaptation.api",
    "prepare": "megamini.adaptation.api",
    "LanguagePack": "megamini.adaptation.packs.language_pack",
    "plug": "megamini.adaptation.packs.language_pack",
    "plugged": "megamini.adaptation.packs.plugging",
    "unplug": "megamini.adaptation.packs.plugging",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: they bring `transformers` with them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'megamini' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
