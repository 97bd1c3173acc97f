"""The Adversarial Robustness Toolbox's attacks, each as a function of an attempt; its own defaults where nothing is said.

Every attack asks one picture at a time (the attempt sees to it), and is seeded by numpy's global generator.
"""

import warnings

import numpy as np

warnings.filterwarnings("ignore", message="PyTorch not found")

from art.attacks import evasion  # noqa: E402
from art.estimators.classification import BlackBoxClassifierNeuralNetwork  # noqa: E402

SHAPE, CLASSES = (32, 32, 3), 10
MANY = 1_000_000  # iterations: the budget ends the attack


def estimator(attempt):
    """The service as the toolbox sees it. A plain BlackBoxClassifier is refused by half of its attacks."""
    return BlackBoxClassifierNeuralNetwork(attempt.predict, SHAPE, CLASSES, channels_first=False, clip_values=(0.0, 1.0))


def one_hot(label):
    return np.eye(CLASSES, dtype=np.float32)[[label]]


def one_pixel(count):
    """Su et al.: differential evolution over `count` pixels, 400 candidates a generation."""

    def attack(attempt):
        label = attempt.truth if attempt.target is None else attempt.target
        generations = (attempt.asker.budget or 10_000) // 400
        made = evasion.PixelAttack(estimator(attempt), th=count, es=1, max_iter=max(1, generations), targeted=attempt.target is not None)
        return made.generate(attempt.start, one_hot(label))

    return attack


def square(levels):
    """Andriushchenko et al., within L-infinity."""

    def attack(attempt):
        attempt.logs = True
        budget = attempt.asker.budget or 10_000
        made = evasion.SquareAttack(estimator(attempt), eps=levels / 255, max_iter=budget, batch_size=1, verbose=False)
        return made.generate(attempt.start, one_hot(attempt.truth))

    return attack


def simba(attempt):
    """Guo et al., over pixels in random order."""
    made = evasion.SimBA(estimator(attempt), attack="px", order="random", epsilon=0.2, max_iter=attempt.asker.budget or 10_000, verbose=False)
    return made.generate(attempt.start, one_hot(attempt.truth))


def noise(attempt):
    """A picture of noise that is seen as another class: where decision-based attacks begin."""
    for _ in range(100):
        drawn = np.random.uniform(0, 1, (1, *SHAPE)).astype(np.float32)
        if attempt.predict(drawn)[0].argmax() != attempt.truth:
            return drawn
    return None


def hop_skip_jump(attempt):
    """Chen et al., L2."""
    begin = noise(attempt)
    if begin is None:
        return None
    made = evasion.HopSkipJump(estimator(attempt), max_iter=MANY, batch_size=1, verbose=False)
    return made.generate(attempt.start, one_hot(attempt.truth), x_adv_init=begin)


def boundary(attempt):
    """Brendel et al."""
    begin = noise(attempt)
    if begin is None:
        return None
    made = evasion.BoundaryAttack(estimator(attempt), targeted=False, max_iter=MANY, batch_size=1, verbose=False)
    return made.generate(attempt.start, one_hot(attempt.truth), x_adv_init=begin)


def zoo(attempt):
    """Chen et al.: coordinate descent on differences. Its step is of five levels: the service takes 8-bit pictures, and the toolbox's own rounds to none."""
    attempt.logs = True
    made = evasion.ZooAttack(
        *(estimator(attempt), 0.0, False, 0.1),
        max_iter=MANY,
        binary_search_steps=1,
        initial_const=10.0,
        abort_early=False,
        use_resize=False,
        use_importance=False,
        nb_parallel=64,
        variable_h=5 / 255,
        verbose=False,
    )
    return made.generate(attempt.start, one_hot(attempt.truth))
