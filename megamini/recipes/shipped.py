"""Recipes and DeepSpeed files that come along: in a checkout beside the code, in an installed package inside it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "shipped"
ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
RECIPES = ROOT / "launch" / "recipes"


def find(name: str | Path) -> Path:
    """The file `name`, or else the one of that name that comes along: `launch/recipes/my_language.yaml` and
    `my_language` are one recipe. Where there is neither, the path as it is, which its reader refuses."""
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    for candidate in (ROOT / path, RECIPES / path, RECIPES / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    return path
