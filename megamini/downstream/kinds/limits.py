"""How long the inputs of a task model are: kept with it, so that evaluation cuts texts as training did."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from megamini.errors import UserError
from megamini.models.families import longest_input

_USUAL_LENGTH = {"classification": 128, "tagging": 256, "question-answering": 384}


@dataclass(frozen=True)
class Limits:
    """max_length: tokens of an input, special ones included. Question answering only: doc_stride, tokens that two
    windows of a context share; max_answer_length, tokens of an answer; null_answers, whether a question may have none.
    """

    max_length: int
    doc_stride: int = 128
    max_answer_length: int = 30
    null_answers: bool = False


def fitting_length(asked: int | None, kind: str, config: PretrainedConfig) -> int:
    """`asked`, or the usual length of the kind as far as the model reaches. Raises UserError for more than that."""
    longest = longest_input(config)
    if asked is None:
        return min(_USUAL_LENGTH[kind], longest)
    if asked > longest:
        raise UserError(f"max_length: {asked} tokens, but the model has positions for {longest}; give at most that")
    return asked
