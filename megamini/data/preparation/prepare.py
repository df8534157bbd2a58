"""Text -> tokenizer -> blocks: the pipeline behind tools/prepare_data.py.

1. Plan: the files are cut into units that do not depend on the number of processes.
2. Tokenizer (vocabulary.py): trained on the beginning of each unit, an existing one, or one extended for the text.
3. Units (units.py): each is tokenized and packed by one worker into a folder of its own that appears only when
   complete, so a rerun of the same command goes on where the last one stopped.
4. Joining (joining.py): the units' shards become `train/`, in order; their leftovers more blocks; the validation text
   `validation/`.
5. `manifest.json` last: its presence means complete.
"""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from megamini.data.blocks import Frame, load_manifest
from megamini.data.corpus.documents import Layout, Unit, find_files, plan_units
from megamini.data.corpus.hub import spool_units
from megamini.data.preparation import units
from megamini.data.preparation.joining import join_units
from megamini.data.preparation.settings import Settings
from megamini.data.preparation.vocabulary import tokenizer_of
from megamini.data.tokenizer import encoder, is_word_by_word, special_ids, special_roles
from megamini.errors import UserError
from megamini.files import fingerprint_of, printable, sha256_of, write_json
from megamini.lock_file import exclusive

__all__ = ["Settings", "prepare"]

_LOCK = ".running.json"
_END = 2**20
_WHOLE = ("settings", "contents")  # whose keys are compared one by one
_CONTENTS = ("contents_of_text", "contents_of_old_text", "contents_of_tokenizer")
_NOT_ALWAYS_KEPT = ("old_sources", "contents")  # by earlier versions


def prepare(text: list[str], out: Path, settings: Settings, processes: int, overwrite: bool = False) -> dict[str, Any]:
    """Make the data directory `out` from files (names or globs) or the data set in `settings`; returns its manifest.

    The output depends on the text and the settings only. A rerun continues; a finished directory is left alone.
    Raises UserError for any bad input, and when the disk is full.
    """
    if printable(out) != str(out):  # the libraries that write there cannot
        raise UserError(f"--out {printable(out)}: a name with bytes that are no characters here; choose another")
    files = find_files(text)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with exclusive(out / _LOCK, f"{out}: another tools/prepare_data.py is writing there"):
            return _prepare(files, out, settings, processes, overwrite)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written: {error.strerror or error}; mend that (or free some space) and run "
            "the same command again: what is finished is kept"
        ) from None


def _prepare(files: list[Path], out: Path, settings: Settings, processes: int, overwrite: bool) -> dict[str, Any]:
    old = find_files(settings.old_text or [], "--old-text")
    asked = {"settings": settings.told(), "sources": _sources(files)}
    asked |= {"old_sources": _sources(old)} if old else {}
    asked["contents"] = _contents(files, old, settings.tokenizer or settings.extend_tokenizer)
    if (out / "manifest.json").exists() and not overwrite:
        manifest = load_manifest(out)
        _refuse_other_settings(out, {part: manifest[part] for part in asked if part in manifest}, asked)
        print(f"{out}: already complete")
        return manifest
    inputs = [[printable(file.name), file.stat().st_size, file.stat().st_mtime_ns] for file in (*files, *old)]
    work = _work_folder(out, {**asked, "inputs": inputs}, overwrite)
    planned = plan_units(files, settings.layout)
    if files and not planned:
        raise UserError(f"{files[0]}: holds no documents")
    tokenizer, vocabulary = tokenizer_of(planned, files, work, settings)
    job = _job(work, settings, tokenizer)
    _process(planned, job, settings, processes)
    manifest = join_units(out, job, tokenizer, asked, vocabulary)
    shutil.rmtree(work)
    return manifest


# --- the folder -------------------------------------------------------------------------------------------------------


def _sources(files: list[Path]) -> list[dict[str, Any]]:
    """Name and size of each file, with the licence and source that tools/fetch_text.py noted beside it."""
    sources = []
    for file in files:
        noted = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads((file.parent / "manifest.json").read_text(encoding="utf-8"))["files"][file.name]
        known = {key: noted[key] for key in ("source", "licence") if key in noted}
        sources.append({"file": printable(file.name), "bytes": file.stat().st_size, **known})
    return sources


