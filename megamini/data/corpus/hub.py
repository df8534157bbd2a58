"""Documents of a `datasets` data set, on the hub or in a local folder: streamed, and spooled to units of JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megamini.data.corpus.documents import Unit, missing_column
from megamini.errors import UserError
from megamini.files import written_whole

UNIT_DOCUMENTS = 20_000


def stream_records(name: str, config: str | None, split: str, text_column: str) -> Iterator[dict[str, Any]]:
    """The data set's documents in order, as {"text", "id"}. Code that comes with a data set is never run.

    Raises UserError when the data set, its split or the text column is missing, or a text is not a string.
    """
    import datasets  # slow to import, and only data sets need it

    try:
        data = datasets.load_dataset(name, config, split=split, streaming=True)
        for number, record in enumerate(data):
            if text_column not in record:
                raise UserError(missing_column(text_column, list(record)))
            text = record[text_column]
            if text is not None and not isinstance(text, str):
                raise UserError(f"document {number}: the text is {type(text).__name__}, not a string")
            yield {"text": text, "id": record.get("id")}
    except UserError as error:
        raise UserError(f"--dataset {name}: {error}") from None
    except Exception as error:
        # Whatever the library raises comes from the name, the network or the files.
        raise UserError(f"--dataset {name}: cannot be read: {str(error).strip()}") from None


def spool_units(records: Iterator[dict[str, Any]], work: Path, done: set[int]) -> Iterator[tuple[int, Unit]]:
    """Write every `UNIT_DOCUMENTS` records to a file in `work` and yield it as a numbered unit; those in `done` are
    read past. Whoever is done with a unit deletes its file."""
    number, record = 0, next(records, None)
    while record is not None:
        path = work / f"spool-{number:06d}.jsonl"
        lines = []
        while record is not None and len(lines) < UNIT_DOCUMENTS:
            lines.append(record)
            record = next(records, None)
        if number not in done:
            with written_whole(path) as stream:
                for line in lines:
                    stream.write(json.dumps(line).encode() + b"\n")
            yield number, Unit(str(path), "json", 0, None, path.stat().st_size)
        number += 1
