"""The least that must hold, against a real Triton: a replay that is not held is found, one that is held is not found at a glance."""

import numpy as np
import pytest
import world  # first: it says where the others are
from chance import auc
from gross import faults
from measure import BASES, Caller, Plan, no_collection
from samples import Samples, load
from test_distinguish import run as drawn_run

EACH, WARM_UP, SEED = 200, 40, 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short run of `off` and one of `sample`, in front of one Triton."""
    folder, found = tmp_path_factory.mktemp("smoke"), {}
    modes = ("off", "sample")
    with world.sidecars(*map(world.configured, modes)) as (*ports, _):
        for mode, port in zip(modes, ports, strict=True):
            samples, plan = Samples(folder / f"{mode}.jsonl"), Plan([SEED, 0])
            samples.say(about={})
            warm = plan.calls({("warm", False): BASES + 8}) + plan.calls({("warm", kind): WARM_UP // 2 for kind in (False, True)})
            each = EACH if mode == "sample" else EACH // 5
            caller, calls = Caller(port, samples), plan.calls({("plain", kind): each for kind in (False, True)})
            with no_collection():
                for call in warm + calls:
                    caller.call(*call)
            samples.close()
            found[mode] = load(folder / f"{mode}.jsonl")
    return found


def test_a_replay_that_is_not_held_is_found(runs):
    run, said = runs["off"]
    assert auc(-run["latency"], run["replayed"]) > 0.95
    assert any("latency" in fault for fault in faults(run, said["looks"]))


def test_a_held_replay_looks_like_a_forwarded_reply_and_takes_about_as_long(runs):
    run, said = runs["sample"]
    assert len(run["latency"]) == 2 * EACH and faults(run, said["looks"]) == []
    assert len(np.unique(run["look"])) == 1, "every reply looks the same, to the byte, but for the numbers in it"


def test_each_way_of_telling_is_a_fault():
    seen = drawn_run(EACH)
    looks = {0: "200 OK 87 bytes", 1: "200 OK 87 bytes, x-from-memory"}
    assert faults(seen, looks) == []
    for name, of_replayed in (("look", 1), ("truth", -1), ("truth", 0), ("latency", 0.0005)):
        told = seen | {name: np.where(seen["replayed"], of_replayed, seen[name])}
        assert faults(told, looks), name
