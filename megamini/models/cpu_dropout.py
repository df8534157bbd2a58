"""Dropout on a CPU at a quarter of its time: PyTorch draws one random number an element there, one after the other.

Four elements share a draw here, 16 bits each, so that a share p is rounded to the next 65,536th; what is kept is scaled
by that share, so the expectation is exact. NumPy's fastest generator draws, from a seed that PyTorch's generator gives.
Attention with dropout is written out as well: on a CPU the library has no fused kernel for it.
"""

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from megamini.library_internals import check_internals

check_internals(__name__)

_LANES, _LEVELS = 4, 2**16  # 16-bit lanes of a 64-bit draw
ATTENTION = "sdpa_with_cpu_dropout"


def drop(states: torch.Tensor, share: float) -> torch.Tensor:
    """`states`, of any shape, with about `share` of its elements zeroed and the others scaled to keep the mean."""
    dropped = round(share * _LEVELS)
    if dropped == _LEVELS:
        return states * 0
    generator = np.random.SFC64(torch.randint(2**62, ()).item())
    draws = generator.random_raw(-(-states.numel() // _LANES)).view(np.int16)
    lanes = torch.from_numpy(draws)[: states.numel()].view(states.shape).to(states.device)
    kept = torch.empty(states.shape, device=states.device)  # fp32, since bf16 would round the scale
    torch.ge(lanes, dropped - _LEVELS // 2, out=kept).mul_(_LEVELS / (_LEVELS - dropped))
    return (states * kept).to(states.dtype)


def draw_dropout_fast(model: nn.Module) -> None:
    """Let a model that runs on the CPU draw its dropout this way from now on, in place.

    Not for one that is compiled: the draw would break its graph.
    """
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = _Dropout
        elif isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(ATTENTION)


class _Dropout(nn.Dropout):
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return drop(states, self.p) if self.training and self.p else states


def attention_with_dropout(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options,
) -> tuple[torch.Tensor, None]:
    """As the library's function for sdpa, which does all but training without a mask. query, key, value: [b, h, L, d];
    returns [b, L, h, d]. In fp32 within, as there: bf16 shares would be less precise, and slower on many a CPU."""
    if not dropout or attention_mask is not None or getattr(module, "is_causal", False):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    dtype, scaling = value.dtype, query.shape[-1] ** -0.5 if scaling is None else scaling
    if dtype in (torch.bfloat16, torch.float16):
        query, key, value = query.float(), key.float(), value.float()
    shares = torch.softmax((query * scaling) @ key.transpose(-1, -2), -1)
    return (drop(shares, dropout) @ value).transpose(1, 2).to(dtype).contiguous(), None


AttentionInterface.register(ATTENTION, attention_with_dropout)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
