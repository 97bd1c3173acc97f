"""A run that is stopped loses nothing but the line that was being written, and goes on."""

import numpy as np
from measure import Plan
from samples import Samples, load


def test_a_file_that_was_cut_short_is_gone_on_with(tmp_path):
    path = tmp_path / "run.jsonl"
    samples = Samples(path)
    samples.say(about={"mode": "sample"})
    for replayed in (0, 1, 1):
        samples.reply("plain", replayed, 0.1, 0.01, 0.01, 1, samples.look("plain look"), samples.look(""), 1, 0)
    samples.close()
    path.write_text(path.read_text()[:-9])
    samples = Samples(path)
    assert (samples.have("plain", True), samples.have("plain", False)) == (1, 1) and samples.last == "about"
    samples.say(about={"mode": "sample"})
    samples.reply("plain", 1, 0.1, 0.02, 0.01, 1, samples.look("plain look"), samples.look("another"), 1, 0)
    samples.close()
    run, said = load(path)
    assert run["latency"].tolist() == [0.01, 0.01, 0.02] and run["stretch"].tolist() == [0, 0, 1]
    assert said["looks"] == {0: "plain look", 1: "", 2: "another"} and run["around"].tolist() == [1, 1, 2]


def test_nothing_in_a_request_says_of_which_kind_it_is():
    plan = Plan([1, 0])
    plan.calls({("warm", False): 40})
    calls = plan.calls({("plain", kind): 300 for kind in (False, True)})
    kinds = np.array([replayed for _, replayed, *_ in calls])
    bodies = [body for *_, body, _ in calls]
    assert kinds.sum() == 300 and len({len(body) for body in bodies}) == 1
    assert len(set(bodies)) == len(bodies), "no question comes twice"
    # The pictures themselves: as bright, as rich in contrast, on either path.
    pixels = np.array([np.frombuffer(body[-3072:], np.uint8) for body in bodies], float)
    for of in (np.mean, np.std):
        each = of(pixels, axis=1)
        assert abs(each[kinds].mean() - each[~kinds].mean()) < 4 * each.std() / np.sqrt(150)
    first = {}
    for at, (_, replayed, base, *_) in enumerate(calls):
        assert replayed or base not in first, "every other copy of a picture is a near-copy of one that was asked before"
        first.setdefault(base, at)
