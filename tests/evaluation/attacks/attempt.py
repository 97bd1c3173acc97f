"""One attack on one picture by one caller: what the attack library asks, what it is told, and what came of it."""

import dataclasses

import numpy as np
from asking import Asker, Refused, Spent

CLASSES = 10
# Asked again, a picture costs the attacker nothing: he remembers. An attack that only repeats itself ends here all the same.
IDLE_CALLS = 20


class Found(Exception):
    """The service has given a wrong label for a picture within the norm: there is nothing left to search."""


@dataclasses.dataclass
class Outcome:
    """What one attempt came to."""

    index: int  # of the picture in its split
    seen: bool  # a wrong label was given within the norm, in the attacker's own session
    bare: bool  # what the attacker ends with fools the model itself
    fresh: bool  # and through the guard, asked by a caller without a past
    queries: int
    tries: int  # pictures within the norm among them, the clean one aside
    forwarded: int
    refused: int


class Attempt:
    """`predict` is what the attack library calls, with pictures as floats of 0..1.

    `clean` says whether the clean picture is sent; where not, the attacker answers that question for himself, from the label
    that he knows. A refused call tells him nothing more than that label either. `logs` gives the library log-probabilities.
    """

    def __init__(self, asker, picture, truth, within, target=None, clean=True, logs=False):
        self.asker, self.picture, self.truth, self.within, self.target = asker, picture, int(truth), within, target
        self.clean, self.logs = clean, logs
        self.memory, self.idle = {}, 0
        self.tries = 0
        self.adversary = None  # the first picture within the norm that was seen wrong
        self.best, self.best_margin = None, np.inf
        self.known = np.full(CLASSES, 0.001, np.float32)
        self.known[self.truth] = 0.991
        if clean:
            self.known = self.answer(picture)

    @property
    def start(self):
        return self.picture[np.newaxis].astype(np.float32) / 255

    def fools(self, label):
        return label != self.truth if self.target is None else label == self.target

    def predict(self, batch):
        batch = np.asarray(batch, np.float32).reshape(-1, *self.picture.shape)
        rows = np.stack([self.answer(np.clip(np.rint(each * 255), 0, 255).astype(np.uint8)) for each in batch])
        return np.log(np.maximum(rows, 1e-12)) if self.logs else rows

    def answer(self, picture):
        """The probabilities for one picture: remembered, known, or asked."""
        key = picture.tobytes()
        if key in self.memory:
            self.idle += 1
            if self.idle > IDLE_CALLS * (self.asker.budget or 10_000):
                raise Spent
            return self.memory[key]
        if not self.clean and np.array_equal(picture, self.picture):
            return self.known
        try:
            answer = self.asker.ask(picture)
        except Refused:
            return self.known
        self.memory[key] = answer.probabilities
        self.note(picture, answer)
        return answer.probabilities

    def note(self, picture, answer):
        if not self.within(self.picture, picture) or np.array_equal(picture, self.picture):
            return
        self.tries += 1
        if self.fools(answer.label):
            self.adversary = picture
            raise Found
        others = np.delete(answer.probabilities, self.truth)
        margin = float(answer.probabilities[self.truth] - others.max())
        if self.target is not None:
            margin = -float(answer.probabilities[self.target])
        if margin <= self.best_margin:
            self.best, self.best_margin = picture, margin

    def run(self, attack):
        """Runs `attack` to its end, success or the end of the budget; returns the picture that the attacker ends with."""
        ended = None
        try:
            made = attack(self)
            if made is not None:
                ended = np.clip(np.rint(np.asarray(made).reshape(self.picture.shape) * 255), 0, 255).astype(np.uint8)
                self.answer(ended)  # he submits it
        except (Found, Spent):
            pass
        if self.adversary is not None:
            return self.adversary
        usable = ended is not None and self.within(self.picture, ended) and not np.array_equal(ended, self.picture)
        return ended if usable else self.best


def seeded(seed, index):
    """Sets the generator that the attacks draw from, by the run's seed and the picture."""
    np.random.seed((seed * 100_003 + int(index)) % 2**32)


def judged(attempt, index, ended, local, guarded):
    """The outcome, success counted three ways; `guarded` is the guard's address, asked by a new caller."""
    bare = fresh = False
    if ended is not None:
        bare = attempt.fools(int(local(ended[np.newaxis])[0].argmax()))
        fresh = attempt.fools(Asker(guarded, attempt.asker.model).ask(ended).label)
    asker = attempt.asker
    return Outcome(index, attempt.adversary is not None, bare, fresh, asker.asked, attempt.tries, asker.forwarded, asker.refused)
