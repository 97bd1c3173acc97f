"""A picture in every form that a model takes: as numbers of any type and layout, and as a file of any format."""

import io

import ml_dtypes
import numpy as np
from asking import pb
from PIL import Image

import digests

NUMPY = {
    "UINT8": np.uint8,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "UINT32": np.uint32,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}
MEAN, DEVIATION = np.array(digests.IMAGENET)
VALUES = {
    "0..255": lambda levels: levels,
    "0..1": lambda levels: levels / 255,
    "-1..1": lambda levels: (levels - 127.5) / 127.5,
    "imagenet": lambda levels: (levels / 255 - MEAN) / DEVIATION,
    "-128..127": lambda levels: levels - 128,
    "0..65535": lambda levels: levels * 257,
}


def greyed(picture):
    """Height x width x 1 levels."""
    return np.rint(picture @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None]


def array(form, picture):
    """An 8-bit RGB picture as the numbers that the form means by it."""
    levels = greyed(picture) if form.channels == 1 else picture[..., ::-1] if form.bgr else picture
    if form.channels == 4:
        levels = np.concatenate([levels, np.full_like(levels[..., :1], 200)], axis=2)
    values = VALUES[form.range](levels.astype(np.float64)).astype(NUMPY[form.datatype])
    if form.axes == "CHW":
        values = np.moveaxis(values, -1, 0)
    elif form.axes == "HW":
        values = values[..., 0]
    return np.ascontiguousarray(values)


def question(model, *pictures, id=""):
    """A ModelInferRequest with raw contents to a digest model."""
    form = digests.FORMS[model]
    rows = np.stack([array(form, picture) for picture in pictures])
    return tensor(model, form.datatype, (rows if form.batched else rows[0]).shape, rows.tobytes(), id=id)


def tensor(model, datatype, shape, raw, id="", name="image"):
    request = pb.ModelInferRequest(model_name=model, id=id)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)
    return request


def typed(request):
    """The same request in the typed field of its datatype; none where the type has none."""
    copy = pb.ModelInferRequest.FromString(request.SerializeToString())
    (raw,) = copy.raw_input_contents
    del copy.raw_input_contents[:]
    contents, datatype = copy.inputs[0].contents, copy.inputs[0].datatype
    if datatype == "BYTES":
        contents.bytes_contents.extend(elements(raw))
        return copy
    field = {
        **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
        **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
        **{"UINT64": "uint64_contents", "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"},
    }.get(datatype)
    if field is None:
        return None
    getattr(contents, field).extend(np.frombuffer(raw, NUMPY[datatype]).tolist())
    return copy


def files(*contents, model="encoded", id=""):
    """A request of files, one to a row."""
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in contents)
    return tensor(model, "BYTES", [len(contents), 1], raw, id=id, name="file" if model == "pipeline" else "image")


def elements(raw):
    """The elements of a BYTES tensor."""
    found, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def file(picture, kind, mode=None, **options):
    """The picture as a file. `mode` is Pillow's, for files that hold no plain RGB."""
    out = io.BytesIO()
    image = Image.fromarray(picture)
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


def few_colours(picture):
    """The picture in at most 256 colours, which a palette holds without loss."""
    return np.asarray(Image.fromarray(picture).quantize(256).convert("RGB"))


# Files that hold the very same pixels.
LOSSLESS = {
    "png": lambda picture: file(picture, "PNG"),
    "png_alpha": lambda picture: file(picture, "PNG", mode="RGBA"),
    "bmp": lambda picture: file(picture, "BMP"),
    "webp": lambda picture: file(picture, "WEBP", lossless=True),
}
# The same for pictures of at most 256 colours.
PALETTES = {
    "gif": lambda picture: file(picture, "GIF"),
    "png_palette": lambda picture: palette(picture, "PNG"),
    "bmp_palette": lambda picture: palette(picture, "BMP"),
}


def palette(picture, kind):
    out = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(out, kind)
    return out.getvalue()


def output(reply, name):
    """One output's raw contents."""
    parsed = reply.parsed
    return next(raw for tensor, raw in zip(parsed.outputs, parsed.raw_output_contents, strict=True) if tensor.name == name)


def pixels(reply):
    """What the model says that it saw, at 32 x 32."""
    return np.frombuffer(output(reply, "pixels"), np.uint8).reshape(-1, 32, 32, 3)
