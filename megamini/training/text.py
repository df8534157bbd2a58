"""One language's prepared text as a run needs it: tokenizer, blocks, masks, frequencies; all fit each other."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from megamini.data.batches import BatchPlan, Rule, TrainingMicroBatches
from megamini.data.blocks import Blocks
from megamini.data.manifest import check_whole
from megamini.data.masking import MaskingRule, MaskSchedule
from megamini.data.next_token import NextTokenRule, NextTokenSchedule
from megamini.data.order import RunOrder
from megamini.data.tokenizer import fingerprint, load_tokenizer, piece_bytes, special_ids, special_roles
from megamini.data.unigram_counts import read_unigram_counts
from megamini.errors import UserError
from megamini.recipes.objective import MaskingSection
from megamini.recipes.values import BlockOrder
from megamini.training.schedule import build_mask_schedule


@dataclass(frozen=True)
class Text:
    """A data directory, opened: nothing heavy."""

    path: str
    tokenizer: PreTrainedTokenizerBase
    train: Blocks
    validation: Blocks
    masking: Rule
    """What is predicted; with the mask share of the end of the run, by which validation goes all along."""
    mask_schedule: MaskSchedule | NextTokenSchedule
    unigram_counts: np.ndarray
    """How often the training blocks have each piece that is predicted, int64 [V]."""

    @property
    def language(self) -> str:
        return self.train.manifest["language"]

    @property
    def fingerprint(self) -> str:
        return self.train.manifest["fingerprint"]

    @property
    def block_length(self) -> int:
        return self.train.block_length

    def micro_batches(self, plan: BatchPlan, rank: int, order: BlockOrder) -> TrainingMicroBatches:
        """Those of a rank in training."""
        block_bytes = self.block_length * self.train.dtype.itemsize
        runs = RunOrder.of(plan.global_batch, block_bytes) if order == "runs" else None
        shares = self.mask_schedule if isinstance(self.mask_schedule, MaskSchedule) else None
        return TrainingMicroBatches(self.train, self.masking, plan, rank, shares, runs)

    @cached_property
    def piece_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each piece, int32 [V]."""
        return piece_bytes(self.tokenizer)

    @cached_property
    def unigram_nats(self) -> np.ndarray:
        """Negative log-probability [V] float32 of each piece by its frequency in the training blocks, add-one smoothed.

        What a head must beat to have learned anything from the context.
        """
        counts = self.unigram_counts + 1
        return -np.log(counts / counts.sum()).astype(np.float32)


def open_text(path: str, objective: MaskingSection, seed: int, global_batch: int, causal: bool = False) -> Text:
    """Open a data directory for global batches of so many blocks of it, for a decoder where `causal`; `UserError` where
    its parts do not fit each other or the masking."""
    train = Blocks(path, "train")
    check_whole(train.manifest, path)
    try:
        tokenizer = load_tokenizer(path)
    except UserError as error:
        raise UserError(f"data.path: {error}; prepare the data again: tools/prepare_data.py --overwrite") from None
    if fingerprint(tokenizer) != train.manifest["tokenizer_fingerprint"]:
        raise UserError(
            f"data.path: {path}: the tokenizer there is not the one the blocks were made with; prepare the data again"
        )
    counts = _unigram_counts(path, len(tokenizer))
    schedule = build_mask_schedule(objective, train.block_length, global_batch, causal)
    if causal:
        separator = special_roles(tokenizer)["eos"]
        rule = NextTokenRule(separator, objective.predict_separators, seed)
        # Counted as text is, which special pieces are not: there is one behind each document.
        counts[separator] = train.manifest["splits"]["train"]["documents"] * objective.predict_separators
    else:
        rule = _masking_rule(path, train, objective, tokenizer, schedule, seed)
    return Text(path, tokenizer, train, Blocks(path, "validation"), rule, schedule, counts)


def _masking_rule(
    path: str,
    train: Blocks,
    objective: MaskingSection,
    tokenizer: PreTrainedTokenizerBase,
    schedule: MaskSchedule,
    seed: int,
) -> MaskingRule:
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"data.path: {path}: its tokenizer has no mask token, so that the data is for decoders alone; prepare it "
            "with another tokenizer"
        )
    fewest = train.manifest["splits"]["train"].get("min_maskable", 0)
    if schedule.most_masked > fewest:
        raise UserError(
            f"objective.mask_share: {schedule.most_masked} positions of a block are to be masked, but one block of "
            f"{path} has only {fewest} that can be; lower the share"
        )
    return MaskingRule(
        share=schedule.last_share,
        replace_with_mask=objective.replace_with_mask,
        replace_with_random=objective.replace_with_random,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(special_ids(tokenizer).tolist()),
        vocab_size=len(tokenizer),
        seed=seed,
    )


def _unigram_counts(directory: str, pieces: int) -> np.ndarray:
    counts = read_unigram_counts(directory)
    if counts.shape != (pieces,):
        raise UserError(
            f"{directory}/unigram_counts.npy: holds {counts.size} counts for {pieces} pieces; prepare the data again"
        )
    return counts
