"""What a white-box attacker has: the trained network itself, in torch, and its gradients."""

import hashlib
import sys

import numpy as np

from classifiers import MODELS

# Debian's torch, after everything that the environment itself holds.
DEBIAN = "/usr/lib/python3/dist-packages"


class Known:
    """A trained classifier: `gradient(picture, label)` of that class's probability by every channel value of a picture in 0..1."""

    def __init__(self, name):
        if DEBIAN not in sys.path:
            sys.path.append(DEBIAN)
        import torch

        from classifiers import architectures

        torch.set_num_threads(1)
        self.torch, self.prepared = torch, architectures.prepared
        self.network = getattr(architectures, name)()
        weights = MODELS / f"{name}.pt"
        self.digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.network.load_state_dict(torch.load(weights))
        self.network.eval()

    def probabilities(self, picture):
        with self.torch.no_grad():
            return self._run(self._tensor(picture)).numpy()[0]

    def gradient(self, picture, label):
        tensor = self._tensor(picture).requires_grad_(True)
        self._run(tensor)[0, int(label)].backward()
        return tensor.grad.numpy()[0]

    def _tensor(self, picture):
        return self.torch.from_numpy(np.array(picture, np.float32)[np.newaxis])

    def _run(self, tensor):
        return self.torch.softmax(self.network(self.prepared(tensor * 255)), dim=1)
