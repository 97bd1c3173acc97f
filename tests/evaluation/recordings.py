"""What the sweep is tried on, all of the tuning split: the queries that attacks ask of the bare classifier, and honest traffic with the models' own labels."""

import hashlib
import pickle

import classifiers
import data
import numpy as np
from adaptive.blinding import TRANSFORMS
from adaptive.ground import probe
from asking import Spent
from attacks import library
from attacks.attempt import Attempt
from honest import kinds
from honest.drawn import blank, drawn, gradient, icon, page

FOLDER = data.FETCHED / "recordings"
ATTACKS = {
    "Square 8/255": library.square(8),
    "Square 16/255": library.square(16),
    "SimBA": library.simba,
    "one-pixel (3)": library.one_pixel(3),
    "HopSkipJump": library.hop_skip_jump,
    "Boundary": library.boundary,
}


class Bare:
    """The classifier in this process, asked as an `Asker` is."""

    class Answer:
        def __init__(self, probabilities):
            self.probabilities, self.label = probabilities, int(probabilities.argmax())

    def __init__(self, network, budget):
        self.network, self.budget, self.asked = network, budget, 0

    def ask(self, picture):
        if self.asked >= self.budget:
            raise Spent
        self.asked += 1
        return self.Answer(self.network(picture[np.newaxis])[0])


def attacks(pictures, queries, seed):
    """{attack: sequences of pictures as they were asked, the clean one first}; no success ends them early."""
    network = classifiers.local(classifiers.CONVERTED)
    tuning, labels = data.split("tuning")
    right = np.flatnonzero(network(tuning[:500]).argmax(1) == labels[:500])[:pictures]
    return {
        name: [_recorded(network, attack, tuning[at], labels[at], queries, [seed, at]) for at in right] for name, attack in ATTACKS.items()
    }


BLINDS = [
    "flip",
    "rotation ≤ 10°",
    "shift ≤ 4 px",
    "crop ≥ 80 %",
    "brightness ± 50 %",
    "noise 20",
    "a fifth of noise",
    "rotation ≤ 15°, crop ≥ 80 %, flip at random",
]


def blinded(pictures, probes, seed):
    """{transform: sequences}: the clean picture, and probes of it that were turned, shifted or noised and keep their label."""
    network = classifiers.local(classifiers.CONVERTED)
    tuning, labels = data.split("tuning")
    right = np.flatnonzero(network(tuning[:500]).argmax(1) == labels[:500])[:pictures]
    made = {}
    for name in BLINDS:
        random, made[name] = np.random.default_rng(seed), []
        for at in right:
            sent = np.stack([TRANSFORMS[name](probe(tuning[at], random), random) for _ in range(probes)])
            made[name].append(np.concatenate([tuning[at][np.newaxis], sent[network(sent).argmax(1) == labels[at]]]))
    return made


def _recorded(network, attack, picture, label, queries, seed):
    np.random.seed(np.random.SeedSequence(seed).generate_state(1))
    attempt = Attempt(Bare(network, queries), picture, label, lambda clean, other: False)
    attempt.run(attack)
    return np.stack([np.frombuffer(asked, np.uint8).reshape(picture.shape) for asked in attempt.memory])


def honest(rows, seed):
    """{kind: (sessions, the model's labels of each)}; of photographs and clips the tuning half."""
    made = {
        "CIFAR-10 shuffled": kinds.shuffled(rows, seed, "tuning"),
        "CIFAR-10 augmented": _augmented(rows // 2, seed),
    }
    for share in (2, 4, 8):
        made[f"CIFAR-10 night 1/{share}"] = [np.concatenate(kinds.faded(data.split("tuning")[0][: rows // 4], 1 / share, 8))]
    photos, tiles = kinds.photographs()[::2], kinds.cut()[::2][: rows // 4]
    made["photographs and tiles"] = [np.stack([*photos, *tiles])]
    made["photographs, night 1/8"] = [np.concatenate(kinds.faded([*photos, *tiles][: rows // 4], 1 / 8, 8))]
    made |= {
        name: [drawn(kind, rows // 8, seed + 1000)]
        for name, kind in {"pages": page, "icons": icon, "blank": blank, "gradients": gradient}.items()
    }
    random = np.random.default_rng(seed)
    made["recompressed"] = [np.stack([row for picture in photos for row in (picture, *kinds.recompressed(picture, random))])]
    made["shots"] = [np.stack([row for picture in photos[::2] for row in (picture, *kinds.shots(picture, random))])]
    made["video, moving"] = kinds.video("bigbuckbunny", 1)(rows, seed)
    made["video, face"] = kinds.video("carphone_pristine", 1)(200, seed)
    return {name: (sessions, [_labels(pictures) for pictures in sessions]) for name, sessions in made.items()}


def _augmented(rows, seed):
    random, pictures = np.random.default_rng(seed), data.split("tuning")[0][: rows // 6]
    return [np.stack([row for picture in pictures for row in (picture, *kinds.augmentations(picture, random))])]


def _labels(pictures):
    if pictures.shape[1] == 32:
        return classifiers.local(classifiers.CONVERTED)(pictures).argmax(1)
    from entries import photographs
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    network = InferenceSession(str(photographs()), options, providers=["CPUExecutionProvider"])
    return np.array([network.run(None, {"image": picture[np.newaxis]})[0][0].argmax() for picture in pictures])


def kept(what, make, *about):
    """The result of `make(*about)`, made once."""
    key = hashlib.sha256(repr((what, about)).encode()).hexdigest()[:16]
    file = FOLDER / f"{what}-{key}.pickle"
    if not file.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(pickle.dumps(make(*about)))
        part.rename(file)
    return pickle.loads(file.read_bytes())
