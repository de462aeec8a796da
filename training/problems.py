"""What is wrong with single pictures of a data set: told with the file's name, counted, summed up at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

from tqdm import tqdm

Report = Callable[[str, str], None]
"""Called with a file's name and what is wrong with it. May raise, to stop."""

SHOWN = 20  # of one kind; a data set of a million pictures may have a hundred thousand broken ones


class Problems:
    """A `Report` that writes each problem to the standard error output and remembers it.

    kinds: how often each kind was told; a kind is what is said before the first colon or bracket.
    """

    def __init__(self, shown: int = SHOWN) -> None:
        self.shown = shown
        self.kinds: Counter[str] = Counter()
        self.told: list[tuple[str, str]] = []

    def __call__(self, name: str, what: str) -> None:
        kind = kind_of(what)
        self.kinds[kind] += 1
        self.told.append((name, what))
        if self.kinds[kind] <= self.shown:
            tqdm.write(f"  {name}: {what}", file=sys.stderr)
        if self.kinds[kind] == self.shown:
            tqdm.write(f"  (further ones are only counted: {kind})", file=sys.stderr)

    def summary(self) -> str:
        """ "" without problems, else one line such as "3 left out: 2 cannot be read, 1 empty caption"."""
        return summary(self.kinds)


def kind_of(what: str) -> str:
    """What a problem is, without what is special about this file."""
    return what.split(":")[0].split(" (")[0]


def summary(kinds: Counter[str]) -> str:
    """As `Problems.summary`, of counts by kind."""
    if not kinds:
        return ""
    return f"{kinds.total()} left out: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
