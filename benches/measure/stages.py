"""Where a call's time, instructions, allocations and copied bytes go; `benches/run stages` starts it."""

import collections
import json
import re
import shutil
import subprocess
import sys
import time

import cells
from about import about, keep
from built import built, valgrind
from compare import SEED, check
from world import World

STAGES = ["read", "judge", "settle", "total"]
WATCHED = [("refrain_added_latency_seconds_sum", f'stage="{stage}"') for stage in STAGES]
WATCHED += [(f"rpc_{end}_call_duration_seconds_{part}", "ModelInfer") for end, part in (("client", "sum"), ("server", "sum"), ("server", "count"))]
WAYS = {"new": ("", 0.0), "near-copies": ('[timing]\nmode = "off"', 0.95)}
# Of half a second. So many near-copies are answered in it that four of them would ask more new pictures than there are.
ROUNDS = {"new": 4, "near-copies": 2}

# Whose code a symbol is, the first that matches: by the crates that it names.
OWNERS = [
    ("kernel", r"\[k\]"),
    # What is compiled for each kind of vector unit bears the unit's name and not its own.
    ("likeness and ruling, vectors", r"fearless_simd"),
    ("reading and likeness", r"refrain::(judgment|protocol)|blake3|rustdct|rustfft|zune|image::"),
    ("ruling and store", r"refrain::session"),
    ("telemetry", r"opentelemetry|tracing|refrain::telemetry|prometheus"),
    # Sorts and logarithms are of the latencies that a hold is drawn from.
    ("time layer", r"refrain::timing|slice::sort|ieee754|log@@"),
    ("the rest of Refrain", r"refrain::"),
    ("memory: allocated, freed", r"mi_|_mi_|malloc|free"),
    ("memory: copied, compared", r"mem(cpy|move|set|cmp)|avx|erms"),
    ("HTTP/2", r"h2::|hyper|http::|http_body|bytes::|slab::"),
    ("runtime", r"tokio|futures|std::|core::|alloc::|parking|pthread|syscall|clock_gettime|vdso"),
]


def planned(way, calls=None, rounds=None, warm_up=cells.FULL):
    copies, rounds = WAYS[way][1], rounds or ROUNDS[way]
    return [
        cells.cell(way, payload, 8, [way], copies, rounds, 500, warm_up=warm_up) | {"calls": calls}
        for payload in cells.TENSORS
    ]


def by_metrics(load):
    """Refrain's own histograms over a run: the mean of each stage, of the model server's part, and of the whole."""
    rows, profiles = [], []
    with World(load) as world:
        world.upstream()
        for way, (top, _) in WAYS.items():
            world.refrain(way, f"http://127.0.0.1:{world.port}", top)
            these = planned(way)
            with profiled(world, way) as profile:
                seen = world.drive(these, SEED, WATCHED)
            if wrong := check(seen, these):
                sys.exit("\n".join(wrong))
            profiles.append({"way": way, "shares": profile.shares()})
            for each in seen:
                # Shares of all calls, so that they add up where only some calls have a stage.
                sums, calls = each["counted"][3:-1], each["counted"][-1]
                named = {stage: 1e6 * total / calls for stage, total in zip([*STAGES, "client", "server"], sums)}
                rows.append({"way": way, "cell": each["cell"], "p50": each["p50"], "cpu_us": 1e6 * each["cpu_seconds"] / each["calls"]} | named)
    return rows, profiles


