"""One caller who asks for one picture at a time, knows what he has spent, and knows for each reply whether the model was asked."""

import dataclasses
import functools
import itertools
import os

import numpy as np
import tritonclient.grpc as client
from tritonclient.utils import InferenceServerException

SECONDS = 900  # a machine that is shared may stand still for a while
_callers = itertools.count()


class Spent(Exception):
    """The budget is used up."""


class Refused(Exception):
    """The call was refused (RESOURCE_EXHAUSTED): a near-copy that may not be answered from memory."""


@dataclasses.dataclass
class Answer:
    """What came back for one picture."""

    probabilities: np.ndarray
    label: int
    serial: int  # of the row that the model computed for it
    replayed: bool  # this caller has had that row before


@functools.cache
def connection(address):
    return client.InferenceServerClient(address)


class Asker:
    """A session of its own unless `caller` names one. `budget` bounds the calls, refused ones too."""

    def __init__(self, address, model, caller=None, budget=None):
        self.address, self.model, self.budget = address, model, budget
        self.caller = caller or f"caller-{os.getpid()}-{next(_callers)}"
        self.asked = self.forwarded = self.replayed = self.refused = 0
        self.serials = set()

    def ask(self, picture):
        """The answer for one picture, 8-bit RGB; raises `Spent` or `Refused`."""
        if self.budget is not None and self.asked >= self.budget:
            raise Spent
        self.asked += 1
        (answer,) = self._ask(np.ascontiguousarray(picture)[np.newaxis])
        return answer

    def ask_together(self, pictures):
        """The answers for several pictures in one call, each of which counts."""
        if self.budget is not None and self.asked + len(pictures) > self.budget:
            raise Spent
        self.asked += len(pictures)
        return self._ask(np.ascontiguousarray(pictures))

    def _ask(self, pictures):
        assert pictures.dtype == np.uint8, pictures.dtype
        tensor = client.InferInput("image", list(pictures.shape), "UINT8")
        tensor.set_data_from_numpy(pictures)
        try:
            reply = connection(self.address).infer(self.model, [tensor], headers={"x-user": self.caller}, client_timeout=SECONDS)
        except InferenceServerException as failure:
            if "RESOURCE_EXHAUSTED" not in str(failure.status()):
                raise
            self.refused += len(pictures)
            raise Refused(str(failure)) from None
        answers = []
        for probabilities, serial in zip(reply.as_numpy("probabilities"), reply.as_numpy("serial")[:, 0], strict=True):
            replayed = int(serial) in self.serials
            self.serials.add(int(serial))
            self.replayed += replayed
            self.forwarded += not replayed
            answers.append(Answer(probabilities, int(probabilities.argmax()), int(serial), replayed))
        return answers
