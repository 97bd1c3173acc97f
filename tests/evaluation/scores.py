"""What scores tell: for each way of writing them, how well a replayed reply is told from a forwarded one, and what score-based attacks get from it.

    python scores.py [--pictures N] [--images N] [--queries N] [--seed S]

A reply is judged by its scores and those of its neighbours: of six near-copies of one picture. Forwarded ones are had by asking each
near-copy in a session of its own, replayed ones by asking all in the session that asked for the picture. A classifier learns to tell
them apart on some pictures and is tested on others.
"""

import argparse
import itertools
import time

import classifiers
import data
import numpy as np
from asking import Asker
from attacks import library, norms
from attacks.attempt import Attempt, judged
from attacks.nes import nes
from report import Section, share, table
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from world import World

MODES = ["exact", "rounded", "jittered", "label", "decoy"]
WARM_UP = 60  # near-copies from which a decoy learns how steep the model is
LEAST = 1e-12

ATTACKS = {
    "Square, 16/255": (library.square(16), norms.linf(16)),
    "SimBA": (library.simba, norms.l2()),
    "NES, 16/255": (nes(16), norms.linf(16)),
}


def near_copies(picture, rng):
    """Six near-copies in pairs of opposite changes: noise of two levels, one pixel, a patch of 3 x 3."""
    changes = [rng.integers(-2, 3, picture.shape)]
    for side, size in ((1, 80), (3, 25)):
        change = np.zeros(picture.shape, int)
        y, x = rng.integers(0, 32 - side, 2)
        change[y : y + side, x : x + side] = rng.choice([-size, size], 3)
        changes.append(change)
    return [np.clip(picture + sign * change, 0, 255).astype(np.uint8) for change in changes for sign in (1, -1)]


def features(scores, index, near, first):
    """What reply `index` of `near` tells beside its neighbours and the reply `first` to the picture itself."""
    logs = np.log(np.maximum([first, *near], LEAST))
    moved = logs[1:] - logs[0]
    moved -= moved.mean(axis=1, keepdims=True)
    own, opposite = moved[index], moved[index ^ 1]
    size = np.sqrt((moved**2).mean(axis=1))
    others = np.delete(np.arange(len(near)), index)
    apart = np.sqrt(((moved[others] - own) ** 2).mean(axis=1))
    order = np.argsort(-first)
    return [
        size[index],
        np.abs(own).max(),
        size[index] / max(np.median(size), LEAST),
        np.sqrt(((own + opposite) ** 2).mean()) / max(size[index], LEAST),
        apart.min(),
        np.median(apart),
        (near[index] == first).mean(),
        (near[index][None] == np.array(near)[others]).mean(),
        near[index].argmax() == first.argmax(),
        (np.argsort(-near[index]) == order).mean(),
        np.abs(own[order[:2]]).max(),
        own[order[0]],
        np.abs(own[order[-3:]]).max(),
        near[index].max(),
        near[index].max() - first.max(),
        abs(float(near[index].sum()) - 1),
        index // 2,
    ]


def told(address, pictures, rng):
    """Features of forwarded and replayed replies, which is which, and of which picture."""
    rows, kinds, groups = [], [], []
    for group, picture in enumerate(pictures):
        session = Asker(address, classifiers.CONVERTED)
        first = session.ask(picture).probabilities
        near = near_copies(picture, rng)
        replayed = [session.ask(copy) for copy in near]
        forwarded = [Asker(address, classifiers.CONVERTED).ask(copy) for copy in near]
        # A copy that the session had forwarded is no replay; the whole picture is left out, for both kinds.
        if not all(answer.replayed for answer in replayed):
            continue
        for kind, answers in enumerate((forwarded, replayed)):
            scores = [answer.probabilities for answer in answers]
            for index in range(len(near)):
                rows.append(features(scores, index, scores, first))
                kinds.append(kind)
                groups.append(group)
    return np.array(rows, float), np.array(kinds), np.array(groups)


