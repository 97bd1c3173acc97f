"""Saved runs into RESULTS.md and latencies.svg, and the reasons not to believe them: controls that were not found."""

import datetime
import os
import pathlib
import platform
import subprocess

import matplotlib
import numpy as np
from distinguish import could_show, judge, judge_scores
from samples import load

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

MODES = ["off", "mean", "sample", "bucket", "shadow"]
LOADS = ["idle", "50", "90", "ramp"]
# Seconds; nothing at all is the control of the controls, and is found once in a hundred runs.
CONTROLS = [0.0, 0.0001, 0.0003]
GOAL_SAMPLE, GOAL_SHADOW = 1_000, 100_000
# Of the calls that others were to make: fewer is another load than the one named.
OTHERS = 0.8
# What has changed since in how calls run, by the commit that changed it: the report says which runs are older.
CHANGES = {}


def number(value):
    return "not reached" if not np.isfinite(value) else f"{value:,.0f}"


def n_star(told):
    if told is None:
        return "-"
    most = f"; at most {number(told.n_star_most)}" if np.isfinite(told.n_star_most) else ""
    computed = ", extrapolated" if told.extrapolated and np.isfinite(told.n_star) else ""
    return f"{number(told.n_star)}{computed} (at least {number(told.n_star_least)}{most})"


def auc(told):
    return f"{told.auc:.3f} ± {told.auc_error:.3f}" if told else "-"


def title(about):
    top = f", {about['top']}" if about["top"] else ""
    seed = f", seed {about['seed']}" if about["seed"] != 1 else ""
    beside = "" if about["beside"] == "none" else f", {about['beside']}"
    return f"{about['mode']}, {about['load']}{' %' if about['load'].isdigit() else ''}{beside}{seed}{top}"


def table(head, rows):
    lines = ["| " + " | ".join(cells) + " |\n" for cells in rows]
    return "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n" + "".join(lines) + "\n"


def times(runs):
    rows = []
    for about, _, verdict in runs:
        ratios = " / ".join(f"{ratio:.3f} ({low:.3f}..{high:.3f})" for ratio, low, high in verdict.ratios)
        rows.append([
            title(about), f"{verdict.replies:,}", f"{verdict.ks:.3f} ({verdict.ks_by_chance:.3f}; p {verdict.ks_p:.3f})", auc(verdict.time),
            n_star(verdict.time), auc(verdict.informed), n_star(verdict.informed), f"{number(could_show(verdict.replies))}", f"{100 * verdict.audit:.1f} %", ratios,
        ])  # fmt: skip
    head = ["run", "replies each", "KS D (by chance)", "AUC", "N*", "AUC, the call before known", "N*, the same", "could show", "audit rejects", "p50 / p95 / p99, replayed over forwarded"]
    return table(head, rows)


def others(runs):
    rows = []
    for about, said, verdict in runs:
        late = "-"
        if verdict.late:
            forwarded, replayed, apart, low, high = verdict.late
            late = f"{forwarded:.1f} % / {replayed:.1f} %: {apart:+.1f} ({low:+.1f}..{high:+.1f})"
        scores = judge_scores(said["scores"])
        rows.append([
            title(about), *(f"{each.auc:.3f} ({each.kinds})" if each else "-" for each in (verdict.looks, verdict.around)), late,
            f"{verdict.late_looks.auc:.3f} ({verdict.late_looks.kinds})" if verdict.late_looks else "-",
            *(f"{each.auc:.3f}; {n_star(each)}" if each else "-" for each in (verdict.after, verdict.beside)),
            f"{scores.auc:.3f}" if scores else "-", "{} / {}".format(*verdict.unanswered), str(verdict.wrong),
        ])  # fmt: skip
    head = [
        "run", "looks: AUC (kinds)", "around them", "deadlines missed, forwarded / replayed, in points", "their looks", "the call after: AUC; N*",
        "a call beside: AUC; N*", "scores: AUC", "refused, forwarded / replayed", "wrong answers",
    ]  # fmt: skip
    return table(head, rows)