def _work_folder(out: Path, asked: dict[str, Any], overwrite: bool) -> Path:
    """`out/.work`, kept from an earlier run of the same command or new."""
    work, known = out / ".work", out / ".work" / "asked.json"
    # The folder of tools/fetch_text.py has a manifest.json as well, and must not be emptied.
    ours = work.exists() or ((out / "manifest.json").exists() and (out / "tokenizer.json").exists())
    if not ours and any(path.name != _LOCK for path in out.iterdir()):
        raise UserError(f"{out}: is not empty and was not made by tools/prepare_data.py; give another --out")
    # Before there is a tokenizer nothing has been made that other settings would contradict.
    begun = (work / "tokenizer").exists() or (out / "manifest.json").exists()
    if known.exists() and begun and not overwrite:
        _refuse_other_settings(out, json.loads(known.read_text(encoding="utf-8")), json.loads(json.dumps(asked)))
        for aside in [*work.glob("unit-*.*"), *work.glob(".tokenizer.*")]:
            shutil.rmtree(aside, ignore_errors=True)
        return work
    # The work folder marks `out` as ours, so it is there before anything else goes.
    work.mkdir(exist_ok=True)
    for name in ("manifest.json", "unigram_counts.npy"):
        (out / name).unlink(missing_ok=True)
    for folder in [out / "train", out / "validation", *work.iterdir()]:
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
    write_json(known, asked)
    return work


def _refuse_other_settings(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    now = {part: value for part, value in now.items() if part in before or part not in _NOT_ALWAYS_KEPT}
    before, now = ({**values["settings"], **values, **values.get("contents", {})} for values in (before, now))
    # What is gone since (a tokenizer's folder) is as good as what was.
    now |= {key: before[key] for key in _CONTENTS if key in before and key not in now}
    changed = [key for key in {**now, **before} if key not in _WHOLE and before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        told = key in now["settings"]
        detail = f" ({before.get(key)} before, {now.get(key)} now)" if told else ""
        raise UserError(
            f"{out}: was begun with other {key}{detail}; give another --out, or --overwrite to make it anew"
        )


def _contents(files: list[Path], old: list[Path], tokenizer: str | None) -> dict[str, str]:
    """What tells files of one name and size apart: the ends of the text, which may be large, all of the old text, and
    the tokenizer where it is a folder."""
    try:
        found = {"contents_of_text": fingerprint_of([_ends(file) for file in files])}
        found |= {"contents_of_old_text": fingerprint_of([sha256_of(file) for file in old])} if old else {}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    file = None if tokenizer is None else Path(tokenizer) / "tokenizer.json"
    if file is not None and file.is_file():
        found["contents_of_tokenizer"] = sha256_of(file)
    return found


def _ends(file: Path) -> str:
    """SHA-256 of the first and the last MiB."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        digest.update(stream.read(_END))
        stream.seek(max(stream.tell(), file.stat().st_size - _END))
        digest.update(stream.read())
    return digest.hexdigest()


# --- units ----------------------------------------------------------------------------------------------


def _job(work: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> units.Job:
    roles = special_roles(tokenizer)
    special = np.zeros(len(tokenizer), bool)
    special[special_ids(tokenizer)] = True
    return units.Job(
        work=work,
        layout=Layout() if settings.dataset else settings.layout,
        frame=Frame(settings.block_length, len(tokenizer), roles["bos"], roles["eos"], roles["pad"]),
        encoder=encoder(tokenizer).to_str(),
        word_by_word=is_word_by_word(tokenizer),
        special=special,
        unk=roles["unk"],
        seed=settings.seed,
        validation_share=settings.validation_share,
    )


def _process(planned: list[Unit], job: units.Job, settings: Settings, processes: int) -> None:
    done = {int(folder.name.removeprefix("unit-")) for folder in job.work.glob("unit-??????")}
    if done:
        print(f"continuing: {len(done)} units are done already", flush=True)
    if settings.dataset:
        todo = spool_units(settings.records(), job.work, done)
        progress = {"unit": "unit"}
    else:
        todo = ((number, unit) for number, unit in enumerate(planned) if number not in done)
        progress = {
            "unit": "B",
            "unit_scale": True,
            "total": sum(unit.bytes for unit in planned),
            "initial": sum(planned[number].bytes for number in done),
        }
    with tqdm(desc="tokenizing", **progress) as bar:
        for unit in units.process_units(todo, job, processes):
            bar.update(1 if settings.dataset else unit.bytes)
            if settings.dataset:
                Path(unit.path).unlink()
