"""`initialise: auto`: short trial runs from every initialisation that the data allow; the best one goes on.

Losses before any learning rank starts wrongly, and losses after some updates much better; over a mini-model that costs
little. What a loss does not see is transfer: where there is parallel text, lines that no start has seen decide, by how
often a line finds its translation (both through the body, mean of the hidden states). `choose` says how close is equal.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.candidates import Candidate, candidates, choose, probe_updates
from megamini.adaptation.hidden_states import hidden_states, means_over
from megamini.adaptation.relearning.model import RelearnModel
from megamini.adaptation.relearning.setup import RelearningSetup
from megamini.adaptation.starting_points.initialise import StartingPoint
from megamini.data.tokenizer import encode
from megamini.machine import device_memory
from megamini.training.run import plain_engine
from megamini.training.validation import measure

HELD_OUT = 300  # lines of parallel text, at most a tenth of it
LEAST_HELD_OUT = 50  # of fewer, one more or less found is chance
_VALIDATION_BLOCKS = 256

Pairs = Sequence[tuple[str, str]]


def best_start(
    setup: RelearningSetup,
    language: str,
    compute: Callable[..., StartingPoint],
    word_list: str | None,
    pairs: Pairs | None,
) -> StartingPoint:
    """The best candidate for a language, with what the probes have found and cost among its facts.

    compute: a start from its kind, the most FLOPs that learning it may take, and `lexicon` and `parallel`, as
    `initialise` takes them.
    """
    setup = setup.alone()  # the other ranks wait
    seen, held_out = _split(pairs)
    wanted = candidates(setup.recipe.adaptation)
    each = probe_updates(setup.schedule.updates, wanted)

    def start_of(candidate: Candidate, lines: Pairs | None, most_flops: int | None = None) -> StartingPoint:
        lexicon = word_list if candidate.word_list else None
        return compute(candidate.kind, most_flops, lexicon=lexicon, parallel=lines if candidate.parallel else None)

    started = time.perf_counter()
    body, found, distilled = copy.deepcopy(setup.source.body), {}, []
    for candidate in wanted:
        start = start_of(candidate, seen, setup.flops(language, each))
        distilled += [start.facts["distillation"]] if "distillation" in start.facts else []
        found[candidate] = _probe(setup, language, start, body, each, held_out)
        print(f"{language}: probe of {candidate.name}: {_in_words(found[candidate])}", flush=True)
    best, by = choose(found)
    seconds = round(time.perf_counter() - started, 3)  # a start that is learned tells its own
    start = start_of(best, pairs)
    probes = {
        "chosen": best.name,
        "by": by,
        "candidates": {one.name: values for one, values in found.items()},
        "updates_each": each,
        "tokens": len(wanted) * each * setup.tokens_per_update + sum(one["tokens"] for one in distilled),
        "flops": len(wanted) * setup.flops(language, each) + sum(one["flops"] for one in distilled),
        "seconds": seconds,
    }
    return replace(start, facts={**start.facts, "probes": probes})


def _probe(
    setup: RelearningSetup,
    language: str,
    start: StartingPoint,
    body: PreTrainedModel,
    updates: int,
    held_out: Pairs,
) -> dict[str, float]:
    """Learn from a start; validation loss in nats and, with lines held out, how many find their translation."""
    text, recipe = setup.texts[language], setup.recipe
    model = RelearnModel(
        body,
        {language: (start.matrix.clone(), start.bias.clone())},
        setup.trains_bias,
        None,
        recipe.objective.loss_workspace_bytes(device_memory()),
        {language: setup.unplaced[language]},
        None if start.output is None else {language: start.output.clone()},
        {language: setup.own[language]},
    )
    engine = plain_engine(model, setup, alone=True)
    batches, accumulation = (
        text.micro_batches(setup.batches, 0, setup.recipe.training.block_order),
        setup.batches.accumulation,
    )
    for update in range(updates):
        torch.manual_seed(recipe.training.seed + update)  # dropout, alike for all starts
        for step in range(accumulation):
            engine.forward_backward(batches[update * accumulation + step].to(engine.device))
        engine.step(recipe.optimizer.learning_rate * min((update + 1) / (updates / 5), (updates - update) / updates))
    model.eval()
    with torch.no_grad():
        losses = measure(
            engine,
            text,
            ["own"],
            lambda batch: model.losses_of(language, batch, model.body),
            min(_VALIDATION_BLOCKS, recipe.telemetry.validation_blocks),
            setup.batches.micro_batch,
        )
        values = {"loss": losses["loss_own"]}
        if held_out:
            theirs = setup.source.vocabulary.matrix.to(engine.device)
            states = [
                _states(model.body, matrix, tokenizer, lines, setup.block_length, setup.batches.micro_batch)
                for matrix, tokenizer, lines in (
                    (model.vocabulary(language)[0], text.tokenizer, [ours for ours, _ in held_out]),
                    (theirs, setup.source.tokenizer, [line for _, line in held_out]),
                )
            ]
            values["retrieval"] = _found(*states)
    return values


def _split(pairs: Pairs | None) -> tuple[Pairs | None, Pairs]:
    """Lines to learn from and, evenly spread, lines that are held out; none are where there are too few."""
    count = min(HELD_OUT, len(pairs or ()) // 10)
    if count < LEAST_HELD_OUT:
        return pairs, []
    held = {number * len(pairs) // count for number in range(count)}
    return [pair for n, pair in enumerate(pairs) if n not in held], [pairs[n] for n in sorted(held)]


def _states(
    body: PreTrainedModel,
    matrix: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    lines: list[str],
    length: int,
    batch: int,
) -> torch.Tensor:
    """Mean of each line's last hidden states, fp32 [lines, d]."""
    found = []
    for start in range(0, len(lines), batch):
        some = encode(tokenizer, lines[start : start + batch], truncation=True, max_length=length)["input_ids"]
        found.append(means_over(hidden_states(body, matrix, some), [[range(len(ids))] for ids in some]))
    return torch.cat(found)


def _found(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How often a line's nearest one on the other side, about the sides' means, is its own; mean of both directions."""
    ours, theirs = (functional.normalize(side - side.mean(0), dim=1) for side in (ours, theirs))
    similarity = ours @ theirs.T
    own = torch.arange(len(similarity), device=similarity.device)
    return float(sum((similarity.argmax(axis) == own).float().mean() for axis in (0, 1)) / 2)


def _in_words(values: dict[str, float]) -> str:
    found = f", {values['retrieval']:.0%} of held-out lines find their translation" if "retrieval" in values else ""
    return f"loss {values['loss']:.3f}{found}"
