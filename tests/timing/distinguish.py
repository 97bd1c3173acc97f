"""How well replayed replies can be told from forwarded ones by what a caller sees of them.

Everything here is judged out of sample: a reply's score comes from a classifier that was trained on other stretches of time.
"""

import dataclasses

import numpy as np
from chance import auc, interval, shuffled
from features import before, past, rows
from scipy.stats import ks_2samp, norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, QuantileTransformer

FOLDS = 5
# Replies between what a classifier was trained on and what it judges: as far back as a row looks, and more.
APART = 50
AUDITS, OF_EACH, LEVEL = 1000, 250, 0.05
# A sum over N replies of each kind tells them apart with AUC 0.75 once its separation is this.
D_AT_75 = np.sqrt(2) * norm.ppf(0.75)
# Standard errors: one-sided 95 %, two-sided 95 %, one-sided 99 % by each of two distinguishers.
ONE_SIDED, TWO_SIDED, SURE = norm.ppf([0.95, 0.975, 0.995])
# Scores of five classifiers that share what they were trained on stray by so much more than redrawn stretches of them show: measured on drawn runs with nothing
# to find, in which the AUC should stray by one standard error and strayed by 1.2.
WIDER = 1.25
# As many disjoint sums a kind as it takes to see an N* and not only to compute it from one reply's separation.
GROUPS = 20


def trees(seed):
    return HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=100, random_state=seed)


def line(seed):
    """Of ranks made normal, their squares and their products: what finds a small shift for which trees are too coarse."""
    normal = QuantileTransformer(n_quantiles=50, output_distribution="normal", random_state=seed)
    return make_pipeline(Missing(), normal, PolynomialFeatures(2, include_bias=False), LogisticRegression(C=0.01, max_iter=500))


class Missing:
    """Puts a column's median where nothing is known."""

    def fit(self, table, _=None):
        self.middle = np.nan_to_num(np.nanmedian(table, axis=0))
        return self

    def transform(self, table):
        return np.where(np.isnan(table), self.middle, table)

    def fit_transform(self, table, labels=None):
        return self.fit(table, labels).transform(table)


DISTINGUISHERS = {"trees": trees, "line": line}


def scores(table, replayed, make, seed=0):
    """For each reply the log odds of having been replayed, by a classifier that saw none of the replies around it; with the middle of each stretch taken
    off, or the share of each kind that a classifier happened to be trained on would count."""
    found, places = np.empty(len(table)), np.arange(len(table))
    for stretch in np.array_split(places, FOLDS):
        others = (places < stretch[0] - APART) | (places > stretch[-1] + APART)
        model = make(seed).fit(table[others], replayed[others])
        odds = model.decision_function(table[stretch])
        found[stretch] = odds - odds.mean()
    return found


def separation(found, replayed):
    """The difference of the two means in standard deviations, d'."""
    yes, no = found[replayed], found[~replayed]
    deviation = np.sqrt((yes.var(ddof=1) + no.var(ddof=1)) / 2)
    return (yes.mean() - no.mean()) / deviation if deviation > 0 else 0.0


def replies_for(d):
    """Replies of each kind after which sums of scores that are `d` apart reach AUC 0.75."""
    return np.inf if d <= 0 else max(1.0, (D_AT_75 / d) ** 2)


@dataclasses.dataclass
class Told:
    """How well something tells the two kinds apart."""

    by: str
    auc: float
    auc_error: float  # half the width of its 95 % interval
    n_star: float
    n_star_least: float  # at least so many, one-sided at 95 %
    n_star_most: float
    extrapolated: bool  # from one reply's separation: too few replies to have seen as many together
    found: bool  # more than chance shows once in a hundred


def told(table, replayed, seed=0, by=DISTINGUISHERS):
    """The best that any distinguisher makes of a table: the one that needs the fewest replies, each judged by itself."""
    best = None
    table = table[:, ~np.isnan(table).all(axis=0)]
    for name in by:
        found = scores(table, replayed, by[name], seed)
        d = separation(found, replayed)
        least, most = d + WIDER * (interval(found, replayed, separation, seed) - d)
        # Redrawn stretches give two-sided ends; N*'s own bound is one-sided. Who guesses worse than by chance has proved no more than who guesses by chance.
        one_sided = max(d, 0.0) + (most - d) * ONE_SIDED / TWO_SIDED
        low, high = interval(found, replayed, auc, seed)
        n_star = replies_for(d)
        this = Told(
            by=name,
            auc=auc(found, replayed),
            auc_error=float(WIDER * (high - low) / 2),
            n_star=float(n_star),
            n_star_least=float(replies_for(one_sided)),
            n_star_most=float(replies_for(least)),
            found=bool(d - (d - least) * SURE / TWO_SIDED > 0),
            extrapolated=bool(n_star > min(replayed.sum(), (~replayed).sum()) / GROUPS),
        )
        if best is None or (this.n_star_least, -this.auc) < (best.n_star_least, -best.auc):
            best = this
    return best


