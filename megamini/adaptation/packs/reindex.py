"""A foreign tokenizer takes the source's special ids: RoBERTa's position ids start behind the pad id, for one.

Pieces change places, nothing else: the token that has the pad role moves to the source's pad id, and the piece that was
there moves to where the pad token was.
"""

import copy
import json
from typing import Any

import numpy as np
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megamini.data.tokenizer import NEVER_MATCHED, special_roles
from megamini.data.vocabulary.unigram import rebuilt
from megamini.errors import UserError

# Which of several roles of one piece keeps it: those that the tokenizer's model and its texts write.
_PRECEDENCE = ("unk", "mask", "eos", "bos", "pad")
# The token whose id `special_roles` takes first.
_TOKEN_OF = {"bos": "cls_token", "eos": "sep_token", "pad": "pad_token", "unk": "unk_token", "mask": "mask_token"}


def reindexed(
    tokenizer: PreTrainedTokenizerBase, roles: dict[str, int | None]
) -> tuple[PreTrainedTokenizerBase, np.ndarray]:
    """A tokenizer that splits text alike, each special role at the id in `roles`; and the order of its pieces.

    order: int64 [V], the old id of each new one. A tokenizer that has its roles there already comes back itself. One
    whose pad is also what ends a text gets a piece for each where the roles are at two ids, so that V grows; and where
    two roles are at one id, the piece there has both. Raises `UserError` where the vocabulary is too small to have
    those ids.
    """
    tokenizer, order = _with_roles_apart(tokenizer, roles)
    own = special_roles(tokenizer)
    wanted: dict[int, int] = {}
    for role in _PRECEDENCE:
        old, new = own[role], roles.get(role)
        if old is not None and new is not None and old not in wanted and new not in wanted.values():
            wanted[old] = new
    if all(old == new for old, new in wanted.items()):
        return _with_roles_together(tokenizer, roles), order
    if max(wanted.values()) >= len(tokenizer):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} pieces, but the source has a special token at id "
            f"{max(wanted.values())}; prepare the data with a larger --vocab-size"
        )
    freed = sorted(wanted.keys() - set(wanted.values()))
    displaced = sorted(set(wanted.values()) - wanted.keys())
    new_of = np.arange(len(tokenizer))
    for old, new in [*wanted.items(), *zip(displaced, freed, strict=True)]:
        new_of[old] = new
    moved = np.empty_like(order)
    moved[new_of] = order
    return _with_roles_together(_rebuilt(tokenizer, new_of), roles), moved


def _with_roles_apart(
    tokenizer: PreTrainedTokenizerBase, roles: dict[str, int | None]
) -> tuple[PreTrainedTokenizerBase, np.ndarray]:
    """The tokenizer with a further piece for each role that shares one with another role whose id is to be another;
    and the id that each of its pieces has, or shared, before."""
    own = special_roles(tokenizer)
    holder: dict[int, int | None] = {}
    shared = {}
    for role in _PRECEDENCE:
        old, new = own[role], roles.get(role)
        if old is not None and new is not None and holder.setdefault(old, new) != new:
            shared[role] = old
    order = np.concatenate([np.arange(len(tokenizer)), np.array(list(shared.values()), np.int64)])
    if shared:
        tokenizer = copy.deepcopy(tokenizer)
        for role in shared:
            piece = f"<{role}>"
            while piece in tokenizer.get_vocab():
                piece = f"<{piece}>"
            tokenizer.add_special_tokens({_TOKEN_OF[role]: piece})
    return tokenizer, order


def _with_roles_together(tokenizer: PreTrainedTokenizerBase, roles: dict[str, int | None]) -> PreTrainedTokenizerBase:
    """The tokenizer with the piece that is at a role's id in that role, where another one still has it."""
    own = special_roles(tokenizer)
    elsewhere = [role for role in own if None not in (own[role], roles.get(role)) and own[role] != roles[role]]
    if elsewhere:
        tokenizer = copy.deepcopy(tokenizer)
        for role in elsewhere:
            setattr(tokenizer, _TOKEN_OF[role], tokenizer.convert_ids_to_tokens(roles[role]))
    return tokenizer


