"""The starts that `initialise: auto` chooses from, and how long each may be tried."""

from dataclasses import dataclass

from megamini.adaptation.recipe import AdaptationSection
from megamini.errors import UserError

UPDATES = 50  # of a probe
LEAST_UPDATES = 10  # with fewer, a probe says little
MOST_SHARE = 0.1  # of the run's updates, for the probes of a language together


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
    """What the recipe's resources allow."""
    word_list, parallel = section.lexicon is not None, section.parallel is not None
    found = [Candidate("subword"), Candidate("focus")]
    found += [Candidate("focus", word_list=True)] if word_list else []
    found += [Candidate("focus", parallel=True)] if parallel else []
    return found + ([Candidate("focus", True, True)] if word_list and parallel else [])


def probe_updates(updates: int, count: int) -> int:
    """How long each of `count` probes is in a run of so many updates. Raises `UserError` where that is too short."""
    each = min(UPDATES, int(MOST_SHARE * updates / count))
    if each < LEAST_UPDATES:
        least = int(LEAST_UPDATES * count / MOST_SHARE)
        raise UserError(
            f"adaptation.initialise: auto: {updates} updates are too few for {count} probes, which are to cost at most "
            f"{MOST_SHARE:.0%} of them; give schedule.duration of {least} updates or more, or name a start"
        )
    return each
