"""Turn a run into an ordinary checkpoint that plain `transformers` loads: primary model, mini-model, or with a pack.

python tools/export.py runs/quickstart-en runs/quickstart-en/export/primary
python tools/export.py runs/quickstart-en runs/quickstart-en/export/mini --exit 2
python tools/export.py runs/quickstart-en/checkpoints/step-00001000 /tmp/earlier
python tools/export.py runs/quickstart-en/export/primary /tmp/german --pack runs/quickstart-de-mini/packs/de

With --pack the source may also be any checkpoint folder of the pack's lineage, such as a fine-tuned task model.
"""

import argparse
from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run directory, or one checkpoint of it"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--exit", type=int, metavar="N", help="export the mini-model of the exit after layer N")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="plug this language pack in")
    arguments = parser.parse_args()

    from transformers.utils.logging import disable_progress_bar

    from megamini.training.finished.weights import is_run

    disable_progress_bar()  # the library's bars for loading and writing say little and pass in a second
    if is_run(arguments.source):
        _export_run(arguments)
    else:
        _export_folder(arguments)


def _export_run(arguments: argparse.Namespace) -> None:
    from megamini.models.mini_model import mini_outline
    from megamini.training.finished.model_card import describe, model_card
    from megamini.training.finished.weights import open_run

    run, exit_layer = open_run(arguments.source), arguments.exit
    model, sources = run.outline.model, {}
    if run.recipe.objective.method == "minipost":
        (only,) = run.recipe.model.exits
        if exit_layer not in (None, only):
            raise UserError(f"--exit {exit_layer}: the run is the mini-model of layer {only}")
        exit_layer = only
    elif exit_layer is not None:
        model, sources = mini_outline(run.outline, exit_layer)
    description = describe(run, exit_layer)
    card = model_card(run, description)

    def read(name: str):
        return run.read(sources.get(name, f"model.{name}"))

    _write(arguments, model, run.tokenizer, description, card, run.checkpoint.name, read)


def _export_folder(arguments: argparse.Namespace) -> None:
    from megamini.adaptation.packs.plugged_export import load_any_model

    if arguments.exit is not None:
        raise UserError(f"--exit: {arguments.source} is not a run directory; only a run has exits")
    model, tokenizer = load_any_model(arguments.source)
    if arguments.pack is None:
        raise UserError(f"{arguments.source} is an ordinary checkpoint already; give --pack, or a run directory")
    description = dict(getattr(model.config, "megamini", None) or {})
    _write(arguments, model, tokenizer, description, "", arguments.source.name)


def _write(arguments, model, tokenizer, description, card, origin, read=None) -> None:
    """`read`: as for `export_checkpoint`."""
    from megamini.models.export import export_checkpoint

    if arguments.pack is not None:
        from megamini.adaptation.packs.language_pack import LanguagePack, plug
        from megamini.adaptation.packs.plugged_export import plugged_card
        from megamini.models.mini_model import with_weights

        if read is not None:
            model, read = with_weights(model, read), None
        pack = LanguagePack.load(arguments.pack)
        tokenizer = plug(model, tokenizer, pack)
        told = ("plugged", "pack_kind", "own_pieces")
        description = {**description, **{key: value for key, value in model.config.megamini.items() if key in told}}
        card = plugged_card(description, pack)
    export_checkpoint(model, tokenizer, arguments.out, description, card, read)
    language = f", {description['plugged']} plugged in" if arguments.pack else ""
    layers = model.config.num_hidden_layers
    print(f"{arguments.out}: {layers} layers from {origin}{language}, verified with plain transformers")


if __name__ == "__main__":
    run_command(main)
