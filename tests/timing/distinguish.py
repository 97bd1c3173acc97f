"""How well replayed replies can be told from forwarded ones by what a caller sees of them.

Everything here is judged out of sample: a reply's score comes from a classifier that was trained on other stretches of time.
"""

import dataclasses
import json

import numpy as np
from scipy.stats import ks_2samp, norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

FOLDS = 5
BOOTSTRAPS = 400
OWN = 16  # forwarded calls of his own by which an attacker knows the present load
AUDITS, OF_EACH, LEVEL = 1000, 250, 0.05
# A sum over N replies of each path tells them apart with AUC 0.75 once its separation is this.
D_AT_75 = np.sqrt(2) * norm.ppf(0.75)


@dataclasses.dataclass
class Verdict:
    """What the best distinguisher made of one run."""

    replies: int  # of each path
    ks: float
    ks_by_chance: float  # what the distance of equal distributions passes once in a hundred runs
    auc: float
    auc_error: float  # half the width of the 95 % interval
    n_star: float
    n_star_least: float  # the lower end of its 95 % interval
    audit: float  # share of 250 + 250 audits that reject equality at 5 %
    ratios: tuple  # replayed over forwarded: p50, p95, p99
    looks: float  # AUC by bytes, frames, headers and status alone


def features(latency, first, replayed):
    """One row a reply: its latency, time to first byte, and both over the median of the last 16 calls that were forwarded."""
    own, past = np.full(len(latency), np.nan), []
    for at, seconds in enumerate(latency):
        if len(past) >= OWN:
            own[at] = np.median(past[-OWN:])
        if not replayed[at]:
            past.append(seconds)
    return np.column_stack([latency, first, latency - first, latency / own, first / own, own])


def scores(rows, replayed, seed=0):
    """For each reply the log odds of having been replayed, by a classifier trained on the other stretches of the run."""
    found = np.empty(len(rows))
    for stretch in np.array_split(np.arange(len(rows)), FOLDS):
        others = np.setdiff1d(np.arange(len(rows)), stretch)
        model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=100, random_state=seed)
        model.fit(rows[others], replayed[others])
        found[stretch] = model.decision_function(rows[stretch])
    return found


def separation(found, replayed):
    """The difference of the two means in standard deviations, d'; never less than nothing."""
    yes, no = found[replayed], found[~replayed]
    deviation = np.sqrt((yes.var(ddof=1) + no.var(ddof=1)) / 2)
    return max(0.0, (yes.mean() - no.mean()) / deviation) if deviation else 0.0


def n_star(found, replayed):
    """Replies of each path after which the sum of the scores reaches AUC 0.75."""
    d = separation(found, replayed)
    return np.inf if d == 0 else (D_AT_75 / d) ** 2


def looks_auc(looks, replayed):
    """The AUC of whoever knows how often each look (bytes, frames, headers, status) comes on either path."""
    _, kinds = np.unique(looks, return_inverse=True)
    share = np.bincount(kinds, replayed) / np.bincount(kinds)
    return roc_auc_score(replayed, share[kinds])


def judge(run, added=0.0, seed=0):
    """The verdict on a run of `measure.py`; `added` seconds are put on every forwarded reply, as a control."""
    replayed, dice = run["replayed"].astype(bool), np.random.default_rng(seed)
    late = np.where(replayed, 0.0, added)
    latency, first = run["latency"] + late, run["first"] + late
    rows = features(latency, first, replayed)
    found = scores(rows, replayed, seed)
    of_each = min(replayed.sum(), (~replayed).sum())
    stars, aucs = [], []
    for _ in range(BOOTSTRAPS):
        drawn = dice.integers(0, len(found), len(found))
        stars.append(n_star(found[drawn], replayed[drawn]))
        aucs.append(roc_auc_score(replayed[drawn], found[drawn]))
    yes, no = latency[replayed], latency[~replayed]
    size = min(OF_EACH, of_each // 2)
    rejected = [
        ks_2samp(dice.choice(yes, size, replace=False), dice.choice(no, size, replace=False)).pvalue < LEVEL for _ in range(AUDITS)
    ]
    quantiles = (50, 95, 99)
    return Verdict(
        replies=int(of_each),
        ks=float(ks_2samp(yes, no).statistic),
        ks_by_chance=float(1.628 * np.sqrt((len(yes) + len(no)) / (len(yes) * len(no)))),
        auc=float(roc_auc_score(replayed, found)),
        auc_error=float((np.quantile(aucs, 0.975) - np.quantile(aucs, 0.025)) / 2),
        n_star=float(n_star(found, replayed)),
        n_star_least=float(np.quantile(stars, 0.025)),
        audit=float(np.mean(rejected)),
        ratios=tuple(float(a / b) for a, b in zip(np.percentile(yes, quantiles), np.percentile(no, quantiles), strict=True)),
        looks=float(looks_auc(run["looks"], replayed)),
    )


def load(path):
    """A run, and what it was a run of."""
    with np.load(path) as file:
        run = dict(file)
    return run, json.loads(str(run.pop("about")))
