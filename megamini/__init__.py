"""Mini-Model Adaptation on DeepSpeed and transformers; `megamini.plug(model, tokenizer, pack)` is its public face."""

from typing import Any

__all__ = ["LanguagePack", "plug"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: they bring `transformers` with them."""
    if name not in __all__:
        raise AttributeError(f"module 'megamini' has no attribute '{name}'")
    from megamini.adaptation.packs import language_pack

    return getattr(language_pack, name)
