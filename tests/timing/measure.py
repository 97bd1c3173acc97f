"""One run: replayed and forwarded replies of equal form, in random order, as one caller sees them."""

import collections
import contextlib
import datetime
import gc
import os
import pathlib
import subprocess
import time

import numpy as np
import world  # first: it says where the others are

from probe import Connection  # isort: skip
from questions import Questions  # isort: skip
from samples import NONE, RIGHT, WRONG, Samples  # isort: skip

USER = "measures"
# Pictures of which copies may be asked again: few enough to be remembered all of them.
BASES = 32
# Calls before the count begins: more than a stratum remembers, and the two kinds mixed as they will be.
WARM_UP = 200
# Of calls that are made to be taken back, each after up to so many seconds.
CANCELLED, CANCEL_WITHIN = 0.25, 0.01
SCORES = 300
BESIDE = {
    "none": "",
    # Others' near-copies take every place, of those that are held and of those whose answer is dropped.
    "cap": "held = 2\nshadows = 2",
    # A place that is not given back shows at once.
    "cancels": "held_per_caller = 2\nshadows_per_caller = 0",
    # A new picture is asked for right after each call, before its answer; or another question of the same kind.
    "companion": "",
    "couples": "",
    # The caller has the last processor to himself, as one who is far away has; the servers have the others.
    "apart": "",
    # Nothing, and new pictures and copies in turns: no copy ever comes at a moment at which a new picture comes.
    "turns": "",
}
FILLERS = 4


class Plan:
    """Calls to be made, and the question of each, ready before the first is sent: random order, each kind equally often in each part."""

    def __init__(self, seed):
        self.questions, self.dice, self.bases, self.number = Questions(seed), np.random.default_rng(seed), collections.deque(maxlen=BASES), 0

    def calls(self, counts, turns=False):
        """`counts`: how many of each (part, replayed). Made in random order, or in `turns`: the kinds one after another, as often as there are any left. Returns (part, replayed, which picture, question, seconds until it is taken back, another question)."""
        numbered = [(at, kind) for kind, count in counts.items() for at in range(count)]
        order = sorted(range(len(numbered)), key=lambda at: numbered[at][0]) if turns else self.dice.permutation(len(numbered))
        planned = []
        for at in order:
            _, (part, replayed) = numbered[at]
            if replayed and self.bases:
                base, picture = self.bases[self.dice.integers(len(self.bases))]
            else:
                self.number += 1
                base, picture = self.number, self.questions.picture()
                replayed = False
                # Who was told no answer cannot say which one to expect.
                if part in ("plain", "between", "warm"):
                    self.bases.append((base, picture))
            back = self.dice.uniform(0, CANCEL_WITHIN)
            planned.append((part, replayed, base, self.questions.copy(picture), back))
        return planned


    def companions(self, calls, alike):
        """Of each kind as many questions as there are `calls` of it: all about new pictures, or those beside copies about one and the same picture (`alike`)."""
        known = self.questions.picture()
        new, copies = ([call for call in calls if call[1] == kind] for kind in (False, True))
        return {
            False: collections.deque(self.questions.copy(self.questions.picture()) for _ in new),
            True: collections.deque(self.questions.copy(known if alike else self.questions.picture()) for _ in copies),
        }


class Caller:
    """Makes the calls, checks each answer, and writes down what was seen."""

    def __init__(self, port, samples, companion=None):
        self.port, self.connection, self.samples, self.companion = port, Connection(port, USER), samples, companion
        self.answers, self.latest, self.given = {}, collections.deque(maxlen=512), collections.deque(maxlen=SCORES)
        self.recent = collections.deque(maxlen=400)
        self.began = time.monotonic()

    def call(self, part, replayed, base, body, back):
        at = round(time.monotonic() - self.began, 3)
        if part == "cancelled":
            self.connection.cancel_after(body, back)
            self.samples.reply(part, int(replayed), at, 0, 0, 0, -1, -1, NONE, 0)
            return
        timeout = f"{int(1e6 * np.median(self.recent))}u" if part == "deadline" else None
        if self.companion:
            other, questions = self.companion
            seen, second = self.connection.ask(body, timeout, (other, questions[replayed].popleft()))
        else:
            seen, second = self.connection.ask(body, timeout), None
        if replayed and base not in self.answers:
            return  # its picture was never answered, so this was a new one
        truth = self._truth(replayed, base, seen)
        if timeout is None:
            self.recent.append(seen.latency)
        if replayed:
            self.given.append((base, body, seen.body))
        elif seen.status == "0":
            self.answers[base] = seen.body
            self.latest.append(seen.body)
        if part == "warm":
            return
        look, around = (self.samples.look(text) for text in (f"{seen.frames} {seen.headers} {len(seen.body)}", seen.around))
        times = (round(seconds, 7) for seconds in (seen.latency, seen.first))
        self.samples.reply(
            part, int(replayed), at, *times, seen.pieces, look, around, truth, round(second.latency, 7) if second else 0
        )

    def miss_one(self, questions):
        """The connection's table of headers knows from here on those of a reply that comes too late: written in full, the first would look like no other."""
        self.connection.ask(questions.copy(questions.picture()), "1u")

    def _truth(self, replayed, base, seen):
        if seen.status != "0":
            return NONE
        right = seen.body == self.answers[base] if replayed else seen.body not in self.latest
        return RIGHT if right else WRONG


