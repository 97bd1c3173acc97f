"""The plots of RESULTS.md."""

import statistics

import matplotlib
from about import RESULTS

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "refrain"
from matplotlib import pyplot  # noqa: E402

COLOURS = {"off": "tab:olive", "observe": "tab:cyan", "enforce": "tab:red", "envoy": "tab:purple", "nginx": "tab:green", "direct": "tab:gray"}


def beside(one, other, at):
    return statistics.median(a[at] / b[at] for a, b in zip(one["rounds"], other["rounds"]) if b[at])


def draw(kept):
    if "compare" in kept:
        compared(kept["compare"])
    if "growth" in kept:
        growth(kept["growth"])


def title(told):
    return f"{told['date']}, commit {told['commit']}, {told['machine']}"


def save(figure, name):
    figure.tight_layout()
    figure.savefig(RESULTS / name, metadata={"Date": None})
    pyplot.close(figure)


def compared(kept):
    """Of each cell over TCP: medians, and calls a second, as multiples of Envoy's."""
    cells = [cell for cell in kept["cells"] if cell["group"] == "TCP"]
    by = {(each["cell"], each["way"]): each for each in kept["seen"]}
    figure, axes = pyplot.subplots(2, 1, figsize=(14, 8), sharex=True)
    panels = ["median, multiples of Envoy's (lower is better)", "calls a second, the same (higher is better)"]
    for at_hand, (axis, label) in enumerate(zip(axes, panels)):
        for place, way in enumerate(COLOURS):
            heights = [
                beside(by[cell["name"], way], by[cell["name"], "envoy"], at_hand) if {(cell["name"], way), (cell["name"], "envoy")} <= by.keys() else 0 for cell in cells
            ]
            axis.bar([at + (place - 2.5) * 0.14 for at in range(len(cells))], heights, 0.14, label=way, color=COLOURS[way])
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_ylabel(label)
    axes[0].set_title(f"TCP, nothing replayed; {title(kept['about'])}")
    axes[0].legend(ncols=6)
    axes[1].set_xticks(range(len(cells)), [f"{cell['payload']}\n{cell['concurrency']} at once" for cell in cells], fontsize=8)
    save(figure, "compare.svg")


def growth(kept):
    """Times on the left axis of each curve, memory for each on the right."""
    curves = list(dict.fromkeys(point["curve"] for point in kept["points"]))
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 9))
    for spare in axes.flat[len(curves) :]:
        spare.remove()
    for axis, curve in zip(axes.flat, curves):
        points = [point for point in kept["points"] if point["curve"] == curve]
        for key in (key for key in points[0] if key.endswith("_ns")):
            axis.plot([point["x"] for point in points], [point[key] / 1000 for point in points], "o-", label=key.removesuffix("_ns").replace("_", " "))
        # A straight line: twice as much of one is twice as much of the other.
        key = next(key for key in points[0] if key.endswith("_ns"))
        last = points[-1]
        axis.plot([point["x"] for point in points], [last[key] / 1000 * point["x"] / last["x"] for point in points], ":", color="silver", label="linear")
        least = min(point[key] for point in points for key in point if key.endswith("_ns")) / 1000
        axis.set(ylim=(least / 2, None))
        axis.set(xscale="log", yscale="log", xlabel=curve, ylabel="us")
        if "accounted" in points[0] or "resident" in points[0]:
            right = axis.twinx()
            for key, style in (("accounted", "s--"), ("resident", "^:")):
                known = [point for point in points if point.get(key)]
                if not known:
                    continue
                right.plot([point["x"] for point in known], [point[key] for point in known], style, color="gray", label=f"bytes, {key}")
            right.set(ylabel="bytes each" if "accounted" in points[0] else "bytes in all", ylim=(0, None))
            right.legend(loc="lower right", fontsize=7)
        axis.legend(loc="upper left", fontsize=7)
    figure.suptitle(title(kept["about"]))
    save(figure, "growth.svg")
