"""Plots of the attacks' sections."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from attacks.cells import FIELDS  # noqa: E402

SEEN, QUERIES = FIELDS.index("seen"), FIELDS.index("queries")
STYLES = {"bare": ("black", "-"), "paper": ("tab:orange", "--"), "hardened": ("tab:blue", "-"), "hardened, not sent": ("tab:blue", ":")}


def success_by_queries(cells, into):
    """For each attack: the share of pictures whose wrong label was seen within so many queries."""
    attacks = list(dict.fromkeys((cell["row"][0], cell["row"][1]) for cell in cells))
    columns = min(4, len(attacks))
    lines = -(-len(attacks) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(3.1 * columns, 2.4 * lines), squeeze=False, sharey=True)
    for axis in axes.flat[len(attacks) :]:
        axis.axis("off")
    for (model, attack), axis in zip(attacks, axes.flat, strict=False):
        for name, (colour, line) in STYLES.items():
            of = [cell for cell in cells if tuple(cell["row"][:2]) == (model, attack) and cell["cell"] == name]
            if not of:
                continue
            most = max(of, key=lambda cell: int(str(cell["row"][2]).replace(",", "")))
            budget, outcomes = int(str(most["row"][2]).replace(",", "")), most["outcomes"]
            won = sorted(row[QUERIES] for row in outcomes if row[SEEN])
            shares = [number / len(outcomes) for number in range(len(won) + 1)]
            axis.step([1, *won, budget], [*shares, shares[-1]], where="post", color=colour, linestyle=line, label=name)
        axis.set(title=f"{attack}\n{model}", xscale="log", ylim=(-0.03, 1.03), xlabel="queries")
        axis.title.set_fontsize(9)
    axes[0, 0].set_ylabel("seen wrong")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(into, dpi=110)
    pyplot.close(figure)


def beside_the_paper(rows, into):
    """One group of bars for each row: the paper's figure with its defence, ours under both profiles; `rows` are (name, paper without, paper with, bare, paper profile, hardened)."""
    figure, axis = pyplot.subplots(figsize=(max(8, 0.5 * len(rows)), 3.8))
    series = ["the paper: without", "the paper: with", "here: bare", "here: paper profile", "here: hardened"]
    colours = ["0.7", "0.45", "black", "tab:orange", "tab:blue"]
    for number, (name, colour) in enumerate(zip(series, colours, strict=True)):
        places = [at + 0.16 * (number - 2) for at in range(len(rows))]
        axis.bar(places, [row[number + 1] for row in rows], 0.16, color=colour, label=name)
    axis.set_xticks(range(len(rows)), [row[0] for row in rows], rotation=60, ha="right", fontsize=7)
    axis.set(ylabel="success, seen in the session", ylim=(0, 1.02))
    axis.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    figure.savefig(into, dpi=110)
    pyplot.close(figure)
