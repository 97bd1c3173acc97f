"""What is in results/ into RESULTS.md and its plots; every command of `benches/run` ends with it."""

import json
import statistics

import plots
from about import RESULTS, ROOT

GOALS_AT = ["3KiB", "147KiB", "588KiB"]
PARTS = ["compare", "instructions", "growth", "stages"]
NAMES = {"rows-32": "batch of 32 (96 KiB)", "jpeg-224": "JPEG 224 px", "jpeg-1080p": "JPEG 1080p"}


def table(head, rows):
    lines = ["| " + " | ".join(map(str, row)) + " |\n" for row in rows]
    return "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n" + "".join(lines) + "\n"


def about(told):
    binary = f", program {told['binary']}" if told.get("binary") else ""
    return (
        f"`{told['command']}`, {told['date']}, commit {told['commit']}{binary}, {told['machine']}, load average {told['load_before']} before, "
        f"{told['seconds']} s.\n\n"
    )


def us(value):
    return f"{value:,.0f} us" if value < 10_000 else f"{value / 1000:,.1f} ms"


def ratio(one, other):
    return f"{one / other:.2f}" if one and other else "-"


class Cells:
    """What was seen, by cell and way."""

    def __init__(self, kept):
        self.planned = {cell["name"]: cell for cell in kept["cells"]}
        self.by = {(each["cell"], each["way"]): each for each in kept["seen"]}

    def of(self, group):
        return [cell for cell in self.planned.values() if cell["group"] == group]

    def groups(self):
        return list(dict.fromkeys(cell["group"] for cell in self.planned.values()))


def a_second(seen):
    return seen["calls"] / seen["seconds"]


def cpu(seen):
    """Seconds of processors for a thousand calls."""
    return 1000 * seen["cpu_seconds"] / max(seen["calls"], 1)


def beside(one, other, at):
    """The median of the rounds' ratios, and the least and the greatest: within a round what drifts on the machine is alike."""
    each = [a[at] / b[at] for a, b in zip(one["rounds"], other["rounds"]) if a[at] and b[at]] or [float("nan")]
    return statistics.median(each), min(each), max(each)


def met(is_met, found):
    return found if is_met else f"**{found}**"


def goals(kept):
    """Each goal and what was measured."""
    text = ""
    if compared := kept.get("compare"):
        text += beside_envoy(Cells(compared))
    rows = [[what, goal, met(is_met, found)] for what, goal, found, is_met in other_goals(kept)]
    text += table(["", "goal", "measured"], rows) if rows else ""
    return f"## Goals\n\nBold: missed.\n\n{text}" if text else ""


def beside_envoy(cells):
    rows = []
    for cell in cells.of("TCP"):
        ours, envoy = (cells.by.get((cell["name"], way)) for way in ("enforce", "envoy"))
        if cell["payload"] in GOALS_AT and ours and envoy:
            found = [beside(ours, envoy, 0)[0], ours["p99"] / envoy["p99"], cpu(ours) / cpu(envoy), beside(ours, envoy, 1)[0]]
            reached = [found[0] <= 1, found[1] <= 1, found[2] <= 1.3, found[3] >= 1]
            rows.append([cell["payload"], cell["concurrency"], *(met(is_met, f"{each:.2f}") for is_met, each in zip(reached, found))])
    head = ["a call judged and forwarded, as multiples of Envoy's", "at once", "median (1)", "p99 (1)", "CPU (1.3)", "calls/s (1)"]
    return table(head, rows) if rows else ""


