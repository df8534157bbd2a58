"""Exact bits per byte of held-out text under a decoder: every token once, by windows that roll over each document.

The numerator is the negative log-likelihood of all of a document's tokens, the denominator the UTF-8 bytes of the
document as it stands in its file: so numbers of two tokenizers can be compared, unlike those of masked models.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.corpus.documents import Layout, find_files, plan_units, read_chunks
from megamini.data.tokenizer import encoder, special_roles
from megamini.downstream.metrics.measurement import Parts
from megamini.errors import UserError
from megamini.models.families import longest_input
from megamini.models.primary_model import PrimaryModel


def documents_of(path: str) -> Iterator[str]:
    """The documents of a file, or of those that a pattern stands for, as tools/prepare_data.py reads them.

    Raises UserError for a file that is not there, or of another kind than .txt, .jsonl and .parquet.
    """
    layout = Layout()
    for unit in plan_units(find_files([path]), layout):
        parts: list[str] = []
        for chunk in read_chunks(unit, layout):
            parts.append(chunk.text)
            if chunk.last:
                yield "".join(parts)
                parts = []


def rolling_bits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    where: str,
    batch_size: int,
    window: int | None = None,
) -> tuple[Parts, int]:
    """Of each document (bits, bytes), whose ratio is the measure, and the number of tokens.

    Windows hold `window` tokens, by default as many as the model has positions, and overlap by half: what is counted in
    a window has at least half of it before it, or the beginning of the document. Raises UserError, which begins with
    `where`, for text that the tokenizer reads as unknown, whose likelihood nobody knows, and for no text.
    """
    roles, encode = special_roles(tokenizer), encoder(tokenizer)
    length = window or longest_input(model.config)
    sizes: list[int] = []

    def all_windows() -> Iterator[tuple[int, list[int], int]]:
        for number, text in enumerate(documents):
            ids = encode.encode(text, add_special_tokens=False).ids
            if roles["unk"] is not None and roles["unk"] in ids and roles["unk"] != roles["eos"]:
                start = text[:40]
                raise UserError(f"{where}: the tokenizer reads some of '{start}...' as unknown: bits cannot be counted")
            sizes.append(len(text.encode()))
            for part, counted in windows([roles["bos"], *ids], length):
                yield number, part, counted

    nats: dict[int, float] = {}
    primary, tokens, rolling = PrimaryModel(model).eval(), 0, all_windows()
    with torch.inference_mode(), tqdm(desc="rolling", unit="window", leave=False) as bar:
        while some := list(islice(rolling, batch_size)):
            for (number, _, counted), own in zip(some, _nats(primary, some), strict=True):
                nats[number] = nats.get(number, 0.0) + own
                tokens += counted
            bar.update(len(some))
    if not tokens:
        raise UserError(f"{where}: holds no text")
    return [(nats.get(number, 0.0) / math.log(2), size) for number, size in enumerate(sizes)], tokens


def windows(ids: Sequence[int], length: int) -> Iterator[tuple[list[int], int]]:
    """(tokens, how many of the last are counted) of each window: together all of `ids` but the first, each once."""
    end = min(length, len(ids))
    if end > 1:
        yield list(ids[:end]), end - 1
    while end < len(ids):
        stop = min(len(ids), end + length - length // 2)
        yield list(ids[max(0, stop - length) : stop]), stop - end
        end = stop


def _nats(primary: PrimaryModel, some: Sequence[tuple[int, list[int], int]]) -> list[float]:
    """Negative log-likelihoods of the counted tokens of each window, in float64."""
    longest = max(len(part) for _, part, _ in some)
    # What stands behind a token changes nothing of it, so the pads need no mask, and may be any token.
    ids = torch.tensor([part + part[-1:] * (longest - len(part)) for _, part, _ in some], device=primary.model.device)
    ends = [(len(part) - counted, len(part)) for _, part, counted in some]
    labels = torch.cat([ids[row, start:end] for row, (start, end) in enumerate(ends)])
    positions = torch.cat(
        [torch.arange(start - 1, end - 1, device=ids.device) + row * longest for row, (start, end) in enumerate(ends)]
    )
    losses = primary(ids, positions, labels)[1][0].cpu().double()
    return [own.sum().item() for own in losses.split([end - start for start, end in ends])]
