"""What Python users call, beside packs themselves: load a model, prepare text, learn a language."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation import relearn
from megamini.adaptation.packs.hub import local_folder
from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.plugged_export import load_any_model
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.data.preparation.prepare import Settings
from megamini.data.preparation.prepare import prepare as prepare_data
from megamini.errors import UserError
from megamini.machine import usable_cores
from megamini.training.finished.weights import is_run

_RECIPE = "my_language"


def load(
    model: str | Path, pack: LanguagePack | str | Path | None = None, *, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a folder or hub name in the class that its `config.json` names, in fp32 and ready to be used, and
    its tokenizer; with a language pack plugged in where one is given, as a folder, a hub name or an object.

    `revision` is the model's on the hub. Raises `UserError` for what is no whole checkpoint of a supported family, and
    for a pack that does not fit.
    """
    folder = local_folder(model, revision)
    if is_run(folder):
        raise UserError(
            f"{model}: a run, not a model; for a run of pretraining, tools/export.py makes one; a run of adaptation "
            "has language packs in its packs/"
        )
    loaded, tokenizer = load_any_model(folder)
    return loaded, tokenizer if pack is None else plug(loaded, tokenizer, pack)


def prepare(
    text: str | Path | Sequence[str | Path],
    language: str,
    out: str | Path,
    *,
    processes: int | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Make the data directory `out` from text files, or globs of them; returns it. The same call goes on after an
    interruption.

    `settings` are the options of tools/prepare_data.py, such as `vocab_size`, `tokenizer` (a folder or hub name),
    `block_length`, `extend_tokenizer`, `add` and `old_text`. Raises `UserError` for bad input, and `TypeError` for a
    setting that there is not.
    """
    files = [text] if isinstance(text, str | Path) else list(text)
    for name in ("tokenizer", "extend_tokenizer"):
        if settings.get(name) is not None:
            settings[name] = str(settings[name])
    if (old_text := settings.get("old_text")) is not None:
        settings["old_text"] = [old_text] if isinstance(old_text, str | Path) else list(old_text)
        settings["old_text"] = [str(file) for file in settings["old_text"]]
    prepare_data(
        [str(file) for file in files],
        Path(out),
        Settings(language, **settings),
        usable_cores() if processes is None else processes,
        overwrite,
    )
    return Path(out)


def adapt(
    source: str | Path,
    data: str | Path,
    *,
    method: Literal["standard", "mini"] = "standard",
    lexicon: str | Path | None = None,
    parallel: tuple[str | Path, str | Path] | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    recipe: str | Path = _RECIPE,
    changes: Mapping[str, Any] | None = None,
) -> LanguagePack:
    """Learn the language of the data directory `data` over `source`, and return its pack.

    source: as `adaptation.source`. lexicon: a bilingual word list. parallel: two text files whose lines
    say the same, that of the new language first. The run is `runs`/`name`, by default the recipe's
    name; the same call goes on with a run that was stopped. `recipe` is one of `launch/adapt.py`, by its path or its
    name; `changes` are further keys of it, such as {"schedule.duration": "10M tokens"}. Raises `UserError` for bad
    input, and where the run was stopped before its end.
    """
    asked: dict[str, Any] = {
        "adaptation.source": source,
        "adaptation.method": method,
        "data.path": data,
        "training.runs": runs,
    }
    asked |= {"name": name} if name is not None else {}
    asked |= {"adaptation.lexicon": lexicon} if lexicon is not None else {}
    asked |= {"adaptation.parallel": parallel} if parallel is not None else {}
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in {**asked, **(changes or {})}.items()]
    checked = load_adaptation_recipe(recipe, overrides)
    packs = relearn.adapt(checked)
    if not packs:
        raise UserError(f"{checked.run_directory}: stopped before its end; the same call continues it")
    if len(packs) > 1:
        raise UserError(f"data.path: {len(packs)} languages, but this call returns one pack; learn them one by one")
    (folder,) = packs
    return LanguagePack.load(folder)
