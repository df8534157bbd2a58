"""How long the inputs of a task model are: kept with it, so that evaluation cuts texts as training did."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from megamini.errors import UserError
from megamini.models.families import family_of

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


def longest_input(config: PretrainedConfig) -> int:
    """Tokens for which a model has positions; RoBERTa's begin behind the pad token's id."""
    taken = config.pad_token_id + 1 if family_of(config).pads_shift_positions else 0
    return config.max_position_embeddings - taken


def fitting_length(asked: int | None, kind: str, config: PretrainedConfig) -> int:
    """`asked`, or the usual length of the kind as far as the model reaches. Raises UserError for more than that."""
    longest = longest_input(config)
    if asked is None:
        return min(_USUAL_LENGTH[kind], longest)
    if asked > longest:
        raise UserError(f"max_length: {asked} tokens, but the model has positions for {longest}; give at most that")
    return asked