def circumstances(runs):
    rows = []
    for about, said, verdict in runs:
        ended = said["ended"]
        seconds = sum(each["seconds"] for each in ended) or 1
        made, refused, skipped = (sum(each["others"][at] for each in ended) for at in range(3))
        rows.append([
            title(about), str(about["seed"]), about["date"], about["commit"], about["binary"], str(len(said["about"])), f"{1000 * about['a_call']:.2f} ms",
            f"{about['capacity']:.0f}", f"{about['rate']:.0f}", f"{made / seconds:.0f} ({refused}, {skipped})",
            f"{100 * np.average([each['busy'] for each in ended], weights=[each['seconds'] + 1e-9 for each in ended]):.0f} %" if ended else "stopped",
            f"{sum(each['asked'] for each in ended):,} ({sum(each['forwarded'] for each in ended):,})", f"{verdict.memory:.2f}",
        ])  # fmt: skip
    head = [
        "run", "seed", "date", "commit", "program", "stretches", "a call", "capacity, 1/s", "others asked, 1/s", "others answered, 1/s (refused, not made)",
        "model at work", "model asked (for this caller's new pictures)", "likeness of neighbours",
    ]  # fmt: skip
    return table(head, rows)


def controls(runs):
    rows = []
    for about, _, verdict in runs:
        for added, told in verdict.controls.items():
            name = f"{title(about)}: {1000 * added:.1f} ms"
            rows.append([name, auc(told), n_star(told), "found" if told.found else "not found"])
    return table(["added to half of the forwarded replies", "AUC", "N*", ""], rows)


def goals(runs):
    rows = []
    for about, _, verdict in runs:
        could = could_show(verdict.replies)
        judged = [("", verdict.time), (", the call before known", verdict.informed)]
        for known, time in judged if about["beside"] in ("none", "apart") and about["mode"] in ("sample", "shadow") else []:
            goal = GOAL_SAMPLE if about["mode"] == "sample" else GOAL_SHADOW
            if time.n_star_least >= goal:
                met = "met"
            elif time.n_star_most < goal:
                met = "missed"
            elif about["mode"] == "shadow" and not time.found:
                met = f"nothing was found; as many replies could show {number(could)} at most"
            else:
                met = f"neither shown nor excluded; as many replies could show {number(could)} at most"
            rows.append([title(about), f"N* at least {goal:,}{known}", n_star(time), met])
        if about["mode"] not in ("off", "mean") and about["beside"] != "cap":
            same = verdict.looks.auc == 0.5
            rows.append([title(about), "bytes and headers: AUC 0.50 exactly", f"{verdict.looks.auc:.3f}", "met" if same else "missed"])
    return table(["run", "goal", "measured", ""], rows)


def unlike(runs):
    """Every look of a run in which there were several, and how often it came on either path."""
    text = ""
    for about, said, verdict in runs:
        run = said["run"]
        for part, column in (("plain", "look"), ("plain", "around"), ("deadline", "look")):
            which = run["part"] == part
            seen = np.unique(run[column][which])
            if len(seen) < 2:
                continue
            text += f"**{title(about)}**, {'with a deadline' if part == 'deadline' else 'frames of the connection' if column == 'around' else 'replies'}:\n\n"
            for look in seen:
                counts = [int((which & (run[column] == look) & (run["replayed"] == kind)).sum()) for kind in (False, True)]
                text += f"* {counts[0]:,} forwarded, {counts[1]:,} replayed: `{said['looks'][int(look)] or 'none'}`\n"
            text += "\n"
    return text


def doubts(runs):
    """Why the figures must not be believed."""
    found, by_name = [], {(about["mode"], about["load"], about["beside"]): verdict for about, _, verdict in runs}
    hidden = by_name.get(("sample", "idle", "none"))
    if hidden is None:
        found.append("there is no run of `sample` at idle, and so no control")
    else:
        for added, told in hidden.controls.items():
            if added and not told.found:
                found.append(f"{1000 * added:.1f} ms added to forwarded replies were not found: too few replies, or the machine was not at rest")
    for mode in ("off", "mean"):
        verdict = by_name.get((mode, "idle", "none"))
        if verdict and not verdict.informed.found:
            found.append(f"`{mode}` was not told apart")
    for about, said, verdict in runs:
        if verdict.wrong:
            found.append(f"{title(about)}: {verdict.wrong} answers were the other kind's")
        asked, forwarded, seconds = (sum(each[what] for each in said["ended"]) for what in ("asked", "forwarded", "seconds"))
        due = about["rate"] * seconds * (0.5 if about["load"] == "ramp" else 1)
        made = sum(each["others"][0] for each in said["ended"])
        if made < OTHERS * due:
            found.append(f"{title(about)}: others made {made} calls where {due:.0f} were due")
        if about["load"] == "idle" and about["beside"] in ("none", "apart", "turns") and about["mode"] != "shadow" and asked != forwarded:
            found.append(f"{title(about)}: the model was asked {asked} times for {forwarded} new pictures")
    return found


