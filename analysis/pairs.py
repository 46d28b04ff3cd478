"""A cell of two runs side by side: whether it can be compared, and whether its server still keeps up.

One trial of several may fall behind by chance. That a server no longer keeps up with a load is shown where
all trials of the new side were saturated and none of the base's, or by Barnard's exact test of saturated
trials [1]_, at 5 % shared by the cells. A server just at its limit, of which half of the trials are
saturated, is called by the first rule with a probability of 4**-n for n trials of each: 1.6 % of three. Of
one or two no test could tell, so they are taken as they are.

Looked at after every trial, the first rule needs three trials of each, and errs no more often for it: all
trials were saturated only where the first three were. The test has ``1 / n (n + 1)`` of its level at ``n``
trials of each, so no more than its level in sum over all looks (alpha spending by a union bound).

References
----------
.. [1] G. A. Barnard, "Significance tests for 2x2 tables", Biometrika 34 (1947). It does not take the number
   of saturated trials as given, as Fisher's does, which makes it the sharper of few trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from analysis.effects import ALPHA
from analysis.loads import unlike
from analysis.metrics import Cell
from analysis.words import listed

SIDES = ("base", "new")
FEWEST = 3
"""Trials of each side that may say by themselves, looked at after every one, that a server falls behind."""


@dataclass(frozen=True)
class CellPair:
    """A cell on both sides, one of so many ``pairs``; None where a side does not have it.

    ``sequential`` is whether it is looked at after every trial.
    """

    scenario: str
    backend: str
    before: Cell | None
    after: Cell | None
    pairs: int = 1
    sequential: bool = False

    @property
    def reason(self) -> str:
        """Why it is not compared; empty where it is."""
        if unlike_each_other := _not_comparable(self.before, self.after):
            return unlike_each_other
        assert self.before is not None
        if not self.before.row.saturated or self.falls_behind:
            return ""
        return f"saturated in the base run{self._counted}: its percentiles are lower bounds"

    @cached_property
    def falls_behind(self) -> bool:
        """Whether the new side is shown to keep up less often than the base."""
        if not (self.before and self.after):
            return False
        before, after = self._behind
        return falls_behind(before, after, ALPHA / self.pairs, self.sequential)

    @property
    def in_doubt(self) -> bool:
        """Whether the new side fell behind more often, but is not shown to."""
        if _not_comparable(self.before, self.after) or self.falls_behind:
            return False
        return _more_often(*self._behind)

    @property
    def saturation(self) -> str:
        """What is to be said of a new side of which trials were saturated."""
        if self.falls_behind:
            return (
                f"the server no longer keeps up with this load{self._counted}; the new value is a lower bound"
            )
        return f"not shown that the server no longer keeps up{self._counted}: the new value is a lower bound"

    @cached_property
    def _behind(self) -> list[tuple[int, int]]:
        """Of both sides, how many trials were saturated, of how many."""
        told = [
            [trial.summary.saturated for trial in cell.trials if trial.summary]
            for cell in (self.before, self.after)
            if cell
        ]
        return [(sum(side), len(side)) for side in told]

    @property
    def _counted(self) -> str:
        """How many trials of each side were saturated, where there are several."""
        behind = self._behind
        if max(trials for _, trials in behind) < 2:
            return ""
        sides = [
            f"{n or 'none'} of {trials} in the {side} run"
            for side, (n, trials) in zip(SIDES, behind, strict=True)
        ]
        return f" (trials saturated: {listed(sides)})"


def falls_behind(
    before: tuple[int, int], after: tuple[int, int], alpha: float, sequential: bool = False
) -> bool:
    """Whether the new side is shown to be saturated more often; each side is (saturated trials, trials)."""
    from scipy.stats import barnard_exact  # imported late: the command must start fast

    if not _more_often(before, after):
        return False
    fewest = min(before[1], after[1])
    if not before[0] and after[0] == after[1] and (not sequential or fewest >= FEWEST):
        return True
    table = [[after[0], before[0]], [after[1] - after[0], before[1] - before[0]]]
    level = alpha / fewest / (fewest + 1) if sequential else alpha
    return bool(barnard_exact(table, alternative="greater").pvalue <= level)


def _more_often(before: tuple[int, int], after: tuple[int, int]) -> bool:
    return after[0] * before[1] > before[0] * after[1]


def _not_comparable(before: Cell | None, after: Cell | None) -> str:
    """Why two cells cannot be compared at all; empty where they can."""
    for name, cell in zip(SIDES, (before, after), strict=True):
        if cell is None:
            return f"the {name} run does not have it"
        if cell.row.verdict == "invalid":
            return f"not valid in the {name} run: {'; '.join(cell.row.reasons) or 'nothing was measured'}"
    assert before is not None
    assert after is not None
    if before.row.stand_in != after.row.stand_in:
        return (
            f"the {'base' if before.row.stand_in else 'new'} side is a stand-in, the other the server itself"
        )
    apart = unlike([*before.trials, *after.trials])
    return f"the load was not the same ({apart})" if apart else ""
