"""How a network's scores move between near-copies: what `src/scores/slope.rs` imitates. Prints a line for each kind of change.

    python steepness.py [MODEL ...]

A move is that of the logarithms of the probabilities, what moves all classes alike taken off. On the tuning split, in this process.
"""

import sys

import classifiers
import data
import numpy as np

PICTURES = 150
LEAST = 1e-12
KINDS = {"noise everywhere": (None, (1, 2, 4, 8)), "one pixel": (1, (5, 20, 80, 160)), "3 x 3 pixels": (3, (3, 10, 30, 90))}


def moves(local, picture, copies):
    """One row of moves for each of the copies."""
    logs = np.log(np.maximum(np.concatenate([local(each[np.newaxis]) for each in [picture, *copies]]), LEAST).astype(float))
    moved = logs[1:] - logs[0]
    return moved - moved.mean(axis=1, keepdims=True)


def direction(side, shape, rng):
    if side is None:
        return rng.choice([-1, 1], shape)
    change = np.zeros(shape, int)
    y, x = rng.integers(0, shape[0] - side, 2)
    change[y : y + side, x : x + side] = rng.choice([-1, 1], 3)
    return change


def cosine(one, other):
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), LEAST))


def main():
    rng = np.random.default_rng(1)
    pictures, _ = data.split("tuning")
    for name in sys.argv[1:] or [classifiers.CONVERTED]:
        local = classifiers.local(name)
        for kind, (side, levels) in KINDS.items():
            sizes, doubled, opposite, far = [], [], [], []
            for picture in pictures[:PICTURES]:
                along = direction(side, picture.shape, rng)
                copies = [np.clip(picture + by * along, 0, 255).astype(np.uint8) for by in (*levels, -levels[0], -levels[-1])]
                moved = moves(local, picture, copies)
                sizes.append(np.sqrt((moved[: len(levels)] ** 2).mean(axis=1)))
                doubled.append(cosine(moved[0], moved[1]))
                opposite.append(cosine(moved[0], moved[-2]))
                far.append(cosine(moved[len(levels) - 1], moved[-1]))
            medians = ", ".join(f"{by}: {size:.3f}" for by, size in zip(levels, np.median(sizes, axis=0), strict=True))
            uneven = np.log(np.array(sizes)[:, 1] + 1e-6).std()
            print(
                f"{name}, {kind}: moved by levels {medians}; logarithm's deviation {uneven:.1f}; "
                f"direction kept by more of it {np.median(doubled):.2f}, by the opposite {np.median(opposite):.2f} (of the largest {np.median(far):.2f})"
            )


if __name__ == "__main__":
    main()
