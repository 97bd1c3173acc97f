"""The other callers: new pictures at random moments, so that the model server is as busy as is asked for.

Run as a program of its own, so that it takes no time from who measures. Each line on standard input sets the rate in calls a
second from then on; the end of the input ends it.
"""

import os
import random
import select
import sys
import threading
import time

import grpc
import pictures
from questions import question

PATH = "/inference.GRPCInferenceService/ModelInfer"
POOL = 64


def main(port, seed):
    dice = random.Random(seed)
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    ask = channel.unary_unary(PATH)
    places = threading.Semaphore(POOL)
    number, rate, due = 0, 0.0, time.monotonic()
    lines = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)
    while True:
        wait = max(0.0, due - time.monotonic()) if rate else None
        if select.select([lines], [], [], wait)[0]:
            line = lines.readline()
            if not line:
                return
            rate, due = float(line), time.monotonic()
            continue
        number += 1
        due += dice.expovariate(rate)
        # A caller each: nobody's pictures are compared with anybody else's.
        if places.acquire(blocking=False):
            call = ask.future(question(pictures.drawn(seed + number)), metadata=(("x-user", f"other-{number % 64}"),), timeout=60)
            call.add_done_callback(lambda _: places.release())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
