"""How far an adversarial picture may be from the clean one. Decision-based attacks return some adversarial picture, however far: it counts within these alone."""

import numpy as np


def linf(levels):
    """No channel of any pixel changed by more than so many of 255 levels."""
    return lambda clean, other: int(np.abs(clean.astype(int) - other).max()) <= levels


def l2(share=0.05):
    """Root mean square change of at most `share` of the full range: L2 / sqrt(d)."""
    return lambda clean, other: float(np.sqrt(np.mean((clean.astype(float) - other) ** 2))) <= 255 * share


def pixels(count):
    """At most so many pixels changed."""
    return lambda clean, other: int((clean != other).any(axis=-1).sum()) <= count


def features(share):
    """At most such a share of all channel values changed."""
    return lambda clean, other: float((clean != other).mean()) <= share
