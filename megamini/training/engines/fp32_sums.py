"""ZeRO stage 1 with bf16 weights that sums micro-batches in fp32, and leaves out an update that is not finite."""

from deepspeed.runtime.constants import BFLOAT16
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION

from megamini.library_internals import check_internals

check_internals(__name__)

_own_choice = DeepSpeedEngine._do_optimizer_sanity_check


def take_sums_of_zero() -> None:
    """From now on, DeepSpeed engines of this process take the optimizer of stages 1 and 2 for that combination too.

    DeepSpeed 0.19.8 picks its `BF16_Optimizer` there, which moves weights whatever the gradients are. The one of stages
    1 and 2 sums in fp32 as well (`param.grad_accum`), and looks for gradients that are not finite first.
    """
    DeepSpeedEngine._do_optimizer_sanity_check = _chosen


def _chosen(engine: DeepSpeedEngine, optimizer: object) -> str | None:
    wrapper = _own_choice(engine, optimizer)
    return ZERO_OPTIMIZATION if wrapper == BFLOAT16 else wrapper
