"""The other callers, as a program of its own, so that they take no time from who measures. Each line of standard input is an order:

    rate R        new pictures at random moments, R a second
    ramp R S      the same, up from nothing to R and down again once in S seconds
    copies K      K callers each with a near-copy in the air, all the time
    flood K S     K callers with a new picture in the air for S seconds, through the spare sidecar; says how many calls a second were answered
    count         says how many calls were answered, were refused, and were not made because too many were in the air

The end of the input ends it.
"""

import collections
import os
import random
import select
import sys
import threading
import time

import grpc
from questions import Questions, question

PATH = "/inference.GRPCInferenceService/ModelInfer"
POOL = 64
USERS = 64
# A prime, so that every user's turn with a picture comes again only after all of them had theirs.
PICTURES = 4099


class Others:
    def __init__(self, port, spare, seed):
        self.dice = random.Random(seed)
        self.questions = Questions([seed, 1])
        self.pictures = [question(self.questions.picture()) for _ in range(PICTURES)]
        self.ask, self.spare = (grpc.insecure_channel(f"127.0.0.1:{each}").unary_unary(PATH) for each in (port, spare))
        self.places, self.number = threading.Semaphore(POOL), 0
        self.count = collections.Counter()
        self.rate, self.period, self.began = 0.0, 0.0, 0.0

    def new(self):
        """A picture and who asks for it: nobody's pictures are compared with anybody else's."""
        self.number += 1
        return self.pictures[self.number % PICTURES], (("x-user", f"other-{self.number % USERS}"),)

    def send(self):
        if not self.places.acquire(blocking=False):
            self.count["skipped"] += 1
            return
        body, metadata = self.new()
        self.ask.future(body, metadata=metadata, timeout=60).add_done_callback(self.over)

    def over(self, call):
        self.places.release()
        self.count["answered" if call.code() == grpc.StatusCode.OK else "refused"] += 1

    def flood(self, callers, seconds):
        until, answered = time.monotonic() + seconds, [0] * callers

        def run(which):
            while time.monotonic() < until:
                body, metadata = self.new()
                self.spare(body, metadata=metadata, timeout=60)
                answered[which] += 1

        threads = [threading.Thread(target=run, args=(which,)) for which in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(answered) / seconds

    def copies(self, which):
        questions, metadata = Questions([which, 2]), (("x-user", f"copies-{which}"),)
        anchor = questions.picture()
        while True:
            try:
                self.ask(questions.copy(anchor), metadata=metadata, timeout=60)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
                self.count["refused"] += 1
                time.sleep(0.005)
            else:
                self.count["answered"] += 1

    def is_due(self):
        """Whether the call whose moment has come is made: on a ramp as many of those at its top as the present rate is of it."""
        turn = (time.monotonic() - self.began) / self.period % 1 if self.period else 0.5
        return self.dice.random() < 1 - abs(1 - 2 * turn)

    def obey(self, order, *numbers):
        self.began = time.monotonic()
        if order in ("rate", "ramp"):
            self.rate, self.period = float(numbers[0]), float(numbers[1]) if order == "ramp" else 0.0
        elif order == "copies":
            for which in range(int(numbers[0])):
                threading.Thread(target=self.copies, args=(which,), daemon=True).start()
        elif order == "flood":
            print(self.flood(int(numbers[0]), float(numbers[1])), flush=True)
        elif order == "count":
            print(self.count["answered"], self.count["refused"], self.count["skipped"], flush=True)
        else:
            sys.exit(f"others.py: what is {order}?")


def main(port, spare, seed):
    others, lines, due = Others(port, spare, seed), os.fdopen(sys.stdin.fileno(), "rb", buffering=0), time.monotonic()
    while True:
        wait = max(0.0, due - time.monotonic()) if others.rate else None
        if select.select([lines], [], [], wait)[0]:
            line = lines.readline()
            if not line:
                os._exit(0)
            others.obey(*line.decode().split())
            due = time.monotonic()
        else:
            if others.is_due():
                others.send()
            due += others.dice.expovariate(others.rate)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
