"""Instructions of each hot path, counted by callgrind; `--guard` compares them with those committed in benches/instructions.json.

Standard library only: the guard runs with every change.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from about import about, keep
from built import ROOT, built, valgrind

COMMITTED = ROOT / "benches" / "instructions.json"
TIMES = 5
# What a count may grow by without being a regression: counts of one program differ by less than 1 % from run to run, by the order in which keys of
# hash tables come and by where memory lies.
TOLERANCE = 0.05
# Without it the processor, and so valgrind, takes other ways through digests and transforms.
NEEDED = "avx2"


def counted(program):
    """Instructions of each path, of one turn. Callgrind ends a count where a path begins and where it ends, and counts from nought again."""
    names = subprocess.run([program, "names"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    with tempfile.TemporaryDirectory() as folder:
        dumps = [f"--dump-before=paths::a_path_{turn}" for turn in ("begins", "ends")]
        command = [*valgrind(), "--tool=callgrind", *dumps, f"--callgrind-out-file={folder}/counts", program, "count", str(TIMES)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"callgrind ended with {done.returncode}:\n{done.stderr[-2000:]}")
        parts = sorted(pathlib.Path(folder).glob("counts.*"), key=lambda part: int(part.suffix[1:]))
        texts = [part.read_text() for part in parts]
    counts = [int(re.search(r"^summary: (\d+)", text, re.M)[1]) for text in texts if "a_path_ends" in re.search(r"^desc: Trigger: (.*)", text, re.M)[1]]
    if len(counts) != len(names):
        sys.exit(f"{len(names)} paths, but {len(counts)} counts: {names} {counts}")
    return {name: round(count / TIMES) for name, count in zip(names, counts)}


def comparable():
    return NEEDED in pathlib.Path("/proc/cpuinfo").read_text()


def grown(found, committed):
    """One sentence for each path whose count is another, those that are worse first."""
    worse, better = [], []
    for name, count in found.items():
        before = committed.get(name)
        if before is None:
            worse.append(f"{name}: {count:,} instructions, and none are committed")
        elif count > before * (1 + TOLERANCE):
            worse.append(f"{name}: {count:,} instructions instead of {before:,}, {count / before - 1:+.1%}")
        elif count < before * (1 - TOLERANCE):
            better.append(f"{name}: {count:,} instructions instead of {before:,}, {count / before - 1:+.1%}")
    worse += [f"{name}: committed, but there is no such path" for name in committed.keys() - found.keys()]
    return worse, better


def guard(update):
    (program,) = built("paths", profile="dev")
    found = counted(program)
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {"counts": {}}
    if update:
        told = about("benches/run guard --update")
        told.pop("load_before")
        told.pop("binary")
        COMMITTED.write_text(json.dumps({"about": told, "reason": update, "counts": found}, indent=1) + "\n")
        return
    if not comparable():
        print(f"benches/run guard: this processor has no {NEEDED}, with which the committed counts were made: nothing is compared")
        return
    worse, better = grown(found, committed["counts"])
    if better:
        print("\n".join(["fewer instructions than committed (keep the gain with `benches/run guard --update 'why'`):", *better]))
    if worse:
        sys.exit("\n".join([
            f"benches/run guard: instructions of a hot path have grown by more than {TOLERANCE:.0%}:", *worse,
            "where it has to be so: benches/run guard --update 'the reason', and commit benches/instructions.json with the change",
        ]))  # fmt: skip
    print(f"benches/run guard: no hot path of {len(found)} takes more than {TOLERANCE:.0%} more instructions than committed")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", action="store_true", help="compare the development build with benches/instructions.json")
    parser.add_argument("--update", metavar="REASON", help="commit what is counted now instead, and why")
    asked = parser.parse_args()
    if asked.guard:
        return guard(asked.update)
    told = about("benches/run instructions")
    (program,) = built("paths")
    times = subprocess.run([program, "time"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    keep("instructions", told, {"counts": counted(program), "times": [json.loads(line) for line in times]})


if __name__ == "__main__":
    main()
