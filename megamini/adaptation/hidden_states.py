"""Hidden states of texts over a body, with the token matrix of one vocabulary or another."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from megamini.models.families import embed, run_body


def hidden_states(body: PreTrainedModel, matrix: torch.Tensor, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The last hidden states fp32 [n, longest, d] of texts, each as the ids of its tokens, special ones too, which
    matrix [V, d] has the rows of. Behind the end of a text they mean nothing."""
    longest = max(map(len, texts))
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts], device=matrix.device)
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in texts], device=matrix.device)
    inputs = {"inputs_embeds": embed(body, ids, matrix).to(body.dtype), "attention_mask": mask}
    return run_body(body, **inputs).last_hidden_state.float()


def means_over(states: torch.Tensor, places: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
    """Means [S, d] of states [n, L, d]: one for each of the lists of places that each text has, in order."""
    width = states.shape[1]
    rows = [row * width + place for row, lists in enumerate(places) for some in lists for place in some]
    lengths = torch.tensor([len(some) for lists in places for some in lists], device=states.device)
    of_list = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    chosen = states.flatten(0, 1).index_select(0, torch.tensor(rows, device=states.device))
    return chosen.new_zeros(len(lengths), states.shape[2]).index_add(0, of_list, chosen) / lengths[:, None]
