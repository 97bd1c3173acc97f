"""How time and memory grow; `benches/run growth` starts it. It fails where a step is worse than linear."""

import json
import re
import subprocess
import sys

import cells
from about import about, keep
from built import built
from compare import SEED, ways
from world import World

CONNECTIONS = [1, 10, 100, 300, 1000]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128]
# What a step may cost beyond its share: points differ by so much from run to run, and so much is nothing.
SLACK, NOTHING = 1.3, 20_000

# Bytes of an answer in the curves of the store: `SCORES` in benches/paths/growth.rs.
ANSWER = 40

# Of each curve: what it is told by, and in which unit.
TIMES = {
    "anchors": ["new_ns", "copy_ns"],
    "rows": ["new_ns"],
    "sessions": ["known_ns"],
    "rows of a call": ["p50_ns", "direct_ns"],
    "connections": ["p50_ns", "direct_ns"],
}


def in_process(program):
    done = subprocess.run([program, "growth"], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def over_sockets(load):
    """Real calls: batches of so many rows, and the same eight callers over so many connections."""
    both = ["direct", "enforce"]
    batches = [cells.cell("rows", f"rows-{rows}", 1, both, rounds=3, slice_ms=200) for rows in ROWS]
    many = []
    for connections in CONNECTIONS:
        each = cells.cell("connections", "3KiB", 8, both, rounds=3, slice_ms=300)
        many.append(each | {"connections": connections, "name": f"connections {connections}"})
    with World(load) as world:
        world.upstream()
        ways(world, set(both))
        pids = world.ways["enforce"]["pids"]
        at_rest = resident(pids[0])
        seen = world.drive(many + batches, SEED)
    if failed := [each["said"] for each in seen if each["failed"]]:
        sys.exit(f"calls failed: {failed[0]}")
    points = []
    for planned in many + batches:
        direct, through = (next(each for each in seen if (each["cell"], each["way"]) == (planned["name"], way)) for way in both)
        curve, x = ("connections", planned["connections"]) if planned in many else ("rows of a call", int(re.search(r"\d+", planned["payload"])[0]))
        point = {"curve": curve, "x": x, "p50_ns": 1000 * through["p50"], "direct_ns": 1000 * direct["p50"], "resident": through["resident"]}
        points.append(point)
    return points, at_rest


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) << 10


def steps(points):
    """What grew worse than linearly from one point of a curve to the next, one sentence each."""
    wrong = []
    for curve, keys in TIMES.items():
        on_it = [point for point in points if point["curve"] == curve]
        for key in keys:
            for one, other in zip(on_it, on_it[1:]):
                most = one[key] * other["x"] / one["x"] * SLACK + NOTHING
                if other[key] > most:
                    wrong.append(f"{curve}, {key}: {one[key] / 1000:.1f} us at {one['x']:,}, {other[key] / 1000:.1f} us at {other['x']:,}")
    return wrong


def main():
    told = about("benches/run growth")
    load, program = built("load", "paths")
    points = in_process(program)
    further, at_rest = over_sockets(load)
    points += further
    wrong = steps(points)
    keep("growth", told, {"points": points, "answer": ANSWER, "at_rest": at_rest, "wrong": wrong})
    sys.exit("\n".join(["worse than linear:", *wrong]) if wrong else None)


if __name__ == "__main__":
    main()
