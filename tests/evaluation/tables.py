"""The paper's tables and the other attacks: `tables.py one_pixel|jsma|searches|suspicions|transfer|classifiers [--images N] [--queries N] [--seed S]`."""

import argparse
import contextlib
import json
import sys

import classifiers
import data
from attacks import library, norms, paper, plots
from attacks.cells import FIELDS, Ground, Recorded
from report import RESULTS, Section, percent, share, table
from world import World

THREE = "Each cell: a wrong label seen within the norm in the attacker's own session / his last picture fools the model itself / it fools it through the guard in a fresh session (upper 95 % bound of the first; how many of those seen came off at the attack's first picture, and how many queries had been forwarded at the median one)."
SENT = "*Sent first*: the attacker sends the clean picture before his probes; *not sent*: he never does."


def arrow(pair):
    return "-" if pair is None else f"{percent(pair[0])} → {percent(pair[1])}"


# What an attack meets, by the name of the cell: a guard, and whether the clean picture is sent first.
CELLS = {"bare": ("bare", True), "paper": ("paper", True), "hardened": ("hardened", True), "hardened, not sent": ("hardened", False)}


def option(cell):
    """A cell's name as it is written on a command line: paper, not-sent."""
    return cell.removeprefix("hardened, ").replace(" ", "-")


def met(place, named, attack, within, queries, skipped=(), targeted=False):
    """The cells of one row."""
    return {
        cell: place.cell(named, guard, attack, within, queries, clean=clean, targeted=targeted)
        for cell, (guard, clean) in CELLS.items()
        if option(cell) not in skipped
    }


def three(cells, *names):
    return [cells[name].three() if name in cells else "" for name in names]


class Rows:
    """Cells as rows of a table, written as they come."""

    def __init__(self, section, head, before, plot=None):
        self.section, self.head, self.before, self.plot, self.rows, self.bars = section, head, before, plot, [], []
        section.data.update(fields=FIELDS, cells=[])

    def add(self, row, printed=None, **cells):
        """`printed` is what the paper says of this row: (without, with)."""
        self.rows.append(row)
        if printed and {"paper", "hardened"} <= cells.keys():
            rates = [cells[name].hits("seen") / len(cells[name].outcomes) for name in ("bare", "paper", "hardened")]
            self.bars.append((" ".join(str(cell) for cell in row[:3] if "→" not in str(cell)), *printed, *rates))
        for name, cell in cells.items():
            self.section.data["cells"].append({"row": row[:3], "cell": name, "outcomes": cell.rows()})
        self.section.text = self.before + "\n\n" + table(self.head, self.rows)
        if self.plot:
            self.section.text += f"\n![{self.section.title}]({self.section.name}.png)\n"
            self.plot(self, RESULTS / f"{self.section.name}.png")
        self.section.write()
        print(row, flush=True)


@contextlib.contextmanager
def grounds(asked, section, models):
    """A function of a model to what its cells come from: attacks, or with `--again` the section's own record of them."""
    if not asked.again:
        section.data["asked"] = vars(asked) | {"models": models}
        with World(models) as world:

            def place(model):
                section.places.append(Ground(world, model, asked.images, asked.seed))
                return section.places[-1]

            yield place
        return
    recorded = json.loads((RESULTS / f"{section.name}.json").read_text())
    section.data["asked"], section.about = recorded["asked"], recorded["about"]
    cells = iter(recorded["cells"])
    with contextlib.suppress(StopIteration):  # the run was cut short
        yield lambda model: Recorded(cells)


def bars(rows, into):
    plots.beside_the_paper(rows.bars, into)


def curves(rows, into):
    plots.success_by_queries(rows.section.data["cells"], into)


def of_classifiers(asked):
    """Each classifier's accuracy on the report split."""
    pictures, labels = data.split("report")
    rows = []
    with Section(asked.section or "classifiers", "The classifiers", asked.seed) as section:
        for name in classifiers.made():
            right = int((classifiers.local(name)(pictures).argmax(1) == labels).sum())
            about = classifiers.about(name)
            made = f"{about['epochs']} epochs in {about['seconds']} s" if about else "as it comes (PyPI cifar-10-model 7.4.0)"
            rows.append([name, f"{percent(right / len(labels))}", f"{about.get('parameters', 968_394):,}", made])
        section.text = "Accuracy on the 2,500 test images of the report split.\n\n" + table(["classifier", "accuracy", "parameters", "trained"], rows)
        section.data["classifiers"] = rows


