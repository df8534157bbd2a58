"""Which parameters Muon moves and which AdamW, by name and number, and what Muon costs: for the plan before a run."""

import re
from collections import Counter

from torch import nn

from megamini.models.trained_model import TrainedModel
from megamini.recipes.optimizer import PretrainingOptimizerSection
from megamini.training.optimizers.optimizer import parameter_groups

# Above this share of an update's FLOPs, a plan says what to do about Muon's.
_HIGH_OVERHEAD = 0.1


def optimizer_rows(model: TrainedModel, section: PretrainingOptimizerSection, overhead: float) -> dict[str, str]:
    """Rows of a plan of a run with Muon. model: an outline will do. overhead: as `overhead_in_words` takes it."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, section)
    muon, adamw = ([p for g in groups if ("matrices" in g) == own for p in g["params"]] for own in (True, False))
    return {
        "muon": f"{_listed(muon, name_of)}; {overhead_in_words(overhead)}",
        "adamw": _listed(adamw, name_of),
    }


def overhead_in_words(overhead: float) -> str:
    """overhead: Muon's FLOPs of an update over the model's, on the rank that has the most to do."""
    advice = "; a larger training.global_batch makes that less" if overhead > _HIGH_OVERHEAD else ""
    return f"adds {overhead:.1%} to the FLOPs of an update{advice}"


def _listed(parameters: list[nn.Parameter], name_of: dict[nn.Parameter, str]) -> str:
    kinds = Counter(
        _kind(name_of[parameter]) if parameter.dim() > 1 else "norms and biases" for parameter in parameters
    )
    names = ", ".join(f"{name} x {count}" if count > 1 else name for name, count in kinds.items())
    return f"{sum(p.numel() for p in parameters):,} parameters in {len(parameters)} tensors: {names}"


def _kind(name: str) -> str:
    """A weight's name without what differs from layer to layer."""
    return re.sub(r"\.\d+\.", ".*.", name).removeprefix("model.").removesuffix(".weight")
