"""The judge of the time layer judged itself, on runs whose answer is known."""

import numpy as np
import pytest
from chance import auc, shuffled
from distinguish import afterwards, control, could_show, deadlines, judge, judge_scores, looks, table, told


def run(count, shift=0.0, seed=1, blind=0.0, spread=0.05):
    """Latencies of a model of 10 ms under a load that wanders; replayed ones `shift` seconds later, and `blind` to the load by a share."""
    dice = np.random.default_rng(seed)
    replayed = dice.permutation(np.repeat([False, True], count))
    load = 1 + 0.3 * np.sin(np.arange(2 * count) / 300)
    seen = np.where(replayed, (1 - blind) * load + blind, load)
    latency = 0.010 * seen * np.exp(dice.normal(0, spread, 2 * count)) + shift * replayed
    same, zeros = np.zeros(2 * count, int), np.zeros(2 * count)
    return {
        "part": np.full(2 * count, "plain", "U9"), "replayed": replayed, "at": zeros, "latency": latency, "first": latency - 1e-5, "pieces": same + 1,
        "look": same, "around": same, "truth": same + 1, "beside": zeros, "stretch": same,
    }  # fmt: skip


def test_equal_paths_are_not_told_apart():
    verdict = judge(run(1500))
    assert verdict.ks < verdict.ks_by_chance and verdict.ks_p > 0.01, verdict
    assert not verdict.time.found and abs(verdict.time.auc - 0.5) < 0.03 and verdict.time.n_star_least > 100, verdict
    assert verdict.audit < 0.10 and verdict.looks.auc == verdict.around.auc == 0.5


def test_no_load_that_both_share_is_taken_for_a_difference():
    """Replies that are like the one before, as under a load that comes and goes."""
    found = 0
    for seed in range(20):
        dice = np.random.default_rng(seed)
        wave = np.repeat(np.exp(dice.normal(0, 0.5, 20)), 50)
        replayed = dice.permutation(np.repeat([False, True], 500))
        found += shuffled(wave * (1 + 0.01 * dice.random(1000)), replayed, seed, lots=200)[2] < 0.05
    assert found <= 4


def test_what_is_added_to_forwarded_replies_is_found_whatever_the_replayed_ones_are_like():
    seen = run(4000, shift=0.005, spread=0.02)
    found = control(seen, 0.0001)
    assert found.found and 10 * found.n_star < control(seen, 0.0).n_star, found


def test_the_number_of_replies_is_the_one_that_theory_says():
    """Two normal distributions an eighth of a deviation apart: (0.954 x 8)^2."""
    dice = np.random.default_rng(2)
    replayed = dice.permutation(np.repeat([False, True], 5000))
    seen = told(dice.normal(0, 1, (10_000, 1)) + 0.125 * replayed[:, None], replayed)
    assert seen.n_star_least < 58 < seen.n_star_most and seen.n_star == pytest.approx(58, rel=0.5), seen
    assert not seen.extrapolated and 1_000 < could_show(10_000) < 1_200


def test_who_knows_the_load_finds_what_is_blind_to_it():
    seen = run(1500, blind=1.0)
    found = told(table(seen)[0], seen["replayed"])
    assert found.auc > 0.75 and found.n_star < 10, found


def test_who_knows_what_the_call_before_was_finds_what_depends_on_it():
    seen = run(1500)
    slower = np.where(seen["replayed"][1:], 1.05, np.where(seen["replayed"][:-1], 1.1, 1.0))
    seen["latency"][1:] *= slower
    seen["first"] = seen["latency"] - 1e-5
    shown, history = table(seen)
    told_by = [told(each, seen["replayed"]).auc for each in (shown, np.column_stack([shown, history]))]
    assert told_by[0] < 0.6 < told_by[1] - 0.05, told_by


def test_who_asks_in_turns_is_not_said_to_tell_by_his_own_turns():
    seen = run(1500)
    seen["replayed"] = np.arange(3000) % 2 == 1
    verdict = judge(seen)
    assert verdict.informed is None and verdict.after is None and not verdict.time.found, verdict


def test_another_look_is_found_and_as_many_of_each_on_either_path_are_not():
    replayed = np.random.default_rng(1).permutation(np.repeat([False, True], 500))
    other = looks(replayed.astype(int), replayed)
    assert other.auc == 1.0 and not other.same
    assert looks(np.arange(1000) % 2, replayed).same and looks(np.zeros(1000, int), replayed).auc == 0.5


def test_who_asks_next_finds_that_the_model_was_at_rest():
    seen = run(1500)
    assert not afterwards(seen).found
    seen["latency"][1:] *= np.where(seen["replayed"][:-1] & ~seen["replayed"][1:], 0.9, 1.0)
    assert afterwards(seen).found and afterwards(seen).auc > 0.8


def test_deadlines_are_compared():
    seen = run(1000)
    seen["part"][:] = "deadline"
    dice = np.random.default_rng(1)
    seen["truth"] = (dice.random(2000) < np.where(seen["replayed"], 0.3, 0.5)).astype(int)
    (forwarded, replayed, apart, low, high), _ = deadlines(seen)
    assert low < 20 < high and apart == pytest.approx(replayed - forwarded) and high - low < 12


def test_scores_that_come_again_are_found_and_those_of_the_model_are_not():
    dice = np.random.default_rng(3)
    anchors = dice.dirichlet(np.ones(10), 300)

    def near():
        return (anchors + dice.normal(0, 0.001, anchors.shape)).tolist()

    assert judge_scores(list(zip(anchors.tolist(), anchors.tolist(), near(), strict=True))).auc > 0.95
    assert not judge_scores(list(zip(anchors.tolist(), near(), near(), strict=True))).found


def test_an_auc_counts_ties_as_half():
    assert auc(np.array([1.0, 1.0, 1.0]), np.array([True, False, True])) == 0.5
    assert auc(np.array([2.0, 1.0, 3.0]), np.array([True, False, True])) == 1.0