def scores(body):
    """The scores of an answer, where they are numbers."""
    from tritonclient.grpc import service_pb2 as pb

    raw = pb.ModelInferResponse.FromString(body).raw_output_contents
    return np.frombuffer(raw[0], np.float32).tolist() if raw and len(raw[0]) % 4 == 0 else []


def ask_anew(port, caller, samples):
    """What the model would have said to near-copies that were answered from memory: asked by somebody who has no past."""
    for turn, (base, body, given) in enumerate(caller.given):
        fresh = Connection(port, f"anew-{turn}")
        seen = fresh.ask(body)
        fresh.close()
        if given and base in caller.answers and seen.status == "0":
            samples.say(scores=[scores(caller.answers[base]), scores(given), scores(seen.body)])


@contextlib.contextmanager
def no_collection():
    """Python's collector stops nothing meanwhile."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextlib.contextmanager
def on(processors):
    """This process, and what it starts meanwhile, runs on these processors alone."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def commit():
    said = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True, cwd=world.ROOT)
    return said.stdout.strip() or "unknown"


def run(path: pathlib.Path, mode, load, beside, count, deadlines, seed, top=""):
    """Asks until `path` has `count` replies of each kind, and `deadlines` more of each that half of all miss."""
    samples = Samples(path)
    this = {"mode": mode, "load": load, "beside": beside, "seed": seed, "top": top, "binary": world.binary()}
    other = {name: value for name, value in this.items() if samples.about and samples.about[name] != value}
    assert not other, f"{path} holds another run, of {samples.about}: move it away"
    wanted = {("plain", kind): count for kind in (False, True)}
    if beside == "cancels":
        wanted |= {("cancelled", kind): int(count * CANCELLED) for kind in (False, True)}
    late = {("deadline", False): deadlines, ("deadline", True): deadlines, ("between", False): deadlines}
    missing = [{kind: most - samples.have(*kind) for kind, most in part.items()} for part in (wanted, late)]
    if samples.last == "ended" and all(left <= 0 for part in missing for left in part.values()):
        samples.close()
        return
    seed_here = [seed, sum(samples.counts.values())]
    plan = Plan(seed_here)
    turns = beside == "turns"
    warm = plan.calls({("warm", False): BASES + 8}) + plan.calls({("warm", kind): WARM_UP // 2 for kind in (False, True)}, turns)
    parts = [plan.calls(part, turns) for part in missing]
    configured = world.configured(mode, BESIDE[beside], top)
    *others_have, last = sorted(os.sched_getaffinity(0))
    apart = beside == "apart"
    assert others_have or not apart, "apart takes two processors at least"
    # What can be answered is measured through a sidecar of its own: the other remembers nothing of it.
    with contextlib.ExitStack() as stack:
        with on(others_have) if apart else contextlib.nullcontext():
            port, spare, upstream = stack.enter_context(world.sidecars(configured, configured))
            others = stack.enter_context(world.Others(port, spare, seed))
        about = {
            **this, "count": count, "commit": commit(), "date": str(datetime.date.today()),
            "a_call": world.seconds_a_call(upstream), "capacity": others.capacity(),
        }  # fmt: skip
        about["rate"] = about["capacity"] * world.LOADS[load]
        samples.say(about=about)
        if load == "ramp":
            others.tell("ramp", about["rate"], world.RAMP_SECONDS)
        elif about["rate"]:
            others.tell("rate", about["rate"])
        if beside == "cap":
            others.tell("copies", FILLERS)
        companion = None
        if beside in ("companion", "couples"):
            others_too = plan.companions(warm + parts[0] + parts[1], alike=beside == "couples")
            companion = Connection(port, f"{USER}-too"), others_too
        caller = Caller(port, samples, companion)
        with no_collection(), on({last}) if apart else contextlib.nullcontext():
            caller.miss_one(plan.questions)
            for each in warm:
                caller.call(*each)
            before, began, others_before = world.asked(upstream), time.monotonic(), others.count()
            for each in parts[0]:
                caller.call(*each)
            # Others' calls still under way would be counted on one side only: the figures are of some 1 % in that.
            after, others_after = world.asked(upstream), others.count()
            took = time.monotonic() - began
            for each in parts[1]:
                caller.call(*each)
        forwarded = sum(not replayed for _, replayed, *_ in parts[0])
        if beside in ("none", "apart") and load == "idle":
            ask_anew(port, caller, samples)
        samples.say(
            ended={
                "seconds": took,
                "asked": after[0] - before[0],
                "forwarded": forwarded,
                "busy": (after[1] - before[1]) / took if took else 0,
                "others": [late - early for late, early in zip(others_after, others_before, strict=True)],
            }
        )
    samples.close()
