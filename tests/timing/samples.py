"""What a run saw, kept line by line as it comes, so that a run that was stopped goes on where it was.

A file is lines of JSON: objects that say what the run is of (`about`), what it looked like at its end (`ended`), how some reply looked
(`look`, named once) and what scores were given (`scores`); and a list for each reply, by COLUMNS. A run that was stopped and went on has several stretches,
each with its `about`.
"""

import json

import numpy as np

COLUMNS = ("part", "replayed", "at", "latency", "first", "pieces", "look", "around", "truth", "beside")
# Of a reply: what is compared; with a deadline; new pictures between those; taken back, and so without a reply.
PARTS = ("plain", "deadline", "between", "cancelled")
# Whether it was the right answer: none was given, the other kind's, the right one.
NONE, WRONG, RIGHT = 0, -1, 1


class Samples:
    """A file that is written, or gone on with."""

    def __init__(self, path):
        self.looks, self.rows, self.last, self.about = {}, 0, None, None
        self.counts = {}
        if path.exists():
            kept = _whole_lines(path)
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
            for line in kept:
                self._note(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def _note(self, line):
        if isinstance(line, list):
            self.counts[line[0], line[1]] = self.have(line[0], line[1]) + 1
        elif "look" in line:
            self.looks[line["text"]] = line["look"]
        else:
            self.last = next(iter(line))
            self.about = line.get("about", self.about)

    def have(self, part, replayed):
        return self.counts.get((part, int(replayed)), 0)

    def look(self, text):
        """The number of a look, told once."""
        if text not in self.looks:
            self.looks[text] = len(self.looks)
            self.say(look=self.looks[text], text=text)
        return self.looks[text]

    def say(self, **what):
        self.file.write(json.dumps(what) + "\n")
        self.file.flush()

    def reply(self, *row):
        assert len(row) == len(COLUMNS)
        self._note(list(row))
        self.file.write(json.dumps(row) + "\n")
        self.rows += 1
        if self.rows % 100 == 0:
            self.file.flush()

    def close(self):
        self.file.close()


def _whole_lines(path):
    """Every line but a last one that was cut short."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def load(path):
    """A run as columns, one value a reply, with `stretch` besides; and all that was said of it."""
    rows, stretches, said = [], [], {"about": [], "ended": [], "scores": [], "looks": {}}
    for line in _whole_lines(path):
        if isinstance(line, list):
            rows.append(line)
            stretches.append(len(said["about"]) - 1)
        elif "look" in line:
            said["looks"][line["look"]] = line["text"]
        else:
            ((what, value),) = line.items()
            said[what].append(value)
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    run = {name: np.array(values) for name, values in zip(COLUMNS, columns, strict=True)}
    run["replayed"] = run["replayed"].astype(bool)
    run["beside"] = run["beside"].astype(float)
    run["stretch"] = np.array(stretches)
    return run, said
