"""FOCUS (Dobler and de Melo 2023, arXiv 2305.14481): a new piece starts as a mixture of shared pieces used alike.

Through the authors' package `deepfocus` where it is installed (`pip install deepfocus`: it compiles fastText, so it
needs g++), else, and always with a word list or parallel text, the same stages here over `static_vectors`. The facts of
a starting point say which of the two it was.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.starting_points.static_vectors import DIMENSIONS, MIN_COUNT, first_tokens, static_vectors
from megamini.errors import UserError

BACKENDS = ("deepfocus", "scikit-learn")
_CHUNK_ROWS = 1024
_FASTTEXT_EPOCHS = 3  # the package's default
_FASTTEXT_BUCKETS = 200_000  # of character n-grams; fastText's two millions are a file of 800 MB


@dataclass(frozen=True)
class FocusRows:
    """rows: fp32 [V_t, d], zero where there is none. mixed: bool [V_t], the new pieces that are mixtures.
    anchors: mean number of anchors that one is mixed from, None where the package does not tell."""

    rows: torch.Tensor
    mixed: np.ndarray
    anchors: float | None
    through: str


def choose_backend(wanted: str | None, translations: bool = False) -> str:
    """`wanted`; unset, deepfocus where it is installed, but never with a word list or parallel text, which it cannot
    take.

    Raises `UserError` where `wanted` cannot be had.
    """
    if wanted not in (None, *BACKENDS):
        raise UserError(f"focus through '{wanted}': there are {' and '.join(BACKENDS)}")
    if translations:
        if wanted == "deepfocus":
            raise UserError(
                "focus through 'deepfocus' takes no word list and no parallel text; leave out one of the two"
            )
        return "scikit-learn"
    installed = importlib.util.find_spec("deepfocus") is not None
    if wanted == "deepfocus" and not installed:
        raise UserError("focus through 'deepfocus': not installed; pip install deepfocus, or leave it to scikit-learn")
    return wanted or ("deepfocus" if installed else "scikit-learn")


def focus_rows(
    text: Iterable[np.ndarray], ordinary: np.ndarray, known: np.ndarray, matrix: torch.Tensor, seed: int
) -> FocusRows:
    """The stages of FOCUS over our own static vectors.

    text: documents of token ids. ordinary: bool [V_t]. known: bool [V_t], the pieces whose rows of matrix fp32 [V_t, d]
    others may be mixed from: those of both vocabularies and, with a word list, its words. They get no row here.
    """
    # 1. A vector for every piece that the target text uses often enough.
    vectors = static_vectors(text, ordinary, seed)
    has_vector = np.any(vectors != 0, axis=1)

    # 2. Of the pieces with a vector: anchors, the known ones, and new ones, the others.
    anchors = np.flatnonzero(known & has_vector)
    new = np.flatnonzero(ordinary & ~known & has_vector)
    rows = torch.zeros(matrix.shape)
    mixed = np.zeros(len(ordinary), bool)
    if not len(anchors) or not len(new):
        return FocusRows(rows, mixed, None, "scikit-learn")
    anchor_rows = matrix.numpy()[anchors]

    used = 0
    for start in range(0, len(new), _CHUNK_ROWS):
        chunk = new[start : start + _CHUNK_ROWS]
        with threadpool_limits(1):  # equal bits for any number of cores
            # 3. Cosine of each new piece with each anchor [n, A]; the vectors have unit length.
            similarity = vectors[chunk] @ vectors[anchors].T
            # 4. Weights: non-negative, of sum 1, and zero but for the most similar anchors.
            weights = sparsemax(similarity.astype(np.float64))
            # 5. The new row: the anchors' rows, mixed.
            rows[chunk] = torch.from_numpy((weights @ anchor_rows).astype(np.float32))
        used += int((weights > 0).sum())
    mixed[new] = True
    return FocusRows(rows, mixed, used / len(new), "scikit-learn")


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """The point of the probability simplex nearest to each row [n, A] (Martins and Astudillo 2016, algorithm 1)."""
    descending = -np.sort(-scores, axis=1)
    excess = np.cumsum(descending, axis=1) - 1
    rank = np.arange(1, scores.shape[1] + 1)
    support = (descending * rank > excess).sum(axis=1)  # k(z), at least 1
    threshold = excess[np.arange(len(scores)), support - 1] / support
    return np.maximum(scores - threshold[:, None], 0)


def deepfocus_rows(
    text: Iterable[np.ndarray],
    ordinary: np.ndarray,
    shared: np.ndarray,
    source_matrix: torch.Tensor,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> FocusRows:
    """The rows of the package. shared: source id or -1 [V_t]; the other arguments as for `focus_rows`.

    fastText is trained here rather than by the package, which would keep its model in a cache by the name of the text
    file, and on all cores, so that no two runs agree. Its own seed is fixed: on one core equal text, equal vectors.
    """
    import fasttext
    from deepfocus import FOCUS

    pieces = target_tokenizer.convert_ids_to_tokens(range(len(target_tokenizer)))
    counts = np.zeros(len(ordinary), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        corpus, model = Path(folder) / "pieces.txt", Path(folder) / "vectors.bin"
        with corpus.open("w", encoding="utf-8") as file:
            for document in first_tokens(text):
                kept = document[ordinary[document]]
                counts += np.bincount(kept, minlength=len(ordinary))
                # All on one line: fastText reads a line end as the word `</s>`, which the package would then take for
                # a shared piece and mix the row of the end of a sequence into all others.
                file.write(" ".join(pieces[number] for number in kept) + " ")
        if not np.any((counts >= MIN_COUNT) & (shared >= 0)):
            return FocusRows(torch.zeros(len(ordinary), source_matrix.shape[1]), ordinary & False, None, "deepfocus")
        settings = {"dim": DIMENSIONS, "neg": 10, "epoch": _FASTTEXT_EPOCHS, "minCount": MIN_COUNT}
        trained = fasttext.train_unsupervised(
            str(corpus), model="cbow", bucket=_FASTTEXT_BUCKETS, thread=1, verbose=0, **settings
        )
        trained.save_model(str(model))
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars know no silence
            rows = FOCUS(
                target_tokenizer=target_tokenizer,
                source_tokenizer=source_tokenizer,
                source_embeddings=source_matrix,
                fasttext_model_path=str(model),
                processes=1,
                seed=seed,
                verbosity="silent",
            )
    mixed = ordinary & (shared < 0) & (counts >= MIN_COUNT)
    return FocusRows(rows.float(), mixed, None, f"deepfocus {importlib.metadata.version('deepfocus')}")