def auc(rows, kinds, groups, rng):
    """Area under the curve on pictures that the classifier did not learn from, and its standard error by drawing pictures anew."""
    scores = np.empty(len(rows))
    for learn, test in GroupKFold(5).split(rows, kinds, groups):
        model = HistGradientBoostingClassifier(max_iter=150, random_state=0).fit(rows[learn], kinds[learn])
        scores[test] = model.predict_proba(rows[test])[:, 1]
    found = roc_auc_score(kinds, scores)
    places = {group: np.flatnonzero(groups == group) for group in np.unique(groups)}
    drawn = []
    for _ in range(200):
        chosen = np.concatenate([places[group] for group in rng.choice(list(places), len(places))])
        drawn.append(roc_auc_score(kinds[chosen], scores[chosen]))
    return found, float(np.std(drawn))


def warm_up(address, pictures, rng):
    """A decoy learns from near-copies that the model is asked about in vain: under a shadow, or in a cold stratum."""
    for picture in pictures:
        session = Asker(address, classifiers.CONVERTED)
        for asked in [picture, *near_copies(picture, rng)]:
            session.ask(asked)


def attacked(address, guard, images, truths, queries, seed, local):
    """One row of outcomes for each attack, of the images that the model gets right."""
    outcomes = {}
    for name, (attack, within) in ATTACKS.items():
        found = []
        for index, (picture, truth) in enumerate(zip(images, truths, strict=True)):
            np.random.seed(seed + index)
            attempt = Attempt(Asker(address, classifiers.CONVERTED, budget=queries), picture, truth, within)
            found.append(judged(attempt, index, attempt.run(attack), local, guard))
        outcomes[name] = found
    return outcomes


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--pictures", type=int, default=400)
    arguments.add_argument("--images", type=int, default=20)
    arguments.add_argument("--queries", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--modes", default=",".join(MODES))
    chosen = arguments.parse_args()
    pictures, truths = data.split("report")
    local = classifiers.local(classifiers.CONVERTED)
    right = np.flatnonzero(local(pictures).argmax(axis=1) == truths)
    rng = np.random.default_rng(chosen.seed)
    lots = rng.permutation(right)
    heads, attacks_on = lots[: chosen.pictures], lots[-chosen.images :]
    with World([classifiers.CONVERTED]) as world, Section("scores", "What scores tell", chosen.seed) as section:
        rows = []
        for mode in chosen.modes.split(","):
            began = time.monotonic()
            # Under a shadow the rulings and the answers are those of any other mode, and a decoy has its pairs to learn from.
            settings = '[timing]\nmode = "shadow"\n[store]\nbytes = "1GiB"\n'
            address = world.configured(f'scores = "{mode}"\n', settings=settings)
            warm_up(address, pictures[lots[chosen.pictures : chosen.pictures + WARM_UP // 6]], rng)
            seen = told(address, pictures[heads], rng)
            found, error = auc(*seen, rng)
            outcomes = attacked(address, address, pictures[attacks_on], truths[attacks_on], chosen.queries, chosen.seed, local)
            row = [f"`{mode}`", f"{found:.3f} ± {1.96 * error:.3f}", int((seen[1] == 1).sum())]
            for outcome in outcomes.values():
                row += [share(sum(one.seen for one in outcome), len(outcome)), share(sum(one.bare for one in outcome), len(outcome))]
            rows.append(row)
            section.data[mode] = {
                "auc": found,
                "error": error,
                "replies": len(seen[1]),
                "seconds": time.monotonic() - began,
                "attacks": {name: [vars(one) for one in found] for name, found in outcomes.items()},
            }
            head = ["`scores`", "AUC", "replies of each kind"]
            head += itertools.chain.from_iterable((f"{name}: seen", "on the bare model") for name in ATTACKS)
            section.text = INTRODUCTION.format(queries=chosen.queries) + table(head, rows)
            section.write()
            print(row, flush=True)


INTRODUCTION = """How well a classifier (gradient-boosted trees, tested on pictures that it did not learn from) tells a replayed reply from a forwarded
one by its scores and those of five other near-copies: AUC, 95 % interval over pictures; 0.5 is a guess. The attacker has sessions enough to know what
forwarded near-copies look like. Beside it what score-based attacks achieve in {queries} queries under the `hardened` profile: a wrong label seen in the same
session, and how many of the pictures that they end with fool the bare model.

"""

if __name__ == "__main__":
    main()
