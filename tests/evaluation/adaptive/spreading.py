"""Probes spread over versions, models, forms of the answer and encodings of the pixels, so that no two seem to be the same question."""

import numpy as np
import tritonclient.grpc as client
from asking import SECONDS, Asker, connection
from tritonclient.utils import InferenceServerException

from adaptive.ground import PROFILES, Figure, Reply, probe

NAME = "spreading"
PROBES = 40
GROUPED = '\n[models."cifar*"]\ngroup = "cifar"\n[models."cifar-float"]\ngroup = "cifar"\nrange = "0..255"\n'
APART = '\n[models."cifar-float"]\nrange = "0..255"\n'

# Each way of asking: model, version, datatype, the outputs asked for by name.
PLAIN = ("cifar", "", "UINT8", ())
VERSIONS = [("cifar", version, "UINT8", ()) for version in ("1", "2", "")]
OUTPUTS = [
    ("cifar", "", "UINT8", names)
    for names in (
        (),
        ("probabilities", "serial"),
        ("serial", "probabilities"),
        ("probabilities:3", "serial"),
        ("probabilities:5", "serial"),
    )
]
ENCODINGS = [PLAIN, ("cifar-float", "", "FP32", ())]
WAYS = {
    "one way": ([PLAIN], APART),
    "versions": (VERSIONS, APART),
    "outputs and classification": (OUTPUTS, APART),
    "two models, one group": (ENCODINGS, GROUPED),
    "two models, not grouped": (ENCODINGS, APART),
    "floats within half a level": ([("cifar-float", "", "FP32", ())], APART),
    "all of it, one group": ([*VERSIONS, *OUTPUTS, *ENCODINGS], GROUPED),
}


def put(asker, picture, way):
    """One question; the serial tells whether the model was asked."""
    model, version, datatype, names = way
    tensor = client.InferInput("image", [1, *picture.shape], datatype)
    tensor.set_data_from_numpy(np.ascontiguousarray(picture[np.newaxis].astype(np.float32 if datatype == "FP32" else np.uint8)))
    outputs = [
        client.InferRequestedOutput(name.split(":")[0], class_count=int(name.split(":")[1]) if ":" in name else 0) for name in names
    ] or None
    try:
        reply = connection(asker.address).infer(
            model, [tensor], model_version=version, outputs=outputs, headers={"x-user": asker.caller}, client_timeout=SECONDS
        )
    except InferenceServerException as failure:
        if "RESOURCE_EXHAUSTED" not in str(failure.status()):
            raise
        return Reply(None, False)
    serial = int(reply.as_numpy("serial")[0, 0])
    known = serial in asker.serials
    asker.serials.add(serial)
    return Reply(0, not known)


def measure(ground):
    for profile, top in PROFILES.items():
        for name, (ways, models) in WAYS.items():
            address = ground.world.configured(top, models)
            random, true, of = np.random.default_rng(ground.seed), 0, 0
            for picture in ground.pictures[: ground.count]:
                asker = Asker(address, "cifar")
                put(asker, picture, ways[0])
                for number in range(PROBES):
                    if name.startswith("floats"):
                        sent = np.clip(picture + random.uniform(-0.49, 0.49, picture.shape), 0, 255)
                    else:
                        sent = probe(picture, random)
                    true += put(asker, sent, ways[number % len(ways)]).asked_the_model
                    of += 1
            yield Figure(
                NAME,
                f"{name}, {PROBES} probes a picture",
                profile,
                "probes answered by the model",
                true,
                of,
                0.02 if profile == "hardened" else None,
            )