def outdated(runs):
    """Which runs measured a program that lacks one of the changes. Commits that git does not know are passed over."""
    text = ""
    for change, what in CHANGES.items():
        lack = [about for about, *_ in runs if is_before(about["commit"], change)]
        which = "all runs" if len(lack) == len(runs) else "; ".join(title(about) for about in lack)
        text += f"Measured before {what} ({change}): {which}. The present program's times may be others.\n\n" if lack else ""
    return text


def is_before(commit, change):
    ancestry = ["git", "merge-base", "--is-ancestor", change, commit.removesuffix("-dirty")]
    return subprocess.run(ancestry, cwd=pathlib.Path(__file__).parent, capture_output=True).returncode == 1


def plot(runs, into):
    runs = [each for each in runs if each[0]["beside"] == "none"] or runs
    modes = [mode for mode in MODES if any(about["mode"] == mode for about, *_ in runs)]
    loads = [load for load in LOADS if any(about["load"] == load for about, *_ in runs)]
    figure, axes = pyplot.subplots(len(modes), len(loads), figsize=(4 * len(loads), 2 * len(modes)), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for about, said, _ in runs:
        axis, run = axes[modes.index(about["mode"]), loads.index(about["load"])], said["run"]
        axis.set_axis_on()
        plain = run["part"] == "plain"
        latency, replayed = 1000 * run["latency"][plain], run["replayed"][plain]
        edges = np.linspace(0 if about["mode"] == "off" else 0.9 * latency.min(), np.percentile(latency, 99), 80)
        for kind, label in ((False, "forwarded"), (True, "replayed")):
            axis.hist(latency[replayed == kind], edges, density=True, histtype="step", label=label)
        axis.set_title(f"{about['mode']}, {about['load']}{' %' if about['load'].isdigit() else ''}", fontsize=9)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
    figure.legend(*axes[modes.index(runs[0][0]["mode"]), loads.index(runs[0][0]["load"])].get_legend_handles_labels(), fontsize=8, loc="upper right")
    figure.supxlabel("latency, ms, up to the 99th percentile of both", fontsize=8)
    figure.tight_layout()
    # The same runs make the same file.
    figure.savefig(into, metadata={"Date": None})
    pyplot.close(figure)


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    return f"{os.cpu_count()}-core machine ({cpu}), {memory / (1 << 20):.0f} GiB"


def order(about):
    return about["beside"] != "none", about["beside"], LOADS.index(about["load"]), MODES.index(about["mode"]), about["seed"], about["top"]


def write(folder: pathlib.Path, into: pathlib.Path, command):
    """Writes both files; says whether the figures must be doubted."""
    runs = []
    for path in sorted(folder.glob("*.jsonl")):
        run, said = load(path)
        if (run["part"] == "plain").sum() < 100:
            print(f"tests/timing: {path.name} is too short to be judged")
            continue
        about = said["about"][-1]
        verdict = judge(run, CONTROLS if about["mode"] == "sample" and about["beside"] in ("none", "apart") else ())
        runs.append((about, said | {"run": run}, verdict))
    if not runs:
        print(f"tests/timing: there are no runs in {folder}")
        return True
    runs.sort(key=lambda each: order(each[0]))
    found = doubts(runs)
    text = (
        "# Replayed against forwarded replies, as one caller sees them\n\n"
        f"Written on {datetime.date.today()} by `{command}` from runs on a {machine()}; client, Refrain, Triton and the other callers share it. "
        "[README.md](README.md) says what each figure is. `latencies.svg` shows both distributions.\n\n"
    )
    text += outdated(runs)
    if found:
        text += "**These figures prove nothing:**\n\n" + "".join(f"* {doubt}\n" for doubt in found) + "\n"
    text += "## Goals\n\n" + goals(runs) + "## By time\n\n" + times(runs) + "Controls: what must be found, and is known to be there.\n\n" + controls(runs)
    text += "## By anything else\n\n" + others(runs) + unlike(runs) + "## Circumstances\n\n" + circumstances(runs)
    into.mkdir(parents=True, exist_ok=True)
    (into / "RESULTS.md").write_text(text.rstrip() + "\n")
    plot(runs, into / "latencies.svg")
    print(text)
    for doubt in found:
        print(f"tests/timing: FAILED: {doubt}")
    return bool(found)