def other_goals(kept):
    """What, the goal, what was measured, whether it is met."""
    if compared := kept.get("compare"):
        cells = Cells(compared)
        for cell in cells.of("Triton, 10 ms model, unheld"):
            ours, direct = (cells.by.get((cell["name"], way)) for way in ("triton-unheld", "triton"))
            if ours and direct and cell["copies"] == 0.95:
                found = a_second(ours) / a_second(direct)
                yield "throughput, 10 ms model of a real Triton, 95 % near-copies, not held", "2 x direct", f"{found:.1f} x", found >= 2
    if counted := kept.get("instructions"):
        times = {each["path"]: each["ns"] / 1000 for each in counted["times"]}
        for path, most in (("likeness 224 FP32 NHWC", 60), ("likeness 224 FP32 NCHW", 60), ("likeness 32 UINT8 NHWC", 6), ("likeness 32 FP32 NHWC", 6)):
            yield path, f"{most} us", f"{times[path]:.1f} us", times[path] <= most
        path = "judged: new, 256 anchors and no ghosts"
        yield f"{path}; claimed and settled too", "5 us for the ruling", f"{times[path]:.1f} us", times[path] <= 5
    if grown := kept.get("growth"):
        accounted = [point["accounted"] for point in grown["points"] if point["curve"] == "anchors"][-1] - grown["answer"]
        yield "memory of an anchor beside its answer, by the store's account", "4 KiB", f"{accounted:,.0f} B", accounted <= 4096
        yield "resident with an empty store", "64 MiB", f"{grown['at_rest'] / 2**20:.1f} MiB", grown["at_rest"] < 64 << 20


def compared(kept):
    cells = Cells(kept)
    text = "## Beside no proxy, Envoy and nginx\n\n" + about(kept["about"])
    text += "Ratios are to `direct` and to Envoy in the same cell: of medians and of calls a second the median of the rounds' ratios, in brackets the least and the greatest. CPU is of the proxy alone, a thousand calls. "
    text += "What each way and column is stands in README.md.\n\n![Medians and throughput beside Envoy's](results/compare.svg)\n\n"
    if kept["wrong"]:
        text += "**Not what was meant to be measured:** " + "; ".join(kept["wrong"]) + "\n\n"
    for group in cells.groups():
        text += f"### {group}\n\n"
        for cell in cells.of(group):
            rows = []
            seen = [(way, cells.by[cell["name"], way]) for way in cell["ways"] if (cell["name"], way) in cells.by]
            direct = next(each for _, each in seen if not each["resident"])
            envoy = next(each for way, each in seen if "envoy" in way)
            for way, each in seen:
                median, least, most = beside(each, envoy, 0)
                rows.append([
                    way, us(each["p50"]), f"{beside(each, direct, 0)[0]:.2f}", f"{median:.2f} ({least:.2f}..{most:.2f})", us(each["p99"]), ratio(each["p99"], envoy["p99"]),
                    f"{a_second(each):,.0f}", f"{beside(each, envoy, 1)[0]:.2f}", f"{cpu(each):.3f} s" if each["resident"] else "-",
                    ratio(cpu(each), cpu(envoy)) if each["resident"] else "-", f"{each['resident'] / 2**20:.0f} MiB" if each["resident"] else "-",
                ])  # fmt: skip
            copies = f", {cell['copies']:.0%} near-copies" if cell["copies"] else ""
            text += f"**{NAMES.get(cell['payload'], cell['payload'])}, {cell['concurrency']} at once{copies}**\n\n"
            head = ["way", "p50", "/ direct", "/ Envoy", "p99", "/ Envoy", "calls/s", "/ Envoy", "CPU/1,000", "/ Envoy", "resident"]
            text += table(head, rows)
    if kept["witnesses"]:
        text += "### Third-party generators\n\n"
        rows = [[each["by"], each["payload"], each["way"], f"{each['a_second']:,.0f}", us(each["p50"]) if each.get("p50") else each.get("mean", "-")] for each in kept["witnesses"]]
        text += table(["by", "payload", "way", "calls/s", "p50 (perf_analyzer), mean (h2load)"], rows)
    return text


def instructions(kept):
    times = {each["path"]: each for each in kept["times"]}
    rows = [
        [path, f"{count:,}", f"{times[path]['ns'] / 1000:.2f} us", f"{times[path]['p90'] / 1000:.2f} us"] for path, count in kept["counts"].items()
    ]
    text = "## The hot paths, one by one\n\n" + about(kept["about"])
    return text + table(["path", "instructions", "p50", "p90"], rows)


