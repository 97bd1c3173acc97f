"""What chance alone would show. Nothing here takes replies for independent of each other: they are not, under a load that comes and goes.

* Which call was of which kind was drawn by lot, and the lot knows nothing of time. So a test may draw the lots again (`shuffled`): if the kind of a call
  changes nothing, what was seen is one draw among those, however much each reply is like the one before.
* Errors come from drawing whole stretches of consecutive replies again (`stretches`), which keeps what neighbours have in common.
"""

import numpy as np

STRETCH = 100  # replies: some seconds, longer than a reply remembers the one before
LOTS, DRAWS = 1000, 500


def stretches(count, dice):
    """Places of as many replies again, in whole stretches drawn with replacement."""
    length = min(STRETCH, max(1, count // 20))
    starts = np.arange(0, count, length)
    drawn = dice.choice(starts, len(starts))
    places = (drawn[:, None] + np.arange(length)).ravel()
    return places[places < count]


def distance(values, replayed):
    """The Kolmogorov-Smirnov distance of the two kinds."""
    return Distances(values).of(replayed)


class Distances:
    """Kolmogorov-Smirnov distances of one set of values for any number of lots."""

    def __init__(self, values):
        self.order = np.argsort(values, kind="stable")
        values = values[self.order]
        self.ends = np.append(values[1:] != values[:-1], True)  # equal values are one step

    def of(self, replayed):
        yes = replayed[self.order]
        apart = np.cumsum(yes) / yes.sum() - np.cumsum(~yes) / (~yes).sum()
        return float(np.abs(apart[self.ends]).max())


def shuffled(values, replayed, seed=0, lots=LOTS):
    """The distance of the two kinds, what it passes once in a hundred lots by chance, and the share of lots with at least as much."""
    distances, dice = Distances(values), np.random.default_rng(seed)
    seen = distances.of(replayed)
    by_chance = np.array([distances.of(dice.permutation(replayed)) for _ in range(lots)])
    return seen, float(np.quantile(by_chance, 0.99)), float((1 + (by_chance >= seen).sum()) / (1 + lots))


def interval(values, replayed, statistic, seed=0, draws=DRAWS):
    """The middle 95 % of `statistic(values, replayed)` over redrawn stretches."""
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        places = stretches(len(replayed), dice)
        if 0 < replayed[places].sum() < len(places):
            found.append(statistic(values[places], replayed[places]))
    return np.quantile(found, [0.025, 0.975], axis=0)


def auc(found, replayed):
    """How often a replayed reply has the higher score; ties count half."""
    _, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    yes, no = replayed.sum(), (~replayed).sum()
    return float((ranks[replayed].sum() - yes * (yes + 1) / 2) / (yes * no))
