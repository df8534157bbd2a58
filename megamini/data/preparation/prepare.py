"""Text -> tokenizer -> blocks: the pipeline behind tools/prepare_data.py.

1. Plan: the files are cut into units that do not depend on the number of processes.
2. Tokenizer: trained on the beginning of each unit, or an existing one.
3. Units (units.py): each is tokenized and packed by one worker into a folder of its own that appears only when
   complete, so a rerun of the same command goes on where the last one stopped.
4. Joining (joining.py): the units' shards become `train/`, in order; their leftovers more blocks; the validation text
   `validation/`.
5. `manifest.json` last: its presence means complete.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from megamini.data.blocks import Frame, load_manifest
from megamini.data.corpus.chunks import cut_document
from megamini.data.corpus.documents import Layout, Unit, find_files, plan_units, read_chunks
from megamini.data.corpus.hub import spool_units, stream_records
from megamini.data.preparation import units
from megamini.data.preparation.joining import join_units
from megamini.data.tokenizer import (
    LEAST_VOCABULARY,
    encoder,
    is_word_by_word,
    load_tokenizer,
    save_tokenizer,
    special_ids,
    special_roles,
    train_unigram,
)
from megamini.errors import UserError
from megamini.files import folder_written_whole, printable, write_json
from megamini.languages.codes import check_code
from megamini.lock_file import exclusive

_LOCK = ".running.json"


@dataclass(frozen=True)
class Settings:
    """What decides the output, given the text; kept in the manifest. Sizes: `block_length` in tokens, special ones
    included; `tokenizer_sample` in characters of text."""

    language: str
    vocab_size: int = 50_000
    tokenizer: str | None = None
    block_length: int = 512
    documents: str = "blank-line"
    text_column: str = "text"
    dataset: str | None = None
    dataset_config: str | None = None
    split: str = "train"
    validation_share: float = 0.01
    seed: int = 0
    character_coverage: float = 0.9998
    tokenizer_sample: int = 100_000_000
    decoder: bool = False

    def __post_init__(self) -> None:
        check_code(self.language, "--language")
        for name, least in {"vocab_size": LEAST_VOCABULARY, "block_length": 8, "tokenizer_sample": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        for name in ("validation_share", "character_coverage"):
            if not 0 < getattr(self, name) <= (0.5 if name == "validation_share" else 1):
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0 and at most "
                    f"{0.5 if name == 'validation_share' else 1}"
                )
        if self.decoder and not self.tokenizer:
            raise UserError("--decoder goes with --tokenizer; a tokenizer trained here has all that a decoder needs")
        if self.documents not in ("blank-line", "line"):
            raise UserError(f"--documents {self.documents}: must be blank-line or line")

    @property
    def layout(self) -> Layout:
        return Layout(self.documents, self.text_column)


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
    chosen = asdict(settings)
    if not settings.decoder:  # as earlier versions say nothing of it
        del chosen["decoder"]
    asked = {"settings": chosen, "sources": _sources(files)}
    if (out / "manifest.json").exists() and not overwrite:
        manifest = load_manifest(out)
        _refuse_other_settings(out, {part: manifest[part] for part in asked}, asked)
        print(f"{out}: already complete")
        return manifest
    inputs = [[printable(file.name), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    work = _work_folder(out, {**asked, "inputs": inputs}, overwrite)
    planned = plan_units(files, settings.layout)
    if files and not planned:
        raise UserError(f"{files[0]}: holds no documents")
    tokenizer = _tokenizer(planned, files, work, settings)
    job = _job(work, settings, tokenizer)
    _process(planned, job, settings, processes)
    manifest = join_units(out, job, tokenizer, asked)
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
    before, now = ({**values["settings"], **values} for values in (before, now))
    changed = [key for key in now if key != "settings" and before.get(key) != now[key]]
    if changed:
        key = changed[0]
        detail = "" if key in ("sources", "inputs") else f" ({before.get(key)} before, {now[key]} now)"
        raise UserError(
            f"{out}: was begun with other {key}{detail}; give another --out, or --overwrite to make it anew"
        )


# --- tokenizer and units ----------------------------------------------------------------------------------------------


def _tokenizer(planned: list[Unit], files: list[Path], work: Path, settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer, saved in the work folder so that a rerun need not train it again."""
    folder = work / "tokenizer"
    if not folder.exists():
        if settings.tokenizer:
            tokenizer = load_tokenizer(settings.tokenizer, settings.decoder)
        else:
            print(f"training a tokenizer of {settings.vocab_size} pieces", flush=True)
            texts = _at_least_one(_sample(planned, settings), files)
            tokenizer = train_unigram(texts, settings.vocab_size, settings.character_coverage, work / "sample.txt")
            (work / "sample.txt").unlink()
        probes = [text[:2_000] for text in itertools.islice(_sample(planned, settings), 100)]
        with folder_written_whole(folder) as aside:
            save_tokenizer(tokenizer, aside, probes)
    return load_tokenizer(folder)


def _at_least_one(texts: Iterator[str], files: list[Path]) -> Iterator[str]:
    first = next(texts, None)
    if first is None:
        raise UserError(f"{files[0] if files else 'the data set'}: holds no documents")
    return itertools.chain([first], texts)


def _sample(planned: list[Unit], settings: Settings) -> Iterator[str]:
    """The beginning of each unit, in all about `tokenizer_sample` characters."""
    if settings.dataset:
        records = _records(settings)
        streams = [(chunk.text for record in records for chunk in cut_document(record["text"] or ""))]
    else:
        streams = [(chunk.text for chunk in read_chunks(unit, settings.layout)) for unit in planned]
    share = -(-settings.tokenizer_sample // len(streams))
    for stream in streams:
        left = share
        for text in stream:
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break


def _records(settings: Settings) -> Iterator[dict[str, Any]]:
    return stream_records(settings.dataset, settings.dataset_config, settings.split, settings.text_column)


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
        todo = spool_units(_records(settings), job.work, done)
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
