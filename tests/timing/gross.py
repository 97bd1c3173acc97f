"""What a short run can say on a busy machine: whether hiding is broken, not how good it is.

Bytes, frames, headers and answers are compared exactly: no load of a machine changes them. Time is compared by ranks, so that a slow moment counts once, and
within bounds that no equal paths pass by chance: with 200 replies of each kind an AUC strays by 0.03.
"""

import numpy as np
from chance import auc

# A replay that is not held comes in some 0.2 ms instead of 7: AUC 0.00.
AUC_OF_EQUAL = 0.30, 0.70
MEDIANS_OF_EQUAL = 0.75, 1.33


def faults(run, looks):
    """Everything by which replies of a run are told at once, as sentences."""
    found, replayed = [], run["replayed"]
    sides = {kind: {looks[int(look)] for look in run["look"][replayed == kind]} for kind in (False, True)}
    if sides[False] != sides[True]:
        found.append(f"looks of one kind only: {sides[False] ^ sides[True]}")
    if (run["truth"] != 1).any():
        found.append(f"{(run['truth'] < 0).sum()} answers were the other kind's, {(run['truth'] == 0).sum()} were none")
    by_time = auc(run["latency"], replayed)
    if not AUC_OF_EQUAL[0] < by_time < AUC_OF_EQUAL[1]:
        found.append(f"told by latency alone: AUC {by_time:.3f}")
    ratio = np.median(run["latency"][replayed]) / np.median(run["latency"][~replayed])
    if not MEDIANS_OF_EQUAL[0] < ratio < MEDIANS_OF_EQUAL[1]:
        found.append(f"the medians' ratio is {ratio:.2f}")
    return found
