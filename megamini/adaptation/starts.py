"""The initial embeddings of a run's languages: as kept with the run, as the recipe says, or as probes choose."""

from dataclasses import replace
from typing import Any

import torch

from megamini.adaptation.beside_source import output_beside_source, rows_beside_source
from megamini.adaptation.distillation import distilled
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.probes import best_start
from megamini.adaptation.relearning.setup import RelearningSetup
from megamini.adaptation.starting_points import kept as kept_starts
from megamini.adaptation.starting_points.initialise import MIXING, StartingPoint, initialise
from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.adaptation.starting_points.parallel_text import read_parallel
from megamini.adaptation.starting_points.vocabularies import Target
from megamini.data.tokenizer import fingerprint
from megamini.errors import UserError
from megamini.files import fingerprint_of, sha256_of
from megamini.models.lineage import same_lineage
from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.text import Text

# Of the text: FreeDict's lists of the right language know 12% (2,000 lines) to 57%, most of another language's less.
_FEW_WORDS = 0.1


def starting_points(setup: RelearningSetup) -> dict[str, StartingPoint]:
    """Where each language starts from: as kept with the run, else computed, and kept where the run is a new one."""
    directory = setup.recipe.run_directory
    begun = bool(newest_first(directory / "checkpoints"))
    made_from, starts = fingerprint_of(setup.identity()), {}
    for language, text in setup.texts.items():
        folder = directory / kept_starts.FOLDER / language
        start = kept_starts.kept(folder, made_from)
        if start is None:
            # A run that has been begun without keeping its start is of a version that calibrated nothing.
            start = starting_point(setup, language, calibrate=not begun)
            if not begun:
                kept_starts.keep(folder, start, language, text.tokenizer, setup.source.lineage, made_from)
        starts[language] = start
    return starts


def starting_point(setup: RelearningSetup, language: str, calibrate: bool = True) -> StartingPoint:
    """Where a language starts from; the same each time. calibrate: where the recipe leaves it open."""
    section, text = setup.recipe.adaptation, setup.texts[language]
    if section.initialise == "pack":
        return _from_pack(setup, text)
    pairs = None if section.parallel is None else read_parallel(section.parallel)
    target = Target.of(text.path)

    def computed(kind: str, most_flops: int | None = None, **resources: Any) -> StartingPoint:
        if kind == "distil":
            words = resources.get("lexicon")
            lexicon = None if words is None else read_lexicon(words, say=lambda line: None)  # build_setup has said it
            start = computed("combined", **resources)
            start = distilled(setup.alone(), language, start, lexicon, resources.get("parallel"), most_flops)
            if (ids := setup.own[language]) is None:
                return start
            rows = rows_beside_source(setup.source.vocabulary, ids, start.matrix[ids], start.bias[ids], centred=False)
            return StartingPoint(*rows, start.facts, start.output)
        start = initialise(
            kind,
            setup.source.vocabulary,
            target,
            setup.recipe.training.seed,
            bias=section.bias,
            focus_through=section.focus_through if kind in MIXING else None,
            calibrate=calibrate if section.calibrate is None else section.calibrate,
            **resources,
        )
        facts = dict(start.facts)
        if resources.get("parallel") is not None:
            facts["parallel_sha256"] = [sha256_of(path) for path in section.parallel]
        if (ids := setup.own[language]) is not None:
            level = start.bias[ids] - start.bias[ids].mean()
            source, output = setup.source.vocabulary, None if start.output is None else start.output[ids]
            rows = rows_beside_source(source, ids, start.matrix[ids], level)
            return StartingPoint(*rows, facts, output_beside_source(source, ids, output))
        no_bias = setup.source.vocabulary.output_bias is None
        return replace(start, bias=torch.zeros_like(start.bias) if no_bias else start.bias, facts=facts)

    if section.initialise == "auto":
        return best_start(setup, language, computed, section.lexicon, pairs)
    return computed(section.initialise, lexicon=section.lexicon, parallel=pairs)


def _from_pack(setup: RelearningSetup, text: Text) -> StartingPoint:
    path = setup.recipe.adaptation.pack
    pack = LanguagePack.load(path)
    if not same_lineage(pack.lineage, setup.source.lineage):
        raise UserError(f"adaptation.pack: {path}: learned beside other token embeddings than the source's")
    if fingerprint(pack.tokenizer) != fingerprint(text.tokenizer):
        raise UserError(f"adaptation.pack: {path}: has another tokenizer than {text.path}")
    matrix, bias, output, source = pack.token_embeddings, pack.output_bias, pack.output_embeddings, setup.source
    if (output is None) != (source.vocabulary.output_matrix is None):
        raise UserError(f"adaptation.pack: {path}: only one of it and the source has an output matrix of its own")
    if (ids := setup.own[text.language]) is not None:
        matrix, bias = rows_beside_source(source.vocabulary, ids, matrix, bias, centred=False)
        output = output_beside_source(source.vocabulary, ids, output)
    facts = {"kind": "pack", "ledger": pack.details.get("ledger", {})}
    return StartingPoint(matrix, bias, facts, output)


def in_words(start: StartingPoint) -> str:
    """What is said of a start to people, on one line."""
    facts = start.facts
    words = f"'{facts['kind']}'"
    if probes := facts.get("probes"):
        words = f"'{probes['chosen']}', the best of {len(probes['candidates'])} probes by {probes['by']}"
    if (shared := facts.get("shared_token_share")) is not None:
        words += f", {shared:.0%} of the text in pieces that the source has too"
        words += " (all: the source's own language, or tokenizer?)" if shared == 1 else ""
    if listed := facts.get("lexicon_pieces"):
        share = facts["lexicon_token_share"]
        words += f"; {listed:,} pieces from the word list, {share:.0%} of the text as whole words"
        if share < _FEW_WORDS:
            words += " (few: is it a list of this language, with this language's words in front?)"
    if aligned := facts.get("aligned_pieces"):
        words += f"; {aligned:,} pieces aligned by parallel text, {facts['aligned_token_share']:.0%} of the text"
    if distilled_from := facts.get("distillation"):
        before, after = (distilled_from[f"unmatched_{when}"] for when in ("before", "after"))
        words += (
            f"; hidden states trained to match {' and '.join(distilled_from['texts'])}: unmatched share {before:.2f}"
        )
        words += f" before, {after:.2f} after"
    unspelled = {script: share for script, share in facts.get("spelled_by_bytes", {}).items() if share > 0.5}
    for script, share in unspelled.items():
        words += f"; the source can spell {share:.0%} of the new {script} pieces only by bytes: these are random"
    return words