def with_layout_of(tokenizer: PreTrainedTokenizerBase, source: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with the special tokens and types that `source` puts around one text and between two, such as
    BERT's second segment: what a model was fine-tuned on. Both have their special tokens at the same ids.

    One that lays texts out alike comes back itself.
    """
    wanted = _layout(source)
    inputs = list(source.model_input_names)
    if _layout(tokenizer) == wanted and list(tokenizer.model_input_names) == inputs:
        return tokenizer
    single, pair = (
        [f"{'$A' if part == 0 else '$B' if part == 1 else tokenizer.convert_ids_to_tokens(own)}:{kind}"
         for part, own, kind in parts]
        for parts in wanted
    )  # fmt: skip
    named = {own for parts in wanted for part, own, _ in parts if part is None}
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=pair, special_tokens=[(tokenizer.convert_ids_to_tokens(one), one) for one in sorted(named)]
    )
    own.model_input_names = inputs
    return own


def _layout(tokenizer: PreTrainedTokenizerBase) -> list[list[tuple[int | None, int | None, int]]]:
    """For one text and for two: (text or None, id of a special token or None, token type) of each part in order."""
    layouts = []
    for texts in (("a",), ("a", "b")):
        encoded = tokenizer(*texts, return_token_type_ids=True)
        parts: list[tuple[int | None, int | None, int]] = []
        tokens = zip(encoded.sequence_ids(), encoded["input_ids"], encoded["token_type_ids"], strict=True)
        for part, own, kind in tokens:
            one = (part, own if part is None else None, kind)
            if part is None or one not in parts:
                parts.append(one)
        layouts.append(parts)
    return layouts


def _rebuilt(tokenizer: PreTrainedTokenizerBase, new_of: np.ndarray) -> PreTrainedTokenizerFast:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"] = _model(backend["model"], tokenizer.get_vocab(), new_of)
    for token in backend["added_tokens"]:
        token["id"] = int(new_of[token["id"]])
    backend["added_tokens"].sort(key=lambda token: token["id"])
    backend["post_processor"] = _post_processor(backend["post_processor"], new_of)
    return rebuilt(tokenizer, backend)


def _model(model: dict[str, Any], vocabulary: dict[str, int], new_of: np.ndarray) -> dict[str, Any]:
    """The model with its pieces at their new ids. Added tokens join its vocabulary: their ids may lie within it now."""
    if isinstance(model["vocab"], dict):
        return {**model, "vocab": {piece: int(new_of[old]) for piece, old in vocabulary.items()}}
    scores = dict(model["vocab"])
    pieces: list[Any] = [None] * len(new_of)
    for piece, old in vocabulary.items():
        pieces[new_of[old]] = [piece, scores.get(piece, NEVER_MATCHED)]
    unknown = model["unk_id"]
    return {**model, "vocab": pieces, "unk_id": None if unknown is None else int(new_of[unknown])}


def _post_processor(part: Any, new_of: np.ndarray) -> Any:
    """Every id that it names, in whichever of the library's shapes."""
    if isinstance(part, list):
        return [_post_processor(one, new_of) for one in part]
    if not isinstance(part, dict):
        return part
    part = {key: _post_processor(value, new_of) for key, value in part.items()}
    if isinstance(part.get("ids"), list):  # TemplateProcessing
        part["ids"] = [int(new_of[old]) for old in part["ids"]]
    for key in ("sep", "cls"):  # BertProcessing and RobertaProcessing: [token, id]
        if isinstance(part.get(key), list) and len(part[key]) == 2 and isinstance(part[key][1], int):
            part[key][1] = int(new_of[part[key][1]])
    return part
