"""The judge of the time layer judged itself, on runs whose answer is known."""

import numpy as np
import pytest
from distinguish import judge


def run(count, shift=0.0, seed=1, drift=0.0):
    """Latencies of a model of 10 ms under a load that wanders; replayed ones `shift` seconds later, and blind to the load by `drift`."""
    dice = np.random.default_rng(seed)
    replayed = dice.permutation(np.repeat([False, True], count))
    load = 1 + 0.3 * np.sin(np.arange(2 * count) / 300)
    seen = np.where(replayed, (1 - drift) * load + drift, load)
    latency = 0.010 * seen * np.exp(dice.normal(0, 0.05, 2 * count)) + shift * replayed
    looks = np.full(2 * count, "same")
    return {"replayed": replayed, "latency": latency, "first": latency - 1e-5, "looks": looks}


def test_equal_paths_are_not_told_apart():
    verdict = judge(run(2000))
    assert verdict.ks < verdict.ks_by_chance and abs(verdict.auc - 0.5) < 0.03
    assert verdict.n_star_least > 200 and verdict.audit < 0.10 and verdict.looks == 0.5


@pytest.mark.parametrize("added", [0.0003])
def test_a_third_of_a_millisecond_on_one_path_is_found(added):
    verdict = judge(run(2000), added=added)
    assert verdict.auc > 0.55 and verdict.n_star < 100, verdict


def test_who_knows_the_load_finds_what_is_blind_to_it():
    blind = judge(run(2000, drift=1.0))
    assert blind.auc > 0.75 and blind.n_star < 10, blind


def test_another_look_is_found_whatever_the_time():
    seen = run(500)
    seen["looks"] = np.where(seen["replayed"], "longer", "same")
    assert judge(seen).looks == 1.0
