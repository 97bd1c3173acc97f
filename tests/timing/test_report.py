"""A report says at its top, and by its exit code, when its figures prove nothing."""

import report
from samples import Samples
from test_distinguish import run as drawn_run

ABOUT = {
    "load": "idle", "beside": "none", "seed": 1, "count": 300, "top": "", "commit": "0", "binary": "0", "date": "2026-01-01",
    "a_call": 0.01, "capacity": 100.0, "rate": 0.0,
}  # fmt: skip


def saved(folder, mode, run, asked=None, **about):
    samples = Samples(folder / f"{mode}-idle-none.jsonl")
    samples.say(about=ABOUT | {"mode": mode} | about)
    looks = [samples.look("a look"), samples.look("")]
    for at, replayed in enumerate(run["replayed"].tolist()):
        samples.reply("plain", int(replayed), 0.0, float(run["latency"][at]), float(run["first"][at]), 1, *looks, int(run["truth"][at]), 0)
    forwarded = int((~run["replayed"]).sum())
    samples.say(ended={"seconds": 1.0, "asked": asked or forwarded, "forwarded": forwarded, "busy": 0.5, "others": [0, 0, 0]})
    samples.close()


def test_what_was_not_found_is_said_and_fails(tmp_path, capsys):
    few = drawn_run(300)
    few["truth"][5] = -1
    saved(tmp_path, "sample", few, asked=301)
    saved(tmp_path, "off", drawn_run(300), rate=50.0)
    assert report.write(tmp_path, tmp_path, "tests/timing/run report")
    said = (tmp_path / "RESULTS.md").read_text()
    for doubt in (
        "0.1 ms added to forwarded replies were not found", "`off` was not told apart", "1 answers were the other kind's",
        "the model was asked 301 times for 300 new pictures", "others made 0 calls where 50 were due",
    ):  # fmt: skip
        assert doubt in said, said
    assert capsys.readouterr().out.count("FAILED: ") >= 5
    assert (tmp_path / "latencies.svg").read_text().startswith("<?xml")


def test_a_run_with_its_controls_does_not_fail(tmp_path):
    saved(tmp_path, "sample", drawn_run(1200, spread=0.01))
    assert not report.write(tmp_path, tmp_path, "tests/timing/run report")
    said = (tmp_path / "RESULTS.md").read_text()
    assert "prove nothing" not in said and "| sample, idle | bytes and headers: AUC 0.50 exactly | 0.500 | met |" in said
