"""JSMA: the toolbox's SaliencyMapMethod with the model's own gradients. It needs no query; it may use the service all the same."""

import pathlib

import numpy as np
from art.attacks.evasion import SaliencyMapMethod
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, ClassGradientsMixin

from attacks.kept import crafted, digest
from attacks.library import CLASSES, SHAPE, one_hot

# The share of channel values that may be changed; as in Papernot et al.
GAMMA = 0.145


class WhiteBox(ClassGradientsMixin, BlackBoxClassifierNeuralNetwork):
    """Predictions by a function, gradients by the network itself."""

    def __init__(self, predict, known):
        super().__init__(predict, SHAPE, CLASSES, channels_first=False, clip_values=(0.0, 1.0))
        self.known = known

    def class_gradient(self, x, label=None, **_):
        # Of the logarithm: the gradient of a probability vanishes where the network is sure.
        found = []
        for picture, of in zip(x, np.broadcast_to(label, len(x)), strict=True):
            found.append(self.known.gradient(picture, of)[np.newaxis])
        return np.stack(found)


def jsma(theta, known, online):
    """Towards the attempt's target. `online` has the service say when it is reached; else the attacker's own copy of the model does."""

    def at_home(batch):
        return np.stack([known.probabilities(np.rint(each * 255) / 255) for each in batch])

    def made(attempt, predict):
        method = SaliencyMapMethod(WhiteBox(predict, known), theta=theta, gamma=GAMMA, batch_size=1, verbose=False)
        return method.generate(attempt.start, one_hot(attempt.target))

    def attack(attempt):
        if online:
            return made(attempt, attempt.predict)
        about = "jsma", known.digest, digest(pathlib.Path(__file__)), theta, attempt.target, attempt.picture.tobytes().hex()
        return crafted(about, lambda: made(attempt, at_home))

    return attack