def of_the_table(asked, its_own):
    """The classifiers asked for, or those of the table that are there."""
    if others := set(asked.models or []) - set(its_own):
        sys.exit(f"{asked.name}: {', '.join(sorted(others))} not in this table, which has {', '.join(its_own)}")
    return asked.models or [name for name in classifiers.made() if name in its_own]


def of_one_pixel(asked):
    """Tables 2 and 3."""
    models = of_the_table(asked, [classifiers.CONVERTED, *paper.ONE_PIXEL])
    with Section(asked.section or "one_pixel", "The paper's Tables 2 and 3: the one-pixel attack", asked.seed) as section, grounds(asked, section, models) as of:
        head = ["model", "pixels", "", "the paper, without → with", "bare: seen", "`paper`, sent first", "`hardened`, sent first", "`hardened`, not sent"]
        rows = Rows(section, head, f"{asked.images} pictures a cell that the bare model gets right, at most {asked.queries:,} queries each. {THREE} {SENT}", bars)
        for model in models:
            place = of(model)
            for count in (1, 3, 5):
                for targeted in (True, False):
                    attack, within = library.one_pixel(count), norms.pixels(count)
                    cells = met(place, f"one-pixel {count}", attack, within, asked.queries, asked.skip, targeted)
                    printed = paper.ONE_PIXEL[model][count][0 if targeted else 1] if model in paper.ONE_PIXEL else None
                    way = "targeted" if targeted else "not targeted"
                    rows.add(
                        [model, count, way, arrow(printed), cells["bare"].rate("seen"), *three(cells, "paper", "hardened", "hardened, not sent")],
                        printed,
                        **cells,
                    )


def of_jsma(asked):
    """Table 1."""
    from attacks.saliency import GAMMA, jsma
    from classifiers.gradients import Known

    models = of_the_table(asked, paper.JSMA)
    with Section(asked.section or "jsma", "The paper's Table 1: JSMA", asked.seed) as section, grounds(asked, section, models) as of:
        head = ["model", "theta", "the paper, without → with", "bare: seen", "`paper`, after its clean picture", "`hardened`, after it", "`hardened`, without it", "`hardened`, predictions by the service"]
        before = (
            f"{asked.images} pictures a cell that the bare model gets right, each towards one other class, at most {100 * GAMMA:.1f} % of the channel values changed. "
            "JSMA has the model itself: it needs no query, and what it makes is submitted once, after its clean picture or without it. "
            f"In the last column the service's answers end the search, and every step is a query. {THREE}"
        )
        rows = Rows(section, head, before, bars)
        within = norms.features(GAMMA + 0.001)  # the toolbox stops after the step that passes it
        for model in models:
            place, known = of(model), None if asked.again else Known(model)
            for theta, printed in paper.JSMA[model].items():
                once, steps = jsma(theta, known, online=False), jsma(theta, known, online=True)
                cells = met(place, f"JSMA {theta} at home", once, within, asked.queries, asked.skip, True)
                if "hardened" not in asked.skip:
                    cells["hardened, steps"] = place.cell(f"JSMA {theta}", "hardened", steps, within, asked.queries, targeted=True)
                of_each = three(cells, "paper", "hardened", "hardened, not sent", "hardened, steps")
                rows.add([model, theta, arrow(printed), cells["bare"].rate("seen"), *of_each], printed, **cells)


SEARCHES = {
    "Square 8/255": (library.square(8), norms.linf(8)),
    "Square 16/255": (library.square(16), norms.linf(16)),
    "Square 24/255": (library.square(24), norms.linf(24)),
    "SimBA": (library.simba, norms.l2()),
    "HopSkipJump": (library.hop_skip_jump, norms.l2()),
    "Boundary": (library.boundary, norms.l2()),
    "ZOO": (library.zoo, norms.l2()),
}


def short(name):
    """An attack's name as it is written on a command line: Square8, HopSkipJump."""
    return name.removesuffix("/255").replace(" ", "")


def of_searches(asked):
    """Square, SimBA, HopSkipJump, Boundary, ZOO."""
    models = asked.models or [classifiers.CONVERTED]
    with Section(asked.section or "searches", "Other attacks that search by asking", asked.seed) as section, grounds(asked, section, models) as of:
        head = ["model", "attack", "queries", "bare: seen", "one try", "`paper`, sent first", "`hardened`, sent first", "`hardened`, not sent"]
        before = (
            f"{asked.images} pictures a row that the bare model gets right. {THREE} {SENT} The norm of Square is L-infinity as named, of the others L2/sqrt(d) ≤ 0.05. "
            "*One try*: the bare model is fooled by the first picture that the attack makes, before it has learnt anything; no defence that compares queries can stop that where the clean picture is not sent."
        )
        rows = Rows(section, head, before, curves)
        for model in models:
            place = of(model)
            for name, (attack, within) in SEARCHES.items():
                if asked.only and short(name) not in asked.only:
                    continue
                for queries in asked.budgets:
                    cells = met(place, name, attack, within, queries, asked.skip)
                    at_once = share(cells["bare"].at_once(), len(cells["bare"].outcomes))
                    bare = f"{cells['bare'].rate('seen')}, median {cells['bare'].queries()}"
                    of_each = three(cells, "paper", "hardened", "hardened, not sent")
                    rows.add([model, name, f"{queries:,}", bare, at_once, *of_each], **cells)


