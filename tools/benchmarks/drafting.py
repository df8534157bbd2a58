"""A mini-model as draft for its primary model in the library's assisted generation: acceptance and speed.

python tools/export.py runs/decoder-en runs/decoder-en/export/primary
python tools/export.py runs/decoder-en runs/decoder-en/export/mini --exit 4
python tools/benchmarks/drafting.py runs/decoder-en/export/primary runs/decoder-en/export/mini \\
    --text data/text/debian-handbook.en.jsonl                               # writes drafting.md beside this file

Greedily, so that the tokens are the primary's own either way, which is checked. Prompts are the beginnings of
documents. With and without the draft take turns, prompt by prompt, and the shortest time of each prompt counts: other
work on the machine only adds. What was proposed and taken is counted by passes: a pass of the primary gives one token
of its own and takes some of those proposed, each of which was a pass of the draft.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout, without installing

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, PreTrainedModel

from megamini.downstream.evaluation.rolling import documents_of
from megamini.errors import CommandParser, UserError, run_command, writing
from megamini.files import write_atomically
from tools.benchmarks.page import heading, table


class Passes:
    """Counts a model's forward passes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.count = 0
        self._handle = model.register_forward_pre_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1

    def end(self) -> None:
        self._handle.remove()


class Generated(NamedTuple):
    """tokens: the new ones. seconds: by the clock. processor: seconds of this process. primary, draft: passes."""

    tokens: list[int]
    seconds: float
    processor: float
    primary: int
    draft: int


class Total(NamedTuple):
    """Sums over prompts, of the shortest times."""

    tokens: int
    seconds: float
    processor: float
    primary: int
    draft: int

    @property
    def accepted(self) -> int:
        """Proposed tokens that the primary took."""
        return self.tokens - self.primary


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("primary", metavar="DIR", help="export of the primary model")
    parser.add_argument("mini", metavar="DIR", help="export of the mini-model (tools/export.py --exit N)")
    parser.add_argument("--text", required=True, metavar="FILE", help="whose documents begin the prompts")
    parser.add_argument("--prompts", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument("--prompt-words", type=int, default=12, metavar="N", help="(default: 12)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="to generate for each (default: 64)")
    parser.add_argument("--proposed", type=int, nargs="+", default=[2, 4, 8], metavar="N", help="at once (2 4 8)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), metavar="FILE.md")
    options = parser.parse_args()
    for name in ("prompts", "prompt_words", "tokens", "proposed", "rounds"):
        value = getattr(options, name)
        if min(value if isinstance(value, list) else [value]) < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    for folder in (options.primary, options.mini):
        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"{folder}: no exported model; make one with tools/export.py")
    page = _page(options)
    print(page)
    with writing(options.out):
        write_atomically(options.out, page)


def load(folder: str, device: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()


def compare(
    pair: tuple[PreTrainedModel, PreTrainedModel], prompts: list[BatchEncoding], tokens: int, at_once: int, rounds: int
) -> tuple[Total, Total]:
    """Of primary and mini-model, without and with the draft, which proposes `at_once` tokens at a time. Raises
    `UserError` where that changes what is generated."""
    primary, mini = pair
    # The library's default gives up early where the draft is not sure, by a threshold that it moves along.
    mini.generation_config.num_assistant_tokens = at_once
    mini.generation_config.num_assistant_tokens_schedule = "constant"
    mini.generation_config.assistant_confidence_threshold = 0.0
    counters, alone, drafted = [Passes(model) for model in pair], [], []
    for inputs in prompts:
        turns = [[_generate(primary, draft, inputs, tokens, counters) for draft in (None, mini)] for _ in range(rounds)]
        if any(one.tokens != other.tokens for one, other in turns):
            raise UserError("the draft changes what is generated: greedily it must not; is it another primary's?")
        for found, own in zip((alone, drafted), zip(*turns, strict=True), strict=True):
            fastest = min(own, key=lambda one: one.processor)
            found.append(fastest._replace(seconds=min(one.seconds for one in own)))
    for counter in counters:
        counter.end()
    return _sum(alone), _sum(drafted)


def prompts_of(text: str, count: int, words: int) -> list[str]:
    """The first words of the first documents that have twice as many. Raises `UserError` for too little text."""
    found = []
    for document in documents_of(text):
        if len(own := document.split()) >= 2 * words:
            found.append(" ".join(own[:words]))
        if len(found) == count:
            return found
    raise UserError(f"{text}: {len(found)} documents have {2 * words} words, of {count} that are wanted")


def _sum(every: list[Generated]) -> Total:
    tokens, *others = zip(*every, strict=True)
    return Total(sum(map(len, tokens)), *map(sum, others))


def _generate(
    primary: PreTrainedModel, mini: PreTrainedModel | None, inputs: BatchEncoding, tokens: int, counters: list[Passes]
) -> Generated:
    before, started, processor = [one.count for one in counters], time.perf_counter(), time.process_time()
    out = primary.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                           assistant_model=mini)  # fmt: skip
    new = out[0, inputs["input_ids"].shape[1] :].tolist()  # waits for the device
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    return Generated(new, seconds, processor, *(one.count - b for one, b in zip(counters, before, strict=True)))


def _page(options: argparse.Namespace) -> str:
    primary, mini = (load(folder, options.device) for folder in (options.primary, options.mini))
    tokenizer = AutoTokenizer.from_pretrained(options.primary)
    if AutoTokenizer.from_pretrained(options.mini).get_vocab() != tokenizer.get_vocab():
        raise UserError(f"{options.mini}: has other pieces than {options.primary}; plug the same pack into both")
    texts = prompts_of(options.text, options.prompts, options.prompt_words)
    prompts = [tokenizer(text, return_tensors="pt").to(options.device) for text in texts]
    rows = []
    for at_once in options.proposed:
        alone, drafted = compare((primary, mini), prompts, options.tokens, at_once, options.rounds)
        rows.append([
            at_once,
            f"{drafted.draft:,}",
            f"{drafted.accepted / drafted.draft:.1%}",
            f"{drafted.tokens / drafted.primary:.2f}",
            f"{alone.processor:.1f}",
            f"{drafted.processor:.1f}",
            f"{alone.processor / drafted.processor:.2f}",
            f"{alone.seconds / drafted.seconds:.2f}",
        ])  # fmt: skip
    columns = ["proposed at once", "proposed", "accepted", "tokens a pass of the primary", "processor s alone",
               "with draft", "times faster", "by the clock"]  # fmt: skip
    said = getattr(primary.config, "megamini", None) or {}
    return "\n".join(
        [
            heading("The mini-model as draft", ["torch", "transformers"]),
            f"{primary.config.num_hidden_layers} layers ({primary.num_parameters():,} parameters), drafted for by "
            f"{mini.config.num_hidden_layers} ({mini.num_parameters():,});",
            f"trained for {said.get('updates', 'an unknown number of')} updates. {options.prompts} prompts of "
            f"{options.prompt_words} words, {options.tokens} tokens each, greedy, fp32,",
            f"{options.device}, {torch.get_num_threads()} threads; shortest of {options.rounds} interleaved rounds. "
            "The tokens are the same with and without draft.",
            "",
            table(columns, rows),
        ]
    )


if __name__ == "__main__":
    run_command(main)
