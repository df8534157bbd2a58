"""Turn a run into an ordinary checkpoint that plain `transformers` loads: primary model, or mini-model of an exit.

python tools/export.py runs/quickstart-en runs/quickstart-en/export/primary
python tools/export.py runs/quickstart-en runs/quickstart-en/export/mini --exit 2
python tools/export.py runs/quickstart-en/checkpoints/step-00001000 /tmp/earlier
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout, without installing

from megamini.errors import CommandParser, run_command


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run directory, or one checkpoint of it"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--exit", type=int, metavar="N", help="export the mini-model of the exit after layer N")
    arguments = parser.parse_args()

    from transformers.utils.logging import disable_progress_bar

    from megamini.models.export import export_checkpoint
    from megamini.models.mini_model import extract_mini_model
    from megamini.training.model_card import describe, model_card
    from megamini.training.weights import load_run

    disable_progress_bar()  # the library's bars for loading and writing say little and pass in a second
    run = load_run(arguments.source)
    model = run.model.model if arguments.exit is None else extract_mini_model(run.model, arguments.exit)
    description = describe(run, arguments.exit)
    export_checkpoint(model, run.tokenizer, arguments.out, description, model_card(run, description))
    layers = model.config.num_hidden_layers
    print(f"{arguments.out}: {layers} layers from {run.checkpoint.name}, verified with plain transformers")


if __name__ == "__main__":
    run_command(main)
