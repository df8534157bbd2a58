"""How often each piece is in a data directory's text, as tools/prepare_data.py has counted it."""

from pathlib import Path

import numpy as np

from megamini.errors import UserError


def read_unigram_counts(directory: str | Path) -> np.ndarray:
    """Counts of the pieces [V]. Raises `UserError` for a file that is missing, torn or no single array."""
    path = Path(directory) / "unigram_counts.npy"
    try:
        with path.open("rb") as file:  # np.load would also take an empty file, a zip or a pickle for something
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; prepare the data again") from None
