"""Models that answer with what they received: one for each type, layout and number of channels of a picture.

Each entry becomes a model `digest_<name>`. `range` is written as Refrain's settings write it, and says what a value means.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Form:
    """How a model takes its picture: dims without the batch dimension, and the axes' names (H, W, C, 1) in their order."""

    datatype: str
    axes: str = "HWC"
    channels: int = 3
    range: str = "0..255"
    batched: bool = True
    bgr: bool = False
    side: int = 32

    @property
    def dims(self):
        sizes = {"H": self.side, "W": self.side, "C": self.channels, "1": 1}
        return [sizes[axis] for axis in self.axes]


FORMS = {
    "digest_uint8": Form("UINT8"),
    "digest_int8": Form("INT8", range="-128..127"),
    "digest_uint16": Form("UINT16", range="0..65535"),
    "digest_int16": Form("INT16"),
    "digest_uint32": Form("UINT32"),
    "digest_int32": Form("INT32"),
    "digest_uint64": Form("UINT64"),
    "digest_int64": Form("INT64"),
    "digest_fp16": Form("FP16", range="0..1"),
    "digest_bf16": Form("BF16", range="0..1"),
    "digest_fp32": Form("FP32", range="0..1"),
    "digest_fp64": Form("FP64", range="0..1"),
    "digest_levels": Form("FP32"),
    "digest_signed": Form("FP32", "CHW", range="-1..1"),
    "digest_imagenet": Form("FP32", "CHW", range="imagenet"),
    "digest_nchw": Form("UINT8", "CHW"),
    "digest_chw": Form("UINT8", "CHW", batched=False),
    "digest_hwc": Form("UINT8", batched=False),
    "digest_bgr": Form("UINT8", bgr=True),
    "digest_rgba": Form("UINT8", channels=4),
    "digest_grey": Form("UINT8", channels=1),
    "digest_grey_first": Form("UINT8", "CHW", channels=1),
    "digest_hw": Form("UINT8", "HW", channels=1),
    "digest_any": Form("UINT8", side=-1),
}

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

CONFIG = """backend: "python"
max_batch_size: {batch}
input {{ name: "image" data_type: {datatype} {format}dims: {dims} }}
output {{ name: "digest" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "pixels" data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] }}
parameters {{ key: "behaviour" value {{ string_value: "digest" }} }}
parameters {{ key: "axes" value {{ string_value: "{axes}" }} }}
parameters {{ key: "range" value {{ string_value: "{range}" }} }}
parameters {{ key: "bgr" value {{ string_value: "{bgr}" }} }}
"""


def config(form):
    """The form's config.pbtxt."""
    layout = {"HWC": "format: FORMAT_NHWC ", "CHW": "format: FORMAT_NCHW "}.get(form.axes, "")
    return CONFIG.format(
        batch=16 if form.batched else 0,
        datatype=f"TYPE_{form.datatype}",
        format=layout if form.batched else "",
        dims=form.dims,
        axes=form.axes,
        range=form.range,
        bgr="yes" if form.bgr else "",
    )


def settings():
    """What Refrain must be told of these models: what their values mean."""
    lines = []
    for name, form in FORMS.items():
        lines += [f'[models."{name}"]', 'group = "pictures"', f'range = "{form.range}"']
        lines += ['channels = "bgr"'] if form.bgr else []
        lines += [f'layout = "{form.axes}"']
    return "\n".join(lines)
