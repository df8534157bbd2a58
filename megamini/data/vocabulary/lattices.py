"""All ways to cut words into known pieces, and what follows from the scores of these: expected counts, best scores."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


class Lattices:
    """Those of many words, worked on together.

    An edge is a piece at a place of a word. A character that is no piece has an edge of the piece `unknown`.
    """

    def __init__(self, words: Sequence[str], numbers: Mapping[str, int], unknown: int, whole: bool = True) -> None:
        """numbers: piece -> number. whole: whether a word of several characters may be one piece."""
        longest = max(map(len, numbers), default=1)
        begins, ends, pieces = array("i"), array("i"), array("i")
        node = 0
        for word in words:
            for begin in range(len(word)):
                if word[begin] not in numbers:
                    begins.append(node + begin)
                    ends.append(node + begin + 1)
                    pieces.append(unknown)
                for end in range(begin + 1, min(begin + longest, len(word)) + 1):
                    number = numbers.get(word[begin:end])
                    if number is not None and (whole or end - begin < len(word) or end - begin == 1):
                        begins.append(node + begin)
                        ends.append(node + end)
                        pieces.append(number)
            node += len(word) + 1
        lengths = np.array([len(word) for word in words], np.int64)
        self._first = np.cumsum(lengths + 1) - lengths - 1
        self._last = self._first + lengths
        self._word = np.repeat(np.arange(len(words)), lengths + 1)  # of each node
        from_start = np.arange(node) - self._first[self._word]
        begin, end, piece = (np.frombuffer(column, np.int32) for column in (begins, ends, pieces))
        self._forward = _Edges.in_order(begin, end, piece, from_start)
        self._backward = _Edges.in_order(end, begin, piece, lengths[self._word] - from_start)

    def without(self, dropped: np.ndarray) -> None:
        """Leave out the edges of dropped pieces, bool by number."""
        self._forward, self._backward = self._forward.without(dropped), self._backward.without(dropped)

    def expected_counts(self, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """How often each piece is used, fp64 by number, over all ways to cut the words, each as likely as the sum of
        its pieces' scores (natural logarithms) says. counts: how often each word occurs."""
        edges = self._forward
        forward = edges.sums(scores, len(self._word), self._first)
        backward = self._backward.sums(scores, len(self._word), self._last)
        word = self._word[edges.source]
        whole = forward[self._last]
        share = np.exp(forward[edges.source] + scores[edges.piece] + backward[edges.target] - whole[word])
        return np.bincount(edges.piece, share * counts[word], minlength=len(scores))

    def best(self, scores: np.ndarray) -> np.ndarray:
        """The score of the best way to cut each word, fp64 [words]; minus infinity where there is none."""
        return self._forward.sums(scores, len(self._word), self._first, best=True)[self._last]


@dataclass(frozen=True)
class _Edges:
    """source, target: nodes. level: of the target, its distance from where paths begin; edges are in its order, those
    of one target together."""

    source: np.ndarray
    target: np.ndarray
    piece: np.ndarray
    level: np.ndarray

    @classmethod
    def in_order(cls, source: np.ndarray, target: np.ndarray, piece: np.ndarray, distance: np.ndarray) -> "_Edges":
        """distance: of each node."""
        level = distance[target].astype(np.int32)
        order = np.lexsort((target, level))
        return cls(source[order], target[order], piece[order], level[order])

    def without(self, dropped: np.ndarray) -> "_Edges":
        kept = ~dropped[self.piece]
        return _Edges(self.source[kept], self.target[kept], self.piece[kept], self.level[kept])

    def sums(self, scores: np.ndarray, nodes: int, starts: np.ndarray, best: bool = False) -> np.ndarray:
        """Of each node, log of the sum over all paths from a word's start, or the best path; fp64 [nodes]."""
        found = np.full(nodes, -np.inf)
        found[starts] = 0.0
        groups = np.flatnonzero(np.diff(self.target, prepend=-1))
        sizes = np.diff(groups, append=len(self.target))
        # Where each level begins, among the edges and among the groups of edges to one node.
        cuts = np.append(np.flatnonzero(np.diff(self.level, prepend=-1)), len(self.level))
        group_cuts = np.searchsorted(groups, cuts)
        for low, high, first, last in zip(cuts[:-1], cuts[1:], group_cuts[:-1], group_cuts[1:], strict=True):
            begins = groups[first:last] - low
            values = found[self.source[low:high]] + scores[self.piece[low:high]]
            highest = np.maximum.reduceat(values, begins)
            if not best:
                shifted = np.exp(values - np.repeat(highest, sizes[first:last]))
                highest = highest + np.log(np.add.reduceat(shifted, begins))
            found[self.target[groups[first:last]]] = highest
        return found
