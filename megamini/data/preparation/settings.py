"""What decides the content of a data directory, given the text."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from megamini.data.corpus.documents import Layout
from megamini.data.corpus.hub import stream_records
from megamini.data.tokenizer import LEAST_VOCABULARY
from megamini.errors import UserError
from megamini.languages.codes import check_code

_OF_SOME = ("decoder", "extend_tokenizer", "add", "replace_least_used", "old_text")


@dataclass(frozen=True)
class Settings:
    """Kept in the manifest. Sizes: `block_length` in tokens, special ones included; `tokenizer_sample` in characters of
    text. extend_tokenizer, add: a tokenizer, and how many pieces it gets. replace_least_used: how many pieces of
    `tokenizer` give their ids to new ones. old_text: files (names or globs) of text in the tokenizer's languages."""

    language: str
    vocab_size: int = 50_000
    tokenizer: str | None = None
    block_length: int = 512
    documents: str = "blank-line"
    text_column: str = "text"
    dataset: str | None = None
    dataset_config: str | None = None
    split: str = "train"
    validation_share: float = 0.01
    seed: int = 0
    character_coverage: float = 0.9998
    tokenizer_sample: int = 100_000_000
    decoder: bool = False
    extend_tokenizer: str | None = None
    add: int | None = None
    replace_least_used: int | None = None
    old_text: list[str] | None = None

    def __post_init__(self) -> None:
        check_code(self.language, "--language")
        for name, least in {"vocab_size": LEAST_VOCABULARY, "block_length": 8, "tokenizer_sample": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        for name in ("validation_share", "character_coverage"):
            if not 0 < getattr(self, name) <= (0.5 if name == "validation_share" else 1):
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0 and at most "
                    f"{0.5 if name == 'validation_share' else 1}"
                )
        if self.decoder and not self.tokenizer:
            raise UserError("--decoder goes with --tokenizer; a tokenizer trained here has all that a decoder needs")
        if self.documents not in ("blank-line", "line"):
            raise UserError(f"--documents {self.documents}: must be blank-line or line")
        self._check_new_pieces()

    def _check_new_pieces(self) -> None:
        if (self.extend_tokenizer is None) != (self.add is None):
            raise UserError("--extend-tokenizer goes with --add, the number of new pieces; give both or none")
        for name in ("add", "replace_least_used"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.tokenizer is not None and self.extend_tokenizer is not None:
            raise UserError("--tokenizer and --extend-tokenizer: give one of the two")
        if self.replace_least_used is not None and (self.tokenizer is None or self.old_text is None):
            raise UserError(
                "--replace-least-used goes with --tokenizer, and with --old-text, which says what is used least"
            )
        if self.old_text is not None and self.extend_tokenizer is None and self.replace_least_used is None:
            raise UserError("--old-text goes with --extend-tokenizer, or with --replace-least-used")

    @property
    def layout(self) -> Layout:
        return Layout(self.documents, self.text_column)

    def told(self) -> dict[str, Any]:
        """For the manifest: without what only some data directories have and this one lacks."""
        return {key: value for key, value in asdict(self).items() if value or key not in _OF_SOME}

    def records(self) -> Iterator[dict[str, Any]]:
        """Those of the data set, streamed."""
        return stream_records(self.dataset, self.dataset_config, self.split, self.text_column)
