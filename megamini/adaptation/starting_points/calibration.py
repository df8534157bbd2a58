"""Calibration of mixed rows: a mean of rows lies nearer to the middle than rows do.

The published form of the idea scales norms. Rows of a masked language model share a large common part, which mixtures
have in full, so that a longer norm makes too much of it; here only what tells a row from the others is scaled.
"""

import numpy as np


def calibrated(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`rows` fp [n, d], spread about their mean until they lie as far from it as the reference rows fp [m, d] do from
    theirs, in the mean; fp64 [n, d]. Fewer than two rows, and rows that are all equal, come back as they are."""
    rows = rows.astype(np.float64)
    if not len(rows):
        return rows
    distance = _mean_distance(rows)
    factor = _mean_distance(reference.astype(np.float64)) / distance if distance > 0 else 1.0
    centre = rows.mean(0)
    return centre + factor * (rows - centre)


def _mean_distance(rows: np.ndarray) -> float:
    """Of the rows from their mean."""
    return float(np.linalg.norm(rows - rows.mean(0), axis=1).mean())
