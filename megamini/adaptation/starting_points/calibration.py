"""Calibration of mixed rows: a mean of rows lies nearer to the middle than rows do.

The published form of the idea scales norms. Rows of a masked language model share a large common part, which mixtures
have in full, so that a longer norm makes too much of it; here only what tells a row from the others is scaled.
"""

import numpy as np

_NOTHING = 1e-6  # of a row's distance: below it, what tells a row from the others is rounding


def calibrated(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`rows` fp [n, d], each moved away from their mean until it lies as far from it as the reference rows fp [m, d] do
    from theirs, in the mean; fp64 [n, d]. Rows that lie on the mean come back as they are."""
    rows = rows.astype(np.float64)
    if not len(rows):
        return rows
    centre, reference = rows.mean(0), reference.astype(np.float64)
    distance = np.linalg.norm(rows - centre, axis=1, keepdims=True)
    wanted = np.linalg.norm(reference - reference.mean(0), axis=1).mean()
    told = distance > _NOTHING * wanted
    return centre + (rows - centre) * np.where(told, wanted / np.where(told, distance, 1), 1)
