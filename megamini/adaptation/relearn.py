"""Learn languages over a frozen body: recipe to language packs, on one device or several, without DeepSpeed."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearning.build import build_setup
from megamini.adaptation.relearning.model import RelearnModel
from megamini.adaptation.starting_points.kept import start_sha256
from megamini.adaptation.starts import in_words, starting_points
from megamini.machine import device_memory
from megamini.training.engines.precision import resolve_precision
from megamini.training.engines.process_group import (
    end_process_group,
    from_rank_0,
    gather_objects,
    join_ranks,
    on_rank_0,
)
from megamini.training.loop import is_over
from megamini.training.run import execute, locked_run_directory, plain_engine, within_memory
from megamini.training.safety.same_ranks import check_same_on_all_ranks
from megamini.training.setup import Sharding
from megamini.training.state.train_state import TrainState

# How long ranks wait for one that computes starting points, reads far files, or saves.
_PATIENCE = timedelta(hours=2)


def adapt(recipe: AdaptationRecipe) -> list[Path]:
    """Learn the recipe's languages and write a pack of each into the run directory; resumes where it was stopped.

    All ranks, where torchrun has started several: each learns from its share of every update's blocks. Returns the
    folders of the packs; none where the run was stopped before its end."""
    rank, world_size = join_ranks(_PATIENCE)
    recipe = from_rank_0(resolve_precision(recipe) if rank == 0 else None)  # a measurement on each could differ
    setup = build_setup(recipe, world_size)
    check_same_on_all_ranks(setup.identity(), gather_objects)
    with within_memory(setup, Sharding()), on_rank_0(locked_run_directory(setup)):
        # On rank 0 alone: FOCUS takes all cores, and its static vectors are not the same twice.
        starts = from_rank_0(starting_points(setup) if rank == 0 else None)
        setup = replace(
            setup,
            starting_facts={language: start.facts for language, start in starts.items()},
            starting_biases={language: start.bias.clone() for language, start in starts.items()},
            starting_sha256={language: start_sha256(start) for language, start in starts.items()},
        )
        own = [part.strip() for part in str(setup.source.provenance.get("language", "")).split(",")]
        for language, start in starts.items() if rank == 0 else ():
            if language in own:
                print(f"{language}: is the source's own language; launch/evaluate.py measures it without a pack")
            print(f"{language}: starts from {in_words(start)}", flush=True)
        model = RelearnModel(
            setup.source.body,
            {language: (start.matrix, start.bias) for language, start in starts.items()},
            setup.trains_bias,
            setup.source.primary,
            recipe.objective.loss_workspace_bytes(device_memory()),
            setup.unplaced,
            {language: start.output for language, start in starts.items() if start.output is not None},
            setup.own,
        )
        engine = plain_engine(model, setup)
        if recipe.adaptation.pack_every and rank == 0:
            setup.save_packs(engine, TrainState(), replace_existing=False)
        state = execute(setup, engine)
        over = is_over(setup, engine, state)
        directories = [setup.packs_directory / language for language in setup.texts] if over else []
        for language, directory in zip(setup.texts, directories, strict=False) if rank == 0 else ():
            setup.pack(language, engine, state).save(directory)
            print(f"language pack: {directory}")
        end_process_group()
        return directories