def could_show(replies):
    """The N* that as many replies of each kind can exclude where there is nothing to find: no run shows more."""
    return replies_for(WIDER * ONE_SIDED * np.sqrt(2 / replies))


@dataclasses.dataclass
class Looks:
    """What is told by bytes, frames, headers and status alone."""

    kinds: int
    same: bool  # as many of each on either path, to within what chance shows
    auc: float
    by_chance: float  # what lots drawn again pass once in a hundred

    @property
    def plain(self):
        """Whether all replies looked the same."""
        return self.kinds == 1


def looks(seen, replayed, seed=0):
    """The AUC of whoever knows how often each look comes on either path; 0.5 exactly where there is only one."""
    _, kinds = np.unique(seen, return_inverse=True)

    def by_share(labels):
        share = np.bincount(kinds, labels) / np.bincount(kinds)
        return auc(share[kinds], labels)

    dice = np.random.default_rng(seed)
    chance = float(np.quantile([by_share(dice.permutation(replayed)) for _ in range(200)], 0.99)) if kinds.any() else 0.5
    found = by_share(replayed)
    return Looks(int(kinds.max() + 1), found <= chance, found, chance)


def percentiles(latency, replayed):
    """Replayed over forwarded: p50, p95, p99."""
    return np.percentile(latency[replayed], (50, 95, 99)) / np.percentile(latency[~replayed], (50, 95, 99))


@dataclasses.dataclass
class Verdict:
    """What was made of one run."""

    replies: int  # of each kind, the lesser number
    ks: float
    ks_by_chance: float
    ks_p: float
    time: Told  # by what the reply shows
    informed: Told | None  # by that, and by what the call before was and took; none where new pictures and copies came in turns
    after: Told | None  # by the time of the next new picture
    beside: Told | None  # by the time of a new picture that was asked for beside it
    controls: dict  # seconds added: Told
    audit: float  # share of 250 + 250 audits that reject equality at 5 %
    ratios: tuple  # p50, p95, p99: (ratio, least, most)
    looks: Looks
    around: Looks
    late: tuple | None  # share of missed deadlines: forwarded, replayed, their difference, its interval
    late_looks: Looks | None
    memory: float  # how much one reply's time is like that of the one before
    wrong: int
    unanswered: tuple  # forwarded, replayed


def table(run, added=0.0):
    """What the attacker sees of the plain replies, and what he knows of the call before each; `added` seconds are put on each forwarded one."""
    extra = np.where(run["replayed"], 0.0, added)
    run = run | {"latency": run["latency"] + extra, "first": run["first"] + extra}
    median, last = past(run)
    history = [before(run[name], run["stretch"]) for name in ("latency", "replayed")]
    return rows(run["latency"], run["first"], run["pieces"], median, last), np.column_stack([np.log(history[0]), *history])


def only(run, which):
    return {name: values[which] for name, values in run.items()}


def control(run, added, seed=0):
    """Forwarded replies alone, by lot called one or the other, with so many seconds added to those that are called forwarded: what there is to be found is
    known."""
    forwarded = only(run, ~run["replayed"])
    lots = np.random.default_rng(seed).permutation(np.arange(len(forwarded["replayed"])) % 2 == 0)
    found, _ = table(forwarded | {"replayed": lots}, added)
    return told(found, lots, seed)


def afterwards(run, seed=0):
    """By the time of the next call, where that was for a new picture: whether the model had been at work is seen by who asks next."""
    median, last = past(run)
    following = np.append(np.isin(run["part"][1:], ("plain", "between")) & ~run["replayed"][1:] & (run["stretch"][1:] == run["stretch"][:-1]), False)
    at = np.flatnonzero(following & np.isin(run["part"], ("plain", "deadline", "cancelled")) & ~np.isnan(median))
    kinds = run["replayed"][at]
    if min(kinds.sum(), (~kinds).sum()) < 100:
        return None
    latency = run["latency"][at + 1]
    seen = np.column_stack([np.log(latency), np.log(latency / median[at]), latency - median[at], np.log(median[at])])
    return told(seen, kinds, seed)