def growth(kept):
    text = "## Growth\n\n" + about(kept["about"]) + "![Times and memory as they grow](results/growth.svg)\n\n"
    wrong = kept["wrong"]
    text += ("**Worse than linear:** " + "; ".join(wrong) if wrong else "No step of any curve is worse than linear.") + "\n\n"
    for curve in dict.fromkeys(point["curve"] for point in kept["points"]):
        points = [point for point in kept["points"] if point["curve"] == curve]
        keys = [key for key in points[0] if key not in ("curve", "x")]
        shown = [[f"{point['x']:,}", *(grown(key, point[key]) for key in keys)] for point in points]
        text += table([curve, *(key.replace("_ns", "").replace("_", " ") for key in keys)], shown)
    return text


def grown(key, value):
    if value is None:
        return "-"
    if key.endswith("_ns"):
        return f"{value / 1000:,.1f} us"
    return f"{value:,.0f} B" if value < 2**20 else f"{value / 2**20:,.1f} MiB"


def stages(kept):
    text = "## Where it goes\n\n" + about(kept["about"])
    text += "Means of all calls under load, eight at once, by Refrain's own histograms. `model server` is what Refrain waits for it, `rest` what lies outside both: the request's arrival, the reply's way out. Waiting for one of two processors is in all of them; CPU is not.\n\n"
    rows = []
    for each in kept["stages"]:
        rest = each["server"] - each["total"] - each["client"]
        named = [each["read"], each["judge"], each["settle"], each["total"], each["client"], rest, each["server"], each["cpu_us"]]
        rows.append([f"{each['way']}, {each['cell'].split(' | ')[1]}", *(f"{value:,.0f} us" for value in named)])
    text += table(["", "read, likeness", "judge", "settle", "all of our own", "model server", "rest", "whole call", "CPU"], rows)
    text += "Samples of `perf` in the same runs, by whose code they were in:\n\n"
    owners = list(dict.fromkeys(owner for each in kept["profiles"] for owner in each["shares"] or {}))
    rows = [[owner, *(f"{(each['shares'] or {}).get(owner, 0):.1f} %" for each in kept["profiles"])] for owner in owners]
    text += table(["", *(each["way"] for each in kept["profiles"])], rows)
    text += "The whole program, for one call more (instructions and copied bytes under valgrind, one call at a time; copies are the C library's `memcpy` and its kin, the kernel's own not counted):\n\n"
    allocated = {(each["way"], each["payload"]): each for each in kept["allocated"]}
    rows = []
    for each in kept["in_valgrind"]:
        asked = allocated[each["way"], each["payload"]]
        rows.append([
            each["way"], each["payload"], f"{each['instructions']:,.0f}", f"{each['copied']:,.0f}", f"{asked['allocations']:.0f}", f"{asked['bytes']:,.0f}",
        ])  # fmt: skip
    text += table(["", "payload", "instructions", "bytes copied", "allocations", "bytes allocated"], rows)
    rows = [[each["path"], f"{each['allocations']:.0f}", f"{each['bytes']:,.0f}"] for each in kept["allocated_by_paths"]]
    return text + table(["path", "allocations", "bytes"], rows)


def main():
    files = {part: RESULTS / f"{part}.json" for part in PARTS}
    kept = {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
    text = "# What Refrain costs beside other proxies, and where it goes\n\nWritten by `benches/run`; what is measured and how: [README.md](README.md). Every part says when and of which commit it is.\n\n"
    text += goals(kept)
    for part, tell in zip(PARTS, (compared, instructions, growth, stages)):
        if part in kept:
            text += tell(kept[part])
    (ROOT / "benches" / "RESULTS.md").write_text(text.rstrip() + "\n")
    plots.draw(kept)


if __name__ == "__main__":
    main()
