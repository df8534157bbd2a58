"""Starting points kept with their run: computed once, and read again wherever the run goes on.

Computed anew they could be others: by another version, another processor, or another package behind `focus`.
"""

import hashlib
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.packs.pack_description import DESCRIPTION
from megamini.adaptation.starting_points.initialise import StartingPoint
from megamini.errors import UserError
from megamini.models.lineage import Lineage

FOLDER = "starts"  # of a run directory, with a folder for each language, in the format of a language pack


def keep(
    directory: Path,
    start: StartingPoint,
    language: str,
    tokenizer: PreTrainedTokenizerBase,
    lineage: Lineage,
    made_from: str,
) -> None:
    """Write a starting point. made_from: what it follows from, as `kept` is asked for."""
    details = {"starting_point": start.facts, "made_from": made_from}
    LanguagePack(language, start.matrix, start.bias, tokenizer, lineage, details, start.output).save(directory)


def kept(directory: Path, made_from: str) -> StartingPoint | None:
    """The starting point in `directory` that was made from the same; None where there is none. What is torn is said."""
    if not (directory / DESCRIPTION).is_file():
        return None
    try:
        pack = LanguagePack.load(directory)
    except UserError as error:
        print(f"{error}; the starting point is computed again", flush=True)
        return None
    if pack.details.get("made_from") != made_from:
        return None
    return StartingPoint(
        pack.token_embeddings, pack.output_bias, pack.details["starting_point"], pack.output_embeddings
    )


def start_sha256(start: StartingPoint) -> str:
    """Of the numbers of a starting point."""
    digest = hashlib.sha256()
    for tensor in (start.matrix, start.bias, *(() if start.output is None else (start.output,))):
        digest.update(tensor.detach().float().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
