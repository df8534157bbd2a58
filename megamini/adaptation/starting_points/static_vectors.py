"""Static vectors of the target language's pieces: pieces used alike lie close together.

Counts of pieces seen near each other, weighted by positive pointwise mutual information and reduced by a truncated
singular value decomposition (Levy, Goldberg and Dagan 2015, "Improving distributional similarity with lessons learned
from word embeddings"). Unlike sampled training it is deterministic, and it does well on little text.
"""

from collections.abc import Iterable

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

WINDOW = 5  # pieces to either side
DIMENSIONS = 100
MIN_COUNT = 10  # rarer pieces get no vector: there is too little to tell them by (as in FOCUS)
MOST_TOKENS = 50_000_000  # more text changes little and takes memory
_CONTEXT_POWER = 0.75  # smoothing of the context distribution (Levy et al., section 3.2)
_CHUNK_TOKENS = 2_000_000


def static_vectors(text: Iterable[np.ndarray], ordinary: np.ndarray, seed: int) -> np.ndarray:
    """Vectors fp32 [V, k] of unit length or zero, from documents of token ids int [n].

    `ordinary`: bool [V]; other (special) ids are left out and separate what stands on their two sides. k is at most
    `DIMENSIONS`. Equal input and seed, equal bits, for any number of cores.
    """
    counts = np.zeros(len(ordinary), np.int64)
    near = sparse.csr_array((len(ordinary), len(ordinary)), dtype=np.float64)
    for tokens in _chunks(text, ordinary):
        counts += np.bincount(tokens[tokens >= 0], minlength=len(ordinary))
        near = near + _near(tokens, len(ordinary))
    kept = np.flatnonzero(counts >= MIN_COUNT)
    vectors = np.zeros((len(ordinary), min(DIMENSIONS, max(1, len(kept) - 1))), np.float32)
    if len(kept) > 1:
        vectors[kept] = _reduced(_ppmi(near[kept][:, kept]), vectors.shape[1], seed)
    return vectors


def first_tokens(text: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """The documents of token ids, flat, until they have `MOST_TOKENS`."""
    total = 0
    for document in text:
        flat = np.asarray(document, dtype=np.int64).ravel()
        yield flat
        total += len(flat)
        if total >= MOST_TOKENS:
            return


def _chunks(text: Iterable[np.ndarray], ordinary: np.ndarray) -> Iterable[np.ndarray]:
    """Long runs of ids, -1 for special pieces and `WINDOW` times -1 between documents; at most `MOST_TOKENS` in all."""
    gap = np.full(WINDOW, -1, np.int64)
    held, size = [], 0
    for document in first_tokens(text):
        held += [np.where(ordinary[document], document, -1), gap]
        size += len(document)
        if size >= _CHUNK_TOKENS:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _near(tokens: np.ndarray, pieces: int) -> sparse.csr_array:
    """How often two pieces stand within `WINDOW` of each other, nearer ones counting more [V, V], symmetric."""
    near = sparse.csr_array((pieces, pieces), dtype=np.float64)
    for distance in range(1, WINDOW + 1):
        left, right = tokens[:-distance], tokens[distance:]
        both = (left >= 0) & (right >= 0)
        weight = np.full(int(both.sum()), (WINDOW + 1 - distance) / WINDOW)
        near = near + sparse.coo_array((weight, (left[both], right[both])), shape=near.shape).tocsr()
    return near + near.T


def _ppmi(near: sparse.csr_array) -> sparse.csr_array:
    """max(0, log(p(x, y) / (p(x) p'(y)))), p' the smoothed distribution of contexts (Levy et al., 2.1, 3.2)."""
    sums = np.asarray(near.sum(axis=1)).ravel()
    context = sums**_CONTEXT_POWER
    pairs = near.tocoo()
    row, column = pairs.coords
    information = np.log(pairs.data * context.sum() / (sums[row] * context[column]))
    result = sparse.coo_array((np.maximum(information, 0), (row, column)), shape=near.shape).tocsr()
    result.eliminate_zeros()
    return result


def _reduced(matrix: sparse.csr_array, dimensions: int, seed: int) -> np.ndarray:
    """Left singular vectors times the roots of the singular values (Levy et al., section 3.3), in unit length."""
    # Sums over several threads would come out in another order on a machine with other cores.
    with threadpool_limits(1):
        svd = TruncatedSVD(dimensions, n_iter=7, random_state=seed % 2**32)
        scaled = svd.fit_transform(matrix)
    roots = np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    vectors = scaled / roots
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 1e-9, lengths, 1)).astype(np.float32)
