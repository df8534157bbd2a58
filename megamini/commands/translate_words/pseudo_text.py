"""Pseudo text of files, in several processes: the same bytes for any number of them, in constant memory."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from megamini.commands.translate_words.translator import Translator, drawing
from megamini.data.corpus.documents import Layout, Unit, plan_units, read_chunks
from megamini.errors import UserError
from megamini.files import written_whole
from megamini.languages.words import sentences, words

_UNIT_BYTES = 8 * 2**20
_COPIED = 2**20


@dataclass(frozen=True)
class Work:
    """What every unit needs to know. least: listed words that a sentence must have."""

    lexicon: str
    layout: Layout
    least: int
    seed: int
    folder: str


def translate_files(
    files: list[Path], lexicon: str, layout: Layout, out: Path, least: int, seed: int, processes: int
) -> Counter[str]:
    """Write JSON lines of the documents' sentences with `least` listed words or more, translated.

    Returns counts: documents, sentences and words that there are, those kept (kept_*), and the words translated.
    Raises UserError where the list does not go with the text, or nothing is left.
    """
    units = plan_units(files, layout, _UNIT_BYTES)
    translator, counts = Translator(lexicon), Counter()
    translator.check_direction(_beginning(units, layout))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        work = Work(lexicon, layout, least, seed, folder)
        for found in _worked(units, work, translator, processes):
            counts += found
        if not counts["kept_sentences"]:
            raise UserError(
                f"{lexicon}: none of the text's {counts['sentences']:,} sentences has {least} words of its second "
                "column; is it a list of the text's language? Else lower --least"
            )
        with written_whole(out) as whole:
            for number in range(len(units)):
                with (Path(folder) / str(number)).open("rb") as part:
                    while block := part.read(_COPIED):
                        whole.write(block)
    return counts


def _beginning(units: list[Unit], layout: Layout) -> list[str]:
    return [chunk.text for unit in units[:1] for chunk, _ in zip(read_chunks(unit, layout), range(200), strict=False)]


def _worked(units: list[Unit], work: Work, translator: Translator, processes: int) -> Iterator[Counter[str]]:
    if processes == 1 or len(units) == 1:
        for number, unit in enumerate(units):
            yield translate_unit(number, unit, work, translator)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(work,))
    try:
        yield from pool.map(_work, range(len(units)), units)
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps for lack of memory; give fewer --processes") from None
    finally:
        pool.shutdown(cancel_futures=True)


def translate_unit(number: int, unit: Unit, work: Work, translator: Translator) -> Counter[str]:
    """Write the pseudo text of a unit into the file of its number; counts."""
    counts: Counter[str] = Counter()
    with (Path(work.folder) / str(number)).open("w", encoding="utf-8") as out:
        kept: list[str] = []
        key, draw = "", drawing(work.seed, "")
        for chunk in read_chunks(unit, work.layout):
            if chunk.key is not None:
                key, draw, kept = chunk.key, drawing(work.seed, chunk.key), []
            for sentence in sentences(chunk.text):
                translated, replaced = translator.text(sentence, draw)
                counts += Counter(sentences=1, words=(length := len(words(sentence))))
                if replaced >= work.least:
                    kept.append(translated)
                    counts += Counter(kept_sentences=1, kept_words=length, translated_words=replaced)
            if chunk.last:
                counts["documents"] += 1
                if kept:
                    counts["kept_documents"] += 1
                    name = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
                    line = {"id": name, "text": "\n".join(kept)}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return counts


_worker: tuple[Work, Translator]


def _start_worker(work: Work) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run
    with contextlib.redirect_stdout(Path(os.devnull).open("w")):  # who started this has heard what is odd in the list
        _worker = work, Translator(work.lexicon)


def _work(number: int, unit: Unit) -> Counter[str]:
    return translate_unit(number, unit, *_worker)
