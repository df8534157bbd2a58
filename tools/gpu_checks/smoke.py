"""Every method, precision, attention and body in one process: do 20 updates run, finite and falling?"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pydantic import ValidationError

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearn import adapt
from megamini.errors import UserError
from megamini.recipes.recipe import Recipe
from megamini.training.run import pretrain_plain
from tools.gpu_checks.context import Context, run_script

# What needs a package that may be missing, or a later version.
_OPTIONAL = ("minijoint-tf32", "modernbert-bf16-flash", "lora-bf16")
_SECONDS = 20.0  # that a check may take, with what it compiles


def run(context: Context) -> None:
    for name, recipe, start in _cases(context):
        if context.left < _SECONDS / (10 if context.shape == "tiny" else 1):
            context.tell(f"{name} and what follows", True, says="not reached: no time left", seconds="")
            return
        started = time.monotonic()
        try:
            start(recipe())
        except (ValidationError, UserError) as error:
            optional = name in _OPTIONAL
            says = f"{'refused, as may be' if optional else 'REFUSED'}: {' '.join(str(error).split())[:300]}"
            context.tell(name, optional, says=says, seconds="")
        except Exception as error:  # the next check is to run all the same
            context.tell(name, False, says=f"{type(error).__name__}: {error}", seconds="")
        else:
            # Fresh layers over a model of 20 updates, which has little to pass on.
            must_fall = not name.startswith("minipost")
            context.judge(name, context.losses(name), time.monotonic() - started, must_fall)


def _cases(context: Context) -> Iterator[tuple[str, Callable[[], dict[str, Any]], Callable[[dict], None]]]:
    def case(name: str, **changes: Any):
        return name, lambda: context.recipe(name, **changes), _pretrain

    yield case("mlm-fp32", objective__method="mlm", model__exits=[])
    yield case("minijoint-fp32")
    yield case("minijoint-tf32", training__precision="tf32")
    yield case("minijoint-bf16", training__precision="bf16")
    yield case("minijoint-bf16-checkpointing", training__precision="bf16", training__activation_checkpointing=True)
    yield case("minijoint-bf16-muon", training__precision="bf16", optimizer__name="muon")
    on_gpu = torch.cuda.is_available()
    if on_gpu:  # on a CPU it wants a compiler of C++, and minutes
        yield case("minijoint-bf16-compile", training__precision="bf16", training__compile=True)
    body = {**context.recipe("modernbert")["model"]["config"], "local_attention": 16}
    modern = {"model__family": "modernbert", "model__config": body, "training__precision": "bf16"}
    yield case("modernbert-bf16-sdpa", **modern)
    yield case("modernbert-bf16-flash", **modern, model__attention="flash_attention_2")

    def over(name: str, run: str, objective: dict[str, Any], model: dict[str, Any], **changes: Any):
        start = {"objective": objective, "model": model}
        return name, lambda: context.recipe(name, **changes) | _from_export(context, run, start), _pretrain

    yield over("minipost-fp32", "minijoint-fp32", {"method": "minipost"}, {"exits": [1], "bridge_layers": 1})
    source = context.work / "runs/minijoint-fp32"

    def adaptation(name: str, method: str, **training: Any):
        return name, lambda: context.adaptation(name, source, method, **training), _adapt

    for precision in ("fp32", "bf16"):
        for method in ("mini", "standard"):
            yield adaptation(f"adapt-{method}-{precision}", method, precision=precision)
    if on_gpu:
        yield adaptation("adapt-mini-fp16", "mini", precision="fp16")
        yield adaptation("adapt-mini-bf16-compile", "mini", precision="bf16", compile=True)
        yield case("modernbert-bf16-compile", **modern, training__compile=True)
    decoder = {"model__family": "llama", "objective__method": "causal", "model__exits": []}
    yield case("llama-bf16", **decoder, training__precision="bf16")
    yield over("lora-bf16", "llama-bf16", {"method": "lora"}, {}, training__precision="bf16")


def _from_export(context: Context, run: str, start: dict[str, Any]) -> dict[str, Any]:
    """Sections of a recipe over the primary model of an earlier run."""
    exported = context.work / "runs" / run / "export/primary"
    if not exported.exists():
        run_script(context, "tools/export.py", str(context.work / "runs" / run), str(exported))
    return {**start, "model": {"from_checkpoint": str(exported), **start["model"]}}


def _pretrain(values: dict[str, Any]) -> None:
    pretrain_plain(Recipe.model_validate(values))


def _adapt(values: dict[str, Any]) -> None:
    adapt(AdaptationRecipe.model_validate(values))