def deadlines(run, seed=0):
    """The shares of missed deadlines, and the interval of their difference, in percent."""
    run = only(run, run["part"] == "deadline")
    replayed, missed = run["replayed"], (run["truth"] == 0).astype(float)
    if min(replayed.sum(), (~replayed).sum()) < 20:
        return None, None

    def apart(missed, replayed):
        return 100 * (missed[replayed].mean() - missed[~replayed].mean())

    low, high = interval(missed, replayed, apart, seed)
    shares = 100 * missed[~replayed].mean(), 100 * missed[replayed].mean()
    ended = only(run, missed == 1)
    told_late = looks(ended["look"], ended["replayed"], seed) if len(set(ended["replayed"].tolist())) == 2 else None
    return (*map(float, shares), float(apart(missed, replayed)), float(low), float(high)), told_late


def in_turns(replayed):
    """Whether each call says by its kind alone of which kind the next one is."""
    return np.mean(replayed[1:] != replayed[:-1]) > 0.9


def judge(run, controls=(), seed=0):
    """The verdict on a run, as samples.py loads it."""
    plain = only(run, run["part"] == "plain")
    dice = np.random.default_rng(seed)
    seen, history = table(plain)
    replayed, latency = plain["replayed"], plain["latency"]
    of_each = int(min(replayed.sum(), (~replayed).sum()))
    ks, by_chance, p = shuffled(latency, replayed, seed)
    size = min(OF_EACH, of_each // 2)
    yes, no = latency[replayed], latency[~replayed]
    rejected = [
        ks_2samp(dice.choice(yes, size, replace=False), dice.choice(no, size, replace=False)).pvalue < LEVEL for _ in range(AUDITS)
    ]
    low, high = interval(latency, replayed, percentiles, seed)
    late, late_looks = deadlines(run, seed)
    unanswered = [int((plain["truth"][replayed == kind] == 0).sum()) for kind in (False, True)]
    beside = None
    if plain["beside"].any():
        other, median = plain["beside"], past(plain | {"latency": plain["beside"], "replayed": np.zeros_like(replayed)})[0]
        beside = told(np.column_stack([np.log(other), np.log(other / median), np.log(other / latency)]), replayed, seed)
    return Verdict(
        replies=of_each,
        ks=ks,
        ks_by_chance=by_chance,
        ks_p=p,
        time=told(seen, replayed, seed),
        informed=None if in_turns(replayed) else told(np.column_stack([seen, history]), replayed, seed),
        after=None if in_turns(replayed) else afterwards(run, seed),
        beside=beside,
        controls={added: control(plain, added, seed) for added in controls},
        audit=float(np.mean(rejected)),
        ratios=tuple(zip(map(float, percentiles(latency, replayed)), map(float, low), map(float, high), strict=True)),
        looks=looks(plain["look"], replayed, seed),
        around=looks(plain["around"], replayed, seed),
        late=late,
        late_looks=late_looks,
        memory=float(np.corrcoef(np.argsort(np.argsort(latency))[1:], np.argsort(np.argsort(latency))[:-1])[0, 1]),
        wrong=int((run["truth"] < 0).sum()),
        unanswered=tuple(unanswered),
    )


def judge_scores(said, seed=0):
    """By the scores: those of near-copies that were answered from memory against those that the model gives to the same, each beside the
    answer to the picture itself. None where too few were asked."""
    known = [(anchor, given, fresh) for anchor, given, fresh in said if len(anchor) == len(given) == len(fresh) > 0]
    if len(known) < 100:
        return None
    anchors, given, fresh = (np.array(each) for each in zip(*known, strict=True))
    # Both answers of each, one after the other, in an order drawn by lot.
    first = np.random.default_rng(seed).random(len(known)) < 0.5
    lots = np.column_stack([first, ~first]).ravel()
    seen = np.where(lots[:, None], np.repeat(given, 2, axis=0), np.repeat(fresh, 2, axis=0))
    anchors = np.repeat(anchors, 2, axis=0)
    apart = np.abs(seen - anchors)
    table = np.column_stack([
        apart.max(axis=1), apart.sum(axis=1), (apart == 0).sum(axis=1), seen.argmax(axis=1) == anchors.argmax(axis=1),
        (np.argsort(seen) == np.argsort(anchors)).sum(axis=1), seen.sum(axis=1) - 1, seen.max(axis=1),
    ])  # fmt: skip
    return told(table, lots, seed, by={"trees": trees_of_few})


def trees_of_few(seed):
    return HistGradientBoostingClassifier(max_iter=50, learning_rate=0.1, max_leaf_nodes=4, min_samples_leaf=20, random_state=seed)
