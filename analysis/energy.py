"""Energy of a trial from ``energy.csv``: the processor's own counters (RAPL), where the machine offers them.

The file has ``time`` (epoch seconds), ``zone`` and ``joules`` since the first row, about a row a second and
zone. Zones are whole packages, which the server shares with everything else that runs on the machine.
"""

from __future__ import annotations

import numpy as np

from analysis.runfolder import Trial
from analysis.usage import last_answer_s, start_epoch_s


def joules(trial: Trial) -> float | None:
    """Energy of all zones from plan time 0 to the last answer; None where it was not measured throughout."""
    start, table = start_epoch_s(trial), trial.energy
    if table is None or start is None or trial.summary is None:
        return None
    end = start + max(trial.summary.duration_s, last_answer_s(trial))
    total = 0.0
    for zone in np.unique(table.texts["zone"]):
        mine = table.texts["zone"] == zone
        at, counted = table["time"][mine], table["joules"][mine]
        if at[0] > start + 1.5 or at[-1] < end - 1.5 or np.any(np.diff(counted) < 0):
            return None
        first, last = np.interp([start, end], at, counted)
        total += float(last - first)
    return total
