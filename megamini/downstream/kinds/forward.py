"""Running a task model over inputs of many lengths."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

Input = Mapping[str, list[int]]
IGNORED = -100  # a label that counts for nothing, in PyTorch's cross-entropy


@dataclass(frozen=True)
class Collator:
    """Pads inputs (and the labels of each token) to the longest of a batch."""

    pad_id: int

    def __call__(self, inputs: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        longest = max(len(one["input_ids"]) for one in inputs)
        batch = {}
        for key in inputs[0]:
            rows = [one[key] for one in inputs]
            if isinstance(rows[0], list):
                filler = {"input_ids": self.pad_id, "labels": IGNORED}.get(key, 0)
                rows = [[*row, *[filler] * (longest - len(row))] for row in rows]
            batch[key] = torch.tensor(rows)
        return batch


def outputs_of(
    model: PreTrainedModel, inputs: Sequence[Input], pad_id: int, batch_size: int, title: str
) -> list[tuple[np.ndarray, ...]]:
    """Per input the model's outputs (fp32, without the batch's axis), in the order of the inputs.

    Longest first, so that a batch is padded little, and memory runs out at once or never.
    """
    order = sorted(range(len(inputs)), key=lambda number: -len(inputs[number]["input_ids"]))
    collate = Collator(pad_id)
    outputs: list[tuple[np.ndarray, ...]] = [()] * len(inputs)
    was_training = model.training
    model.eval()
    with (
        torch.inference_mode(),
        tqdm(
            total=len(inputs),
            desc=title,
            unit="input",
            leave=False,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = {key: value.to(model.device) for key, value in collate([inputs[n] for n in numbers]).items()}
            arrays = [value.float().cpu().numpy() for value in model(**batch).to_tuple()]
            for row, number in enumerate(numbers):
                outputs[number] = tuple(array[row] for array in arrays)
            bar.update(len(numbers))
    model.train(was_training)
    return outputs
