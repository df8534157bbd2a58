"""Learn languages over a frozen body: recipe to language packs, in one process, without DeepSpeed."""

from dataclasses import replace
from pathlib import Path

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearn_model import RelearnModel
from megamini.adaptation.relearn_setup import build_setup
from megamini.adaptation.starting_points.kept import start_sha256
from megamini.adaptation.starts import in_words, starting_points
from megamini.machine import device_memory
from megamini.training.engines.precision import resolve_precision
from megamini.training.loop import is_over
from megamini.training.run import execute, locked_run_directory, plain_engine
from megamini.training.state.train_state import TrainState


def adapt(recipe: AdaptationRecipe) -> list[Path]:
    """Learn the recipe's languages and write a pack of each into the run directory; resumes where it was stopped.

    Returns the folders of the packs; none where the run was stopped before its end."""
    recipe = resolve_precision(recipe)
    setup = build_setup(recipe)
    with locked_run_directory(setup):
        starts = starting_points(setup)
        setup = replace(
            setup,
            starting_facts={language: start.facts for language, start in starts.items()},
            starting_biases={language: start.bias.clone() for language, start in starts.items()},
            starting_sha256={language: start_sha256(start) for language, start in starts.items()},
        )
        own = [part.strip() for part in str(setup.source.provenance.get("language", "")).split(",")]
        for language, start in starts.items():
            if language in own:
                print(f"{language}: is the source's own language; launch/evaluate.py measures that without a pack")
            print(f"{language}: starts from {in_words(start)}", flush=True)
        model = RelearnModel(
            setup.source.body,
            {language: (start.matrix, start.bias) for language, start in starts.items()},
            setup.trains_bias,
            setup.source.primary,
            recipe.objective.loss_workspace_bytes(device_memory()),
            setup.unplaced,
        )
        engine = plain_engine(model, setup)
        if recipe.adaptation.pack_every:
            setup.save_packs(engine, TrainState(), replace_existing=False)
        state = execute(setup, engine)
        if not is_over(setup, engine, state):
            return []
        directories = [setup.packs_directory / language for language in setup.texts]
        for language, directory in zip(setup.texts, directories, strict=True):
            setup.pack(language, engine, state).save(directory)
            print(f"language pack: {directory}")
        return directories