class profiled:
    """`perf` beside a run, where there is one: whose code the samples were in."""

    def __init__(self, world, way):
        self.file, self.pid = world.folder / f"{way}.perf", world.ways[way]["pids"][0]

    def __enter__(self):
        perf = shutil.which("perf")
        command = [perf, "record", "-q", "-F", "999", "-e", "cpu-clock", "-p", str(self.pid), "-o", self.file]
        self.process = perf and subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.send_signal(2)
            self.process.wait(30)

    def shares(self):
        if not self.process or not self.file.exists():
            return None
        command = ["perf", "report", "-i", self.file, "--stdio", "--sort", "symbol", "-F", "overhead,symbol", "-g", "none"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        shares = collections.Counter()
        for share, symbol in re.findall(r"^\s+([\d.]+)%\s+(.*)$", told, re.M):
            owner = next((owner for owner, pattern in OWNERS if re.search(pattern, symbol)), "others")
            shares[owner] += float(share)
        return dict(shares.most_common())


def run_in_valgrind(world, tool, calls, way, payload):
    """One Refrain under valgrind that answers so many calls, one at a time; what valgrind says at its end."""
    top, copies = WAYS[way]
    name = f"{tool[0].rpartition('=')[2]}-{calls}-{way}-{payload}"
    out = world.folder / f"{name}.out"
    under = [*valgrind(), *tool, f"--{tool[0].rpartition('=')[2]}-out-file={out}"]
    process = world.refrain(name, f"http://127.0.0.1:{world.port}", top, under=under)
    cell = cells.cell(way, payload, 1, [name], copies, 1, 0, warm_up=60) | {"calls": calls, "pool": 256}
    (seen,) = world.drive([cell], SEED)
    if wrong := check([seen], [cell]):
        sys.exit("\n".join(wrong))
    process.terminate()
    process.wait(120)
    return (world.folder / f"{name}.log").read_text(), seen["calls"]


def in_valgrind(load):
    """What one call more costs the whole program: instructions, and bytes that the C library copies for it."""
    few, many = 40, 140
    tools = {
        "instructions": (["--tool=callgrind"], r"Collected : (\d+)"),
        "copied": (["--tool=dhat", "--mode=copy"], r"Total:\s+([\d,]+) bytes"),
    }
    found = []
    with World(load) as world:
        world.upstream()
        for way in WAYS:
            for payload in cells.TENSORS:
                row = {"way": way, "payload": payload}
                for what, (tool, pattern) in tools.items():
                    totals = []
                    for calls in (few, many):
                        told, made = run_in_valgrind(world, tool, calls, way, payload)
                        totals.append((int(re.search(pattern, told)[1].replace(",", "")), made))
                    (less, some), (more, all_of_them) = totals
                    row[what] = (more - less) / (all_of_them - some)
                found.append(row)
    return found


def allocated(load, program):
    """What the whole program asks of its allocator for a call."""
    found = []
    with World(load) as world:
        world.upstream()
        for way, (top, copies) in WAYS.items():
            process = world.refrain(way, f"http://127.0.0.1:{world.port}", top, binary=program, stdin=subprocess.PIPE)
            log = world.folder / f"{way}.log"
            for payload in cells.TENSORS:
                cell = cells.cell(way, payload, 1, [way], copies, 1, 0, warm_up=300)
                world.drive([cell | {"calls": 1}], SEED)
                before = totals(process, log)
                (seen,) = world.drive([cell | {"calls": 500, "warm_up": 0}], SEED + 1)
                after = totals(process, log)
                found.append({"way": way, "payload": payload} | {key: (after[key] - before[key]) / seen["calls"] for key in after})
    paths = subprocess.run([program, "paths"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return found, [json.loads(line) for line in paths.splitlines()]


def totals(process, log):
    before = log.read_text().count('{"allocations"')
    process.stdin.write(b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + 10
    while log.read_text().count('{"allocations"') == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return json.loads(re.findall(r'\{"allocations".*?\}', log.read_text())[-1])


def main():
    told = about("benches/run stages")
    load, program = built("load", "allocations")
    stages, profiles = by_metrics(load)
    calls, paths = allocated(load, program)
    keep("stages", told, {
        "stages": stages, "profiles": profiles, "allocated": calls, "allocated_by_paths": paths, "in_valgrind": in_valgrind(load),
    })  # fmt: skip


if __name__ == "__main__":
    main()