SUSPICIONS = (0, 1, 2, 4, 8)


def of_suspicions(asked):
    """What suspect rows are worth to an attack that are forwarded before the session is suspected."""
    model = (asked.models or [classifiers.CONVERTED])[0]
    with Section(asked.section or "suspicions", "What forwarded suspects are worth to an attack", asked.seed) as section, grounds(asked, section, [model]) as of:
        head = ["attack", "clean picture", *(f"`suspicions = {count}`" for count in SUSPICIONS)]
        before = (
            f"{asked.images} pictures of {model} a cell that the bare model gets right, at most {asked.queries:,} queries each, profile `hardened`, which forwards none by default. "
            f"A suspect that is forwarded is answered by the model itself. {THREE}"
        )
        rows = Rows(section, head, before)
        place = of(model)
        for name, clean in (("HopSkipJump", True), ("Boundary", True), ("Square 16/255", False), ("SimBA", False)):
            if asked.only and short(name) not in asked.only:
                continue
            attack, within = SEARCHES[name]
            cells = {}
            for count in SUSPICIONS:
                guard = f"[store]\nbytes = \"1GiB\"\nsuspicions = {count}\n"
                cells[str(count)] = place.cell(name, guard, attack, within, asked.queries, clean=clean)
            rows.add([name, "sent first" if clean else "not sent", *(cell.three() for cell in cells.values())], **cells)


def of_transfer(asked):
    """White-box and transfer attacks, which need one query."""
    from attacks.transfer import transfer
    from classifiers.gradients import Known

    of_his_own = [name for name in ("lenet", "cnn", "resnet") if name in classifiers.made()]
    with Section(asked.section or "transfer", "What needs no search: white-box and transfer", asked.seed) as section:
        models = [*of_his_own, classifiers.CONVERTED]
        with grounds(asked, section, models) as of:
            head = ["made on", "sent to", "within", "bare: fooled", "`hardened`, after its clean picture", "`hardened`, without it"]
            before = (
                f"{asked.images} pictures a row that the model asked gets right, changed at home by projected gradient descent on a model that the attacker has, and sent once. {THREE}"
            )
            rows = Rows(section, head, before)
            places = {model: of(model) for model in models}
            for source in of_his_own:
                known = None if asked.again else Known(source)
                for model in (source, classifiers.CONVERTED):
                    for levels in (8, 16):
                        attack, named = transfer(known, levels), f"PGD {levels}/255 on {source}"
                        cells = met(places[model], named, attack, norms.linf(levels), asked.queries, [*asked.skip, "paper"])
                        of_each = three(cells, "hardened", "hardened, not sent")
                        rows.add([source, "itself" if model == source else model, f"{levels}/255", cells["bare"].rate("seen"), *of_each], **cells)


COMMANDS = {"classifiers": of_classifiers, "one_pixel": of_one_pixel, "jsma": of_jsma, "searches": of_searches, "suspicions": of_suspicions, "transfer": of_transfer}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=COMMANDS)
    parser.add_argument("--images", type=int, default=100, help="pictures in each cell")
    parser.add_argument("--queries", type=int, default=10_000, help="the budget of an attempt")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1_000, 10_000], help="those of `searches`")
    parser.add_argument("--models", nargs="+", help="classifiers (default: those of the table that are there)")
    parser.add_argument("--only", nargs="+", choices=[short(name) for name in SEARCHES], help="attacks of `searches` and `suspicions`")
    parser.add_argument("--skip", nargs="+", default=[], choices=[option(cell) for cell in CELLS if cell != "bare"], help="cells that are left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--section", help="another name for the section that is written")
    parser.add_argument("--again", action="store_true", help="attack nothing: write the section again from its record")
    asked = parser.parse_args()
    if asked.again:
        recorded = json.loads((RESULTS / f"{asked.section or asked.name}.json").read_text())["asked"]
        asked = argparse.Namespace(**recorded | {"again": True})
    COMMANDS[asked.name](asked)
