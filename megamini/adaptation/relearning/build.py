"""A recipe of `launch/adapt.py` is checked against its data, its source and the number of ranks."""

from collections.abc import Callable

from megamini.adaptation.beside_source import kind_of, source_text
from megamini.adaptation.candidates import candidates, probe_updates
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearning.costs import flops_per_update
from megamini.adaptation.relearning.setup import RelearningSetup
from megamini.adaptation.source import SourceModel, is_causal, load_source
from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.adaptation.starting_points.parallel_text import read_parallel
from megamini.data.batches import BatchPlan, plan_batches
from megamini.errors import UserError
from megamini.training.checkpoints.begun_order import resolve_block_order
from megamini.training.engines.precision import use_kernels_of
from megamini.training.intervals import resolve_intervals
from megamini.training.safety.stopping import StopRules
from megamini.training.schedule import build_schedule, check_mask_stages
from megamini.training.text import Text, open_text


def build_setup(recipe: AdaptationRecipe, world_size: int = 1) -> RelearningSetup:
    """Check a recipe against its data, its source and the number of ranks; `UserError` where they do not fit."""
    recipe = resolve_block_order(recipe)
    use_kernels_of(recipe.training)
    if recipe.adaptation.lexicon is not None:  # read again where it is used; what is wrong with it is said at once
        read_lexicon(recipe.adaptation.lexicon)
    if recipe.adaptation.parallel is not None:
        read_parallel(recipe.adaptation.parallel)
    training, causal = recipe.training, is_causal(recipe.adaptation)
    if problem := recipe.objective.problem_of(causal):
        raise UserError(problem)
    opened = [
        open_text(path, recipe.objective, training.seed, training.global_batch, causal) for path in recipe.data_paths
    ]
    texts = {text.language: text for text in opened}
    if len(texts) < len(opened):
        raise UserError(f"data.path: two of {', '.join(recipe.data_paths)} hold the same language")
    lengths = {text.path: text.block_length for text in opened}
    if len(set(lengths.values())) > 1:
        raise UserError(f"data.path: languages side by side need blocks of one length, these have {lengths}")
    block_length = opened[0].block_length
    batches = plan_batches(training.global_batch, training.micro_batch, world_size)
    tokens_per_update = batches.global_batch * block_length
    intervals = resolve_intervals(recipe, tokens_per_update, recipe.adaptation.pack_every)
    source = load_source(recipe.adaptation, block_length)
    if training.activation_checkpointing:
        source.body.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    mask_schedule = opened[0].mask_schedule
    affordable = _affordable(recipe.adaptation.stop.flops, batches, opened, source)
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, tokens_per_update, affordable)
    check_mask_stages(mask_schedule, schedule.updates)
    if recipe.adaptation.initialise == "auto":
        probe_updates(schedule.updates, candidates(recipe.adaptation))  # says so where the run is too short
    stop = recipe.adaptation.stop
    return RelearningSetup(
        recipe=recipe,
        batches=batches,
        block_length=block_length,
        schedule=schedule,
        mask_schedule=mask_schedule,
        intervals=intervals,
        stopping=StopRules(
            stop.seconds,
            stop.plateau.patience if stop.plateau else None,
            stop.plateau.least_gain if stop.plateau else 0.0,
        ),
        texts=texts,
        source_text=source_text(recipe, opened[0], source, causal),
        source=source,
        kinds={language: kind_of(text, source) for language, text in texts.items()},
        starting_facts={},
        starting_biases={},
        starting_sha256={},
    )


def _affordable(
    most: float | None, batches: BatchPlan, texts: list[Text], source: SourceModel
) -> Callable[[int], int] | None:
    """How many of the updates asked for `adaptation.stop.flops` pays for, in the language that costs most."""
    if most is None:
        return None
    dearest = max(texts, key=lambda text: len(text.tokenizer))

    def affordable(asked: int) -> int:
        paid, left = 0, int(most)
        for count, masked in dearest.mask_schedule.along(asked):
            each = flops_per_update(dearest, masked, source.body, batches)
            now = min(count, left // each)
            paid, left = paid + now, left - now * each
            if now < count:
                break
        if asked and not paid:
            raise UserError(f"adaptation.stop.flops: {most:.3g} FLOPs are too few for one update of {each:.3g}")
        return paid

    return affordable
