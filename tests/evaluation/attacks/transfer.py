"""A picture made at home on a model that the attacker has, and sent once to another: projected gradient descent within L-infinity (Madry et al. 2018)."""

import pathlib

import numpy as np

from attacks.kept import crafted, digest

STEPS, STEP = 20, 2 / 255


def descended(picture, label, known, levels):
    """Away from the label as the known model sees it."""
    clean, eps = picture.astype(np.float32) / 255, levels / 255
    at = clean
    for _ in range(STEPS):
        at = np.clip(np.clip(at - STEP * np.sign(known.gradient(at, label)), clean - eps, clean + eps), 0, 1)
    return at


def transfer(known, levels):
    """One query, by who has `known`."""

    def attack(attempt):
        about = "transfer", known.digest, digest(pathlib.Path(__file__)), levels, attempt.truth, attempt.picture.tobytes().hex()
        return crafted(about, lambda: descended(attempt.picture, attempt.truth, known, levels))

    return attack
