"""Refrain beside no proxy, Envoy and nginx, on the same payloads in one run; `benches/run compare` starts it."""

import argparse
import sys

import cells
import report
import witnesses
from about import about, keep
from built import built
from world import World

SEED = 8
HELD_OFF = '[timing]\nmode = "off"'


def ways(world, wanted):
    """Starts what `wanted` names, and nothing else: an idle proxy wakes now and then too."""
    tcp, unix = f"http://127.0.0.1:{world.port}", f"unix:{world.socket}"
    free = f"127.0.0.1:{world.port}"
    tops = {"off": 'mode = "off"', "observe": 'mode = "observe"', "enforce": "", "unheld": HELD_OFF}
    for way in sorted(wanted):
        kind, _, how = way.partition("-")
        workers = 1 if how == "1" else 2
        socket = f"unix:{world.folder}/{way}.sock" if how == "unix" else None
        if kind == "direct":
            world.way(way, unix if how == "unix" else free, [])
        elif kind in tops:
            world.refrain(way, unix if socket else tcp, tops[kind], workers, socket)
        elif kind in ("envoy", "nginx"):
            getattr(world, kind)(way, unix if socket else free, workers, socket)
        else:
            raise ValueError(f"no way is called {way}")


def triton_ways(world, port):
    address = f"127.0.0.1:{port}"
    world.way("triton", address)
    world.refrain("triton-off", f"http://{address}", 'mode = "off"')
    world.refrain("triton-enforce", f"http://{address}")
    world.refrain("triton-unheld", f"http://{address}", HELD_OFF)
    world.envoy("triton-envoy", address)
    world.nginx("triton-nginx", address)


def check(seen, planned):
    """A figure is worth nothing if the calls went another way than its name says."""
    payloads = {cell["name"]: cell["payload"] for cell in planned}
    wrong = []
    for each in seen:
        where = f"{each['cell']}, {each['way']}"
        if each["failed"]:
            wrong.append(f"{where}: {each['failed']} calls failed: {each['said']}")
        if not each["counted"] or "off" in each["way"].split("-"):
            continue
        rows = int(payloads[each["cell"]].partition("rows-")[2] or 1)
        forwarded, replayed, rejected = each["counted"][:3]
        if (forwarded, replayed, rejected) != (each["new"] * rows, each["copies"] * rows, 0):
            wrong.append(
                f"{where}: of {each['new']} new requests and {each['copies']} near-copies of {rows} rows "
                f"{forwarded:.0f} rows were forwarded, {replayed:.0f} replayed, {rejected:.0f} rejected"
            )
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="three payloads, one call and eight at once, nothing replayed")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    asked = parser.parse_args()
    (load,) = built("load")
    told = about(f"benches/run compare{' --quick' if asked.quick else ''}{f' --only {asked.only!r}' if asked.only else ''}")
    planned = [cell for cell in (cells.quick() if asked.quick else cells.full()) if asked.only in cell["name"]]
    before_triton = [] if asked.quick else [cell for cell in cells.triton() if asked.only in cell["name"]]
    seen, witnessed = [], []
    if planned:
        with World(load) as world:
            world.upstream()
            ways(world, {way for cell in planned for way in cell["ways"]})
            seen += world.drive(planned, SEED)
            if not asked.quick and not asked.only:
                witnessed += witnesses.h2load(world)
    if before_triton:
        with World(load) as world:
            triton_ways(world, world.triton("clf_u8", "heavy_u8").grpc)
            seen += world.drive(before_triton, SEED)
            if not asked.only:
                witnessed += witnesses.perf_analyzer(world)
    wrong = check(seen, planned + before_triton)
    figures = {"cells": planned + before_triton, "seen": seen, "witnesses": witnessed, "wrong": wrong}
    kept = keep("compare-quick" if asked.quick else "compare", told, figures)
    if asked.quick:
        print(report.goals({"compare": kept}) + report.compared(kept))
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
