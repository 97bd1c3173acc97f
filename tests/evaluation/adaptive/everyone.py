"""All attackers that the paper ignores, one after another: a table of what came off."""

import argparse
import dataclasses
import importlib
import sys

from report import Section, percent, share, table

from adaptive.ground import Ground, World

ATTACKERS = ["two_queries", "blinding", "drift", "packing", "spreading", "outside", "growing", "at_home", "decoys", "identities", "patience"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=ATTACKERS, choices=ATTACKERS)
    parser.add_argument("--name", default="adaptive")
    args = parser.parse_args()
    with (
        Section(args.name, "The attackers that the paper ignores", args.seed) as section,
        World("cifar", "cifar-float", "cropped", "picked") as world,
    ):
        section.data["figures"] = []
        for name in args.only:
            attacker = importlib.import_module(f"adaptive.{name}")
            section.text += f"### {attacker.NAME}\n\n{attacker.__doc__}\n\n"
            found = []
            for figure in attacker.measure(Ground(world, args.images, args.seed)):
                print(figure, file=sys.stderr, flush=True)
                found.append(figure)
            section.text += told(found) + "\n"
            section.data["figures"] += [dataclasses.asdict(figure) for figure in found]
            section.write()


def told(figures):
    """A row for each variant, a column for each profile that it met."""
    profiles = list(dict.fromkeys(figure.profile for figure in figures))
    rows = {}
    for figure in figures:
        rows.setdefault((figure.variant, figure.counted), {})[figure.profile] = figure
    return table(["variant", "counted", *profiles], [[*key, *(cell(of.get(profile)) for profile in profiles)] for key, of in rows.items()])


def cell(figure):
    """The share, and whether its goal was met where it has one."""
    if figure is None:
        return ""
    goal = "" if figure.goal is None else " met" if figure.hits <= figure.goal * figure.of else f" **missed**: goal {percent(figure.goal)}"
    return share(figure.hits, figure.of) + goal


if __name__ == "__main__":
    main()
