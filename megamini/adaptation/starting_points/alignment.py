"""Which pieces of two languages stand for each other, learned from texts that say the same: IBM model 1.

Brown, Della Pietra, Della Pietra and Mercer (1993, section 4.1), by expectation-maximisation, in both directions. An
alignment counts as far as both directions agree on it: a rare piece otherwise collects what nothing else explains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]  # (target ids, source ids) that say the same

ITERATIONS = 5
MOST_LINKS = 10_000_000  # of a piece with a piece, in pairs evenly spread over the text; a link takes about 60 bytes


@dataclass(frozen=True)
class Alignment:
    """shares: sparse fp64 [V_t, V_s], what each target piece stands for; rows of sum 1, or 0 where it is aligned with
    nothing. agreement: fp64 [V_t], the chance of coming back to a piece by way of what it stands for."""

    shares: sparse.csr_array
    agreement: np.ndarray


def align(pairs: Pairs, target_size: int, source_size: int) -> Alignment:
    """Align the pieces of pairs; ids are below the two sizes. Equal pairs, equal bits."""
    pairs = _within(pairs, MOST_LINKS)
    forth = translation_probabilities(pairs, target_size, source_size)
    back = translation_probabilities([(source, target) for target, source in pairs], source_size, target_size)
    both = forth.multiply(back.T).tocsr()
    agreement = np.asarray(both.sum(axis=1)).ravel()
    scale = sparse.diags_array(1 / np.where(agreement > 0, agreement, 1))
    return Alignment((scale @ both).tocsr(), agreement)


def translation_probabilities(pairs: Pairs, given_size: int, told_size: int) -> sparse.csr_array:
    """IBM model 1: p(told | given), sparse [given_size, told_size], from pairs (given ids, told ids).

    Each told piece comes from a piece of the other side, or from none (the empty word, which gets no row).
    """
    given, told, place = _links(pairs, given_size)
    if not len(given):
        return sparse.csr_array((given_size, told_size))
    links, link_of = np.unique(given * told_size + told, return_inverse=True)
    given_of, told_of = links // told_size, links % told_size
    probability = np.ones(len(links))
    for _ in range(ITERATIONS):
        explained = probability[link_of]
        explained /= np.bincount(place, explained)[place]  # expectation: which given piece a told one comes from
        expected = np.bincount(link_of, explained, len(links))
        probability = expected / np.bincount(given_of, expected)[given_of]  # maximisation
    real = given_of < given_size
    return sparse.csr_array((probability[real], (given_of[real], told_of[real])), shape=(given_size, told_size))


def _links(pairs: Pairs, empty: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every given piece, and the empty word, beside every told piece of its pair; and the place of the told one."""
    given, told, place = [], [], []
    places = 0
    for ours, theirs in pairs:
        with_empty = np.append(np.asarray(ours, np.int64), empty)
        given.append(np.tile(with_empty, len(theirs)))
        told.append(np.repeat(np.asarray(theirs, np.int64), len(with_empty)))
        place.append(np.repeat(np.arange(places, places + len(theirs)), len(with_empty)))
        places += len(theirs)
    nothing = [np.zeros(0, np.int64)]
    return tuple(np.concatenate(parts or nothing) for parts in (given, told, place))


def _within(pairs: Pairs, most: int) -> Pairs:
    """All pairs with two sides, or so many, evenly spread, that they have about `most` links."""
    pairs = [(ours, theirs) for ours, theirs in pairs if len(ours) and len(theirs)]
    links = sum(len(ours) * len(theirs) for ours, theirs in pairs)
    kept = len(pairs) if links <= most else max(1, len(pairs) * most // links)
    return [pairs[number * len(pairs) // kept] for number in range(kept)]
