"""What a run needs of its data and source to be exported, and learned over, where these are not: kept in the run.

`data/tokenizer`, `data/0/manifest.json` of the first data directory and so on, and where the body comes from a
checkpoint, `data/model/config.json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from megamini.data.blocks import load_manifest
from megamini.data.tokenizer import fingerprint, load_tokenizer, save_tokenizer
from megamini.errors import UserError, writing
from megamini.files import folder_written_whole, write_json


def keep_data(
    run: Path,
    tokenizer: PreTrainedTokenizerBase,
    manifests: Sequence[dict[str, Any]],
    source_config: PretrainedConfig | None,
) -> None:
    """Write what is not there, or of another run that has left no checkpoint. Rank 0 only."""
    folder = run / "data"
    if _is_kept(folder, tokenizer, manifests):
        return
    with writing(folder), folder_written_whole(folder, replace=True) as aside:
        save_tokenizer(tokenizer, aside / "tokenizer", [])
        for number, manifest in enumerate(manifests):
            (aside / str(number)).mkdir()
            write_json(aside / str(number) / "manifest.json", manifest)
        if source_config is not None:
            source_config.save_pretrained(aside / "model")


def data_of(run: Path, paths: Sequence[str]) -> tuple[list[Path], Path]:
    """Folders of the manifests of a run, and that of its tokenizer: its own, or of an earlier version's its data's."""
    folder = run / "data"
    if not folder.is_dir():
        return list(map(Path, paths)), Path(paths[0])
    return [folder / str(number) for number in range(len(paths))], folder / "tokenizer"


def source_config_of(run: Path) -> Path | None:
    """A folder with the configuration of the checkpoint that the run's body came from, where there was one."""
    folder = run / "data" / "model"
    return folder if folder.is_dir() else None


def _is_kept(folder: Path, tokenizer: PreTrainedTokenizerBase, manifests: Sequence[dict[str, Any]]) -> bool:
    try:
        kept = [load_manifest(folder / str(number)) for number in range(len(manifests))]
        return kept == list(manifests) and fingerprint(load_tokenizer(folder / "tokenizer")) == fingerprint(tokenizer)
    except UserError:
        return False
