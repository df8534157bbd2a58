"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for matrices, beside AdamW for everything else.

The mathematics is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025, arXiv 2502.16982,
section 2.2), whatever holds the matrices: a process whole ones, or a rank under ZeRO its part of flat tensors. Three
things PyTorch's cannot do: a matrix may lie in parts on several ranks (`matrix_exchange`), one weight may hold several
matrices, and the iteration may run in fp32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from megamini.recipes.optimizer import MuonSection, OptimizerSection

MOMENTUM = "momentum_buffer"
# Of the quintic iteration, and what keeps a norm of zero from dividing: Jordan et al. 2024, as in `torch.optim.Muon`.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPS = 1e-7
# Root mean square of an update of AdamW, measured by Liu et al. 2025 (section 2.2); Muon's are scaled to it.
_ADAMW_RMS = 0.2

InPlace = Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], None]


@dataclass(frozen=True)
class NewtonSchulz:
    """Orthogonalises a matrix: `steps` of the iteration, in `dtype`."""

    steps: int
    dtype: torch.dtype

    def __call__(self, matrix: torch.Tensor) -> torch.Tensor:
        """The update fp32 [m, n] in the direction of `matrix` fp32 [m, n]: near orthogonal, of AdamW's size.

        An m x n matrix with orthonormal rows or columns has a root mean square of 1 / sqrt(max(m, n)).
        """
        a, b, c = _COEFFICIENTS
        tall = matrix.size(0) > matrix.size(1)
        x = (matrix.T if tall else matrix).to(self.dtype)
        x = x / x.norm().clamp(min=_EPS)
        for _ in range(self.steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.T if tall else x).float() * (_ADAMW_RMS * math.sqrt(max(matrix.shape)))


class MuonWithAuxAdamW(torch.optim.Optimizer):
    """Groups with `matrices` get Muon, the others AdamW.

    `matrices` says for each parameter of a group how many matrices it holds one below the other, each of which is
    orthogonalised by itself: queries, keys and values are different maps, and a family that keeps them in one weight
    must train as one that does not. Engines that replace parameters by flat tensors say with `orthogonalise_by`
    where the matrices lie. DeepSpeed's own Muon, which parameters ask for by an attribute `use_muon`, has no part in
    this.
    """

    def __init__(
        self, groups: list[dict[str, Any]], section: OptimizerSection, orthogonalise: NewtonSchulz, **adamw: Any
    ) -> None:
        self._muon: MuonSection = section.muon_settings
        self._orthogonalise = orthogonalise
        self._exchanges: dict[torch.Tensor, InPlace] = {}
        self._adamw = torch.optim.AdamW([group for group in groups if "matrices" not in group], fused=True, **adamw)
        super().__init__(groups, {"lr": adamw["lr"]})

    def orthogonalise_by(self, flat: torch.Tensor, exchange: InPlace) -> None:
        """Say for a flat tensor what orthogonalises, in place, the matrices that lie in it, on this rank and others."""
        self._exchanges[flat] = exchange

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all that has a gradient, whose memory it uses. *All ranks* where matrices lie on several."""
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if "matrices" not in group]
        self._adamw.step()
        for group in self.param_groups:
            if "matrices" in group:
                self._step_of_matrices(group)

    def _step_of_matrices(self, group: dict[str, Any]) -> None:
        for number, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                continue
            update = self._momentum(parameter)
            if parameter in self._exchanges:
                self._exchanges[parameter](update, self._orthogonalise)
            else:
                for matrix in update.chunk(group["matrices"][number]):
                    matrix.copy_(self._orthogonalise(matrix))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"])

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        """Fold the gradient into the momentum, and put into its place what is to be orthogonalised."""
        state, update = self.state[parameter], parameter.grad
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(parameter)
        buffer = state[MOMENTUM].lerp_(update, 1 - self._muon.momentum)
        return update.lerp_(buffer, self._muon.momentum) if self._muon.nesterov else update.copy_(buffer)
