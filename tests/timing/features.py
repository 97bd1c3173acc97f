"""What an attacker makes of the times that he sees: numbers, a row for each reply, from nothing that he does not know.

He knows of his own earlier calls which were new: he made them so. He does not know it of the call that he asks about.
"""

import numpy as np

OWN = 16  # forwarded calls of his own by which he knows the present load


def past(run):
    """For each reply of a run the median of the last 16 forwarded ones before it, and the last one, of the same stretch."""
    median, last = np.full(len(run["latency"]), np.nan), np.full(len(run["latency"]), np.nan)
    own, stretch = [], None
    for at, seconds in enumerate(run["latency"]):
        if run["stretch"][at] != stretch:
            own, stretch = [], run["stretch"][at]
        if len(own) >= OWN:
            median[at], last[at] = np.median(own[-OWN:]), own[-1]
        if not run["replayed"][at] and run["part"][at] in ("plain", "between"):
            own.append(seconds)
    return median, last


def before(values, stretch):
    """The value of the reply before, of the same stretch."""
    moved = np.append(np.nan, values[:-1].astype(float))
    moved[np.append(True, stretch[1:] != stretch[:-1])] = np.nan
    return moved


def rows(latency, first, pieces, median, last):
    """What one reply shows, beside the caller's own forwarded calls."""
    return np.column_stack([
        np.log(latency), np.log(latency / median), latency - median, np.log(first / median), latency - first,
        np.log(latency / last), np.log(median), pieces,
    ])  # fmt: skip
