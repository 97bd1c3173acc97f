"""Natural evolution strategies: a gradient estimated from antithetic pairs of noisy copies, and steps along its sign (Ilyas et al. 2018)."""

import numpy as np

PAIRS = 10  # noisy copies on either side for one estimate
NOISE = 2 / 255  # their standard deviation: below one level they would be the same 8-bit picture
STEP = 2 / 255


def nes(levels):
    """Away from the true class, within L-infinity."""
    eps = levels / 255

    def attack(attempt):
        clean = attempt.start[0]
        at = clean.copy()
        while True:
            gradient = np.zeros_like(clean)
            for _ in range(PAIRS):
                noise = np.random.normal(size=clean.shape).astype(np.float32)
                for sign in (1, -1):
                    probabilities = attempt.predict(np.clip(at + sign * NOISE * noise, 0, 1)[np.newaxis])[0]
                    gradient += sign * float(np.log(max(probabilities[attempt.truth], 1e-12))) * noise
            at = np.clip(np.clip(at - STEP * np.sign(gradient), clean - eps, clean + eps), 0, 1)
            attempt.predict(at[np.newaxis])

    return attack
