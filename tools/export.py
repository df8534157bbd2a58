"""Turn a run into an ordinary checkpoint that plain `transformers` loads: primary model, mini-model, or with a pack.

python tools/export.py runs/quickstart-en runs/quickstart-en/export/primary
python tools/export.py runs/quickstart-en runs/quickstart-en/export/mini --exit 2
python tools/export.py runs/quickstart-en/checkpoints/step-00001000 /tmp/earlier
python tools/export.py runs/quickstart-en/export/primary /tmp/german --pack runs/quickstart-de-mini/packs/de

With --pack the source may also be any checkpoint folder of the pack's lineage, such as a fine-tuned task model.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout, without installing

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

    from megamini.training.weights import is_run

    disable_progress_bar()  # the library's bars for loading and writing say little and pass in a second
    if is_run(arguments.source):
        _export_run(arguments)
    else:
        _export_folder(arguments)


def _export_run(arguments: argparse.Namespace) -> None:
    from megamini.models.mini_model import extract_mini_model
    from megamini.training.model_card import describe, model_card
    from megamini.training.weights import load_run

    run, exit_layer = load_run(arguments.source), arguments.exit
    if run.recipe.objective.method == "minipost":
        (only,) = run.recipe.model.exits
        if exit_layer not in (None, only):
            raise UserError(f"--exit {exit_layer}: the run is the mini-model of layer {only}")
        model, exit_layer = run.model.model, only
    else:
        model = run.model.model if exit_layer is None else extract_mini_model(run.model, exit_layer)
    description = describe(run, exit_layer)
    _write(arguments, model, run.tokenizer, description, model_card(run, description), run.checkpoint.name)


def _export_folder(arguments: argparse.Namespace) -> None:
    from megamini.adaptation.plugged_export import load_any_model

    if arguments.exit is not None:
        raise UserError(f"--exit: {arguments.source} is no run directory, which alone has exits")
    model, tokenizer = load_any_model(arguments.source)
    if arguments.pack is None:
        raise UserError(f"{arguments.source} is an ordinary checkpoint already; give --pack, or a run directory")
    description = dict(getattr(model.config, "megamini", None) or {})
    _write(arguments, model, tokenizer, description, "", arguments.source.name)


def _write(arguments, model, tokenizer, description, card, origin) -> None:
    from megamini.models.export import export_checkpoint

    if arguments.pack is not None:
        from megamini.adaptation.language_pack import LanguagePack, plug
        from megamini.adaptation.plugged_export import plugged_card

        pack = LanguagePack.load(arguments.pack)
        tokenizer = plug(model, tokenizer, pack)
        description = {**description, "plugged": pack.language}
        card = plugged_card(description, pack)
    export_checkpoint(model, tokenizer, arguments.out, description, card)
    language = f", {description['plugged']} plugged in" if arguments.pack else ""
    layers = model.config.num_hidden_layers
    print(f"{arguments.out}: {layers} layers from {origin}{language}, verified with plain transformers")


if __name__ == "__main__":
    run_command(main)
