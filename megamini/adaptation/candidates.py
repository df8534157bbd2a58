"""The initialisations that `initialise: auto` chooses from, and for how many updates each may be tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megamini.adaptation.recipe import AdaptationSection
from megamini.errors import UserError

UPDATES = 50  # of a probe
LEAST_UPDATES = 10  # with fewer, a probe says little
MOST_SHARE = 0.1  # of the run's updates, for the trials of a language together
# Starts as close as this say nothing about which transfers better: with German, 0.01 nats of loss stood beside 8 points
# of accuracy, the wrong way round. There, the order of the candidates decides.
CLOSE_LOSS = 0.05  # nats
CLOSE_RETRIEVAL = 0.03  # share of lines; about the standard error of 300


@dataclass(frozen=True)
class Candidate:
    """A start by name: its kind, and which of the recipe's resources it takes."""

    kind: str
    word_list: bool = False
    parallel: bool = False

    @property
    def name(self) -> str:
        with_them = [name for name, taken in (("word list", self.word_list), ("parallel text", self.parallel)) if taken]
        return self.kind + (f" with {' and '.join(with_them)}" if with_them else "")


def candidates(section: AdaptationSection) -> list[Candidate]:
    """What the recipe's resources allow, from what transferred worst to what transferred best where it was measured."""
    word_list, parallel = section.lexicon is not None, section.parallel is not None
    found = [Candidate("subword"), Candidate("focus"), Candidate("combined")]
    found += [Candidate("combined", word_list=True)] if word_list else []
    found += [Candidate("combined", True, True)] if word_list and parallel else []
    found += [Candidate("combined", parallel=True)] if parallel else []
    # Without parallel text, distil has lost against combined: see docs/adding-a-language.md.
    return found + ([Candidate("distil", parallel=True)] if parallel else [])


def trial_updates(wanted: Sequence[Candidate], each: int) -> int:
    """What trials of all cost at most, in updates of the run: a probe each, and as much again to learn a `distil`."""
    return sum(2 * each if one.kind == "distil" else each for one in wanted)


def probe_updates(updates: int, wanted: Sequence[Candidate]) -> int:
    """How long each probe is in a run of so many updates. Raises `UserError` where that is too short."""
    count = trial_updates(wanted, 1)
    each = min(UPDATES, int(MOST_SHARE * updates / count))
    if each < LEAST_UPDATES:
        least = int(LEAST_UPDATES * count / MOST_SHARE)
        raise UserError(
            f"adaptation.initialise: auto: {updates} updates are too few to try {len(wanted)} starts, which is to cost "
            f"at most {MOST_SHARE:.0%} of them; give schedule.duration of {least} updates or more, or name a start"
        )
    return each


def choose(found: Mapping[Candidate, Mapping[str, float]]) -> tuple[Candidate, str]:
    """The best candidate by what its probe has found, and by what it was chosen: retrieval where it was measured, else
    loss. found: in the order of `candidates`; of several that are close to the best, the last one."""
    by = "retrieval" if all("retrieval" in values for values in found.values()) else "loss"
    if by == "retrieval":
        least = max(values[by] for values in found.values()) - CLOSE_RETRIEVAL
        close = [one for one, values in found.items() if values[by] >= least]
    else:
        most = min(values[by] for values in found.values()) + CLOSE_LOSS
        close = [one for one, values in found.items() if values[by] <= most]
    return close[-1], by
