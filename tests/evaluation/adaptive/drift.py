"""A drift chain: from one picture to another by many small steps, each a near-copy of the last. Does the first label follow?"""

import numpy as np

from adaptive.ground import Figure, ask

NAME = "drift chain"
STEPS = 500


def measure(ground):
    sliding = 'profile = "paper"\n[judgment]\nanchor = "sliding"\n'
    for name, profile in {"hardened": "hardened", "paper": "paper", "paper, sliding": sliding}.items():
        wrong = rows = arrived = 0
        pictures = range(max(2, ground.count // 4))
        for at in pictures:
            begin, end = ground.pictures[at].astype(float), ground.pictures[ground.of_other_class(at)]
            asker = ground.asker(profile)
            label = ground.labels[at]
            for step in range(STEPS + 1):
                sent = np.rint(begin + (end - begin) * step / STEPS).astype(np.uint8)
                reply = ask(asker, sent)
                wrong += reply.label is not None and not reply.asked_the_model and reply.label != ground.label(sent)
                rows += 1
            arrived += reply.label == label
        yield Figure(NAME, f"{STEPS} steps: a label that the model would not give", name, "wrong label obtained", wrong, rows)
        yield Figure(
            NAME,
            f"{STEPS} steps: the first label for the last picture",
            name,
            "chain arrives",
            arrived,
            len(pictures),
            0.0 if name == "hardened" else None,
        )
