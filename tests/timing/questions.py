"""Questions about pictures, as bytes, all of one length and of one form, whichever way they are going to be answered.

Every question is a copy of some drawn picture in which one pixel differs. The first copy of a picture is new to who is asked; any later one
is a near-copy. So nothing in a request tells the two kinds apart, but what was asked before. All of them are made before the first is sent: who draws
between two calls gives the server a rest, and a longer one before some calls than before others.
"""

import numpy as np
from tritonclient.grpc import service_pb2 as pb

MODEL = "heavy_u8"
SIDE = 32
AT_ONCE = 512


def question(picture):
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="image", datatype="UINT8", shape=[1, *picture.shape])
    request.raw_input_contents.append(picture.tobytes())
    return request.SerializeToString()


class Questions:
    """Any number of questions, of each seed others."""

    def __init__(self, seed):
        self.dice, self.drawn = np.random.default_rng(seed), np.empty((0, SIDE, SIDE, 3), np.uint8)
        steps = np.arange(SIDE)
        self.falls = (1 + np.add.outer(steps, steps)) ** 1.5
        self.basis = np.cos(np.outer(steps + 0.5, steps) * np.pi / SIDE)

    def picture(self):
        """A cloudy, colourful picture unlike every other, as rich in detail as photographs are."""
        if not len(self.drawn):
            waves = self.dice.standard_normal((AT_ONCE, 3, SIDE, SIDE)) / self.falls
            waves = waves.mean(axis=1, keepdims=True) + 0.5 * waves  # colours mostly agree
            field = (self.basis @ waves @ self.basis.T).transpose(0, 2, 3, 1)
            field -= field.mean(axis=(1, 2), keepdims=True)
            self.drawn = np.clip(128 + field / field.std(axis=(1, 2, 3), keepdims=True) * 55, 1, 254).astype(np.uint8)
        picture, self.drawn = self.drawn[0], self.drawn[1:]
        return picture

    def copy(self, picture):
        """The question about a copy in which one pixel differs by at least 100 levels in each channel: 10^7 different ones."""
        copy = picture.copy()
        row, column = self.dice.integers(2, SIDE - 2, 2)
        copy[row, column] += self.dice.integers(100, 157, 3, np.uint8)
        return question(copy)
