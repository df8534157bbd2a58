"""The command `megamini`: one subcommand for each script of launch/ and tools/, with the same arguments.

megamini pretrain my.yaml            # as python launch/pretrain.py my.yaml
megamini adapt my_language data.path=data/xx adaptation.source=models/mine
deepspeed --num_gpus 8 --module megamini.commands.pretrain my.yaml
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from megamini.errors import UserError, did_you_mean, run_command

COMMANDS = {
    "fetch": "fetch real text and word lists from Debian's packages",
    "parallel": "two files whose lines say the same, out of fetched pages",
    "word-list": "a word list out of PanLex",
    "translate-words": "pseudo text in a language that has a word list, out of source text",
    "prepare": "make a data directory out of text: a tokenizer, and blocks",
    "plan": "what a recipe needs on a cluster: memory, days, communication",
    "doctor": "check this environment",
    "pretrain": "pretrain a masked language model, with a mini-model inside it",
    "stop": "ask one run to save and end",
    "export": "a run, or a model with a language pack, as an ordinary checkpoint",
    "adapt": "teach a pretrained model a new language",
    "finetune": "fine-tune on tasks",
    "evaluate": "evaluate in every language that there is a pack of",
    "likelihood-tasks": "tasks for lm-eval, out of task files or plain text",
    "report": "what runs have cost and reached",
}
# Package -> the extra that brings it.
_EXTRAS = {"deepspeed": "pretrain", "accelerate": "tasks", "datasets": "tasks", "seqeval": "tasks"}


def main() -> None:
    """Entry point of the console script."""
    run_command(_dispatch)


def _dispatch() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return
    if name == "--version":
        print(_version())
        return
    if name not in COMMANDS:
        raise UserError(f"megamini {name}: no such command{did_you_mean(name, COMMANDS) or '; --help lists them'}")
    sys.argv = [f"megamini {name}", *rest]
    try:
        import_module(f"megamini.commands.{name.replace('-', '_')}").main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = _EXTRAS[package]
        raise UserError(
            f"megamini {name}: needs the package {package}; install megamini with its extra: [{extra}]"
        ) from None


def _version() -> str:
    try:
        return version("megamini")
    except PackageNotFoundError:
        return "a checkout, not installed"


def overview() -> str:
    """What `megamini --help` prints."""
    lines = (f"  {name:18}{meaning}" for name, meaning in COMMANDS.items())
    last = "megamini COMMAND --help says more; megamini --version says which version this is"
    return "\n".join(["usage: megamini COMMAND ...", "", *lines, "", last])


if __name__ == "__main__":
    main()
