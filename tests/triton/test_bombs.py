"""Small messages that would cost much: refused at once, for little memory, in words that name what was expected and found."""

import gzip
import pathlib
import re
import struct
import time
import zlib

import digests
import forms
import numpy as np
import pytest
import wire
from asking import SERVICE
from pictures import large_photos, one_pixel, photo

PICTURE = photo(0)
NEAR = one_pixel(PICTURE, seed=1)
MOST_SECONDS = 1.0  # of a call that should take milliseconds, on a machine that is busy with other things
MOST_BYTES = 32 << 20


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *extra, data=None, bits=8, colour=2):
    """A PNG of zeros; of large ones as much as a small file holds."""
    lines = data if data is not None else zlib.compress(bytes(min(height * (1 + width * 3), 8 << 20)), 9)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def jpeg_sized(width, height):
    """A real JPEG whose header says another size."""
    body = forms.file(PICTURE, "JPEG", quality=90)
    at = body.index(b"\xff\xc0")
    return body[: at + 5] + struct.pack(">HH", height, width) + body[at + 9 :]


def gif_sized(width, height):
    body = forms.file(forms.few_colours(PICTURE), "GIF")
    size = struct.pack("<HH", width, height)
    at = body.index(b"\x2c\0\0\0\0")
    return body[:6] + size + body[10 : at + 5] + size + body[at + 9 :]


def bmp_sized(width, height):
    body = forms.file(PICTURE, "BMP")
    return body[:18] + struct.pack("<ii", width, height) + body[26:]


def webp_sized(width, height):
    """A lossless WebP whose header says another size; 14 bits each."""
    body = forms.file(PICTURE, "WEBP", lossless=True)
    at = body.index(b"VP8L") + 9
    bits = int.from_bytes(body[at : at + 4], "little") >> 28 << 28 | height - 1 << 14 | width - 1
    return body[:at] + bits.to_bytes(4, "little") + body[at + 4 :]


def a_gif_of(frames):
    """One real frame, and frames of one pixel after it."""
    dot = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return forms.file(forms.few_colours(PICTURE), "GIF")[:-1] + dot * (frames - 1) + b";"


def tensor(*shape, data=b"\0" * 3072):
    return forms.tensor("digest_any", "UINT8", shape, data)


FILES = {
    "png_of_60000_x_60000": lambda: png(60_000, 60_000),
    "png_of_2_31_x_2_31": lambda: png(2**31 - 1, 2**31 - 1),
    "png_of_16_bits_and_a_gigapixel": lambda: png(32_768, 32_768, bits=16, colour=6),
    "jpeg_of_65500_x_65500": lambda: jpeg_sized(65_500, 65_500),
    "gif_of_65535_x_65535": lambda: gif_sized(65_535, 65_535),
    "bmp_of_60000_x_60000": lambda: bmp_sized(60_000, 60_000),
    "webp_of_16383_x_16383": lambda: webp_sized(16_383, 16_383),
    "a_picture_just_above_the_limit": lambda: png(4097, 4096),
    "jpeg_cut_in_the_middle": lambda: (lambda body: body[: len(body) // 2])(forms.file(large_photos(224)[0], "JPEG", quality=90)),
    "png_cut_in_the_middle": lambda: (lambda body: body[: len(body) // 2])(forms.file(PICTURE, "PNG")),
    "only_a_signature": lambda: b"\x89PNG\r\n\x1a\n",
    "no_sides": lambda: png(0, 0, data=zlib.compress(b"")),
}

REFUSED = {
    **{name: lambda make=make: forms.files(make()) for name, make in FILES.items()},
    "an_image_of_2_31_lines": lambda: tensor(1, 2**31, 2**31, 3),
    "an_image_whose_bytes_overflow": lambda: tensor(1, 2**31, 2**31, 2**31),
    "a_long_line": lambda: tensor(1, 1, 2**40, 3),
    "a_length_beyond_the_data": lambda: forms.tensor("encoded", "BYTES", [1, 1], b"\xff\xff\xff\x7fxx"),
    "a_length_of_almost_all": lambda: forms.tensor("encoded", "BYTES", [1, 1], b"\xff\xff\xff\xffxx"),
    "a_billion_files": lambda: forms.tensor("encoded", "BYTES", [10**9, 1], b"\0\0\0\0"),
    "many_empty_files": lambda: forms.tensor("encoded", "BYTES", [2**31, 1], bytes(1 << 20)),
}


class Memory:
    """The most memory that a process held since `reset`."""

    def __init__(self, pid):
        self.folder = pathlib.Path(f"/proc/{pid}")

    def read(self, name):
        return int(re.search(rf"{name}:\s+(\d+) kB", (self.folder / "status").read_text())[1]) << 10

    def reset(self):
        (self.folder / "clear_refs").write_text("5")
        self.before = self.read("VmRSS")

    def grown(self):
        return self.read("VmHWM") - self.before


@pytest.fixture
def measured(refrain, clients, table):
    """A proxy that has seen ordinary pictures; `ask` says what a call took, and that it took little."""
    proxy = refrain(tables=digests.settings())
    client = clients(proxy, user="alice")
    memory = Memory(proxy.process.pid)
    client.infer(forms.files(forms.file(PICTURE, "PNG"), id="warm"))
    client.infer(tensor(1, 32, 32, 3, data=PICTURE.tobytes()))

    def ask(name, call):
        memory.reset()
        began = time.monotonic()
        reply = call(client)
        seconds = time.monotonic() - began
        table("Bombs: how long the call took, how much the process grew", ["ms", "MiB"])
        table.row([f"{seconds * 1000:.1f}", f"{memory.grown() / 2**20:.1f}", f"  {name}"])
        assert seconds < MOST_SECONDS, f"{name} took {seconds:.3f} s"
        assert memory.grown() < MOST_BYTES, f"{name} took {memory.grown()} bytes"
        return reply

    ask.client = client
    return ask


@pytest.mark.parametrize("name", REFUSED)
def test_a_bomb_is_refused_at_once_for_little_memory_and_in_plain_words(measured, direct, asked, name):
    """`measured` has asked for the picture before: what cannot be read is no near-copy of it, and never replayed."""
    request = REFUSED[name]()
    model = request.model_name
    with asked(model) as reached:
        reply = measured(name, lambda client: client.infer(request))
    assert reply.code == "INVALID_ARGUMENT", reply
    assert reached.requests == 0 or direct.infer(request).message == reply.message, "refused here, or in the server's own words"
    if name in FILES:
        assert re.search(r"expected .+ found:? .+|an image of .+ must be", reply.message), reply.message
    assert measured.client.infer(forms.files(forms.file(NEAR, "PNG"))).code == "OK"


def test_a_gif_of_ten_thousand_frames_costs_its_first_frame_only(measured, direct, asked):
    body = a_gif_of(10_000)
    expected = direct.infer(forms.files(body))
    assert np.array_equal(forms.pixels(expected)[0], forms.few_colours(PICTURE))
    assert measured.client.infer(forms.files(forms.file(forms.few_colours(photo(4)), "GIF"))).code == "OK"
    plain = measured.client.infer(forms.files(forms.file(forms.few_colours(PICTURE), "PNG")))
    with asked("encoded") as reached:
        assert measured("gif_of_10000_frames", lambda client: client.infer(forms.files(body))) == plain
    assert reached.requests == 0


def test_text_of_a_png_that_unpacks_to_much_costs_nothing(measured, direct):
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(128 << 20), 9)) + chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(128 << 20), 9))
    plain = zlib.compress(b"".join(b"\0" + row.tobytes() for row in photo(5)))
    request = forms.files(png(32, 32, bomb, data=plain))
    reply = measured("png_with_256_MiB_of_text_and_profile", lambda client: client.infer(request))
    assert reply.code in ("OK", "INVALID_ARGUMENT")


def test_pixels_of_a_png_beyond_its_own_size_cost_nothing(measured):
    request = forms.files(png(32, 32, data=zlib.compress(bytes(128 << 20), 9)))
    assert measured("png_with_128_MiB_for_32_x_32", lambda client: client.infer(request)).code in ("OK", "INVALID_ARGUMENT")


@pytest.mark.parametrize("unpacked", [17 << 20, 512 << 20])
def test_a_message_that_unpacks_past_the_limit_is_refused_for_little_memory(refrain, clients, unpacked):
    proxy = refrain(tables='[limits]\nmessage_bytes = "16MiB"\n')
    client = clients(proxy, user="alice")
    assert client.ask("clf_u8", PICTURE).code == "OK"
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(unpacked >> 20)), packer.flush()])
    memory = Memory(proxy.process.pid)
    memory.reset()
    headers = [("grpc-encoding", "gzip"), ("x-user", "alice")]
    reply = wire.call(client.port, SERVICE + "ModelInfer", wire.message(packed, flag=1), headers=headers)
    assert reply.status == 8 and re.search(r"\d", reply.text), reply.text
    assert reply.seconds < 2 * MOST_SECONDS and memory.grown() < MOST_BYTES, (reply.seconds, memory.grown())
    assert client.ask("clf_u8", PICTURE).code == "OK"


def test_the_limit_on_pixels_holds_for_tensors_and_files_alike(refrain, clients, asked):
    client = clients(refrain(tables=digests.settings() + "\n[limits]\nimage_pixels = 10000\n"), user="alice")
    large, small = large_photos(224)[0], large_photos(100)[0]
    for write in (lambda picture: tensor(1, *picture.shape, data=picture.tobytes()), lambda picture: forms.files(forms.file(picture, "PNG"))):
        model = write(small).model_name
        with asked(model) as reached:
            reply = client.infer(write(large))
            assert reply.code == "INVALID_ARGUMENT" and "10000" in reply.message, reply.message
        assert reached.requests == 0
        assert client.infer(write(small)).code == "OK"


# A batch with one row that cannot be read


def not_a_number(rows):
    """The rows as floats, the second with a pixel that is no number."""
    request = forms.question("digest_fp32", *rows)
    values = np.frombuffer(request.raw_input_contents[0], np.float32).copy()
    values[3072 + 5] = np.nan
    request.raw_input_contents[0] = values.tobytes()
    return request


def too_large(rows):
    """The rows as files, the second above the limit."""
    contents = [forms.file(row, "PNG") for row in rows]
    contents[1] = forms.file(large_photos(224)[0], "PNG")
    return forms.files(*contents)


BATCHES = {
    "not_a_number": (not_a_number, lambda picture: forms.question("digest_fp32", picture)),
    "too_large": (too_large, lambda picture: forms.files(forms.file(picture, "PNG"))),
}


def unreadable(then):
    """A small limit on pixels, and what becomes of rows that cannot be read."""
    models = "".join(f'[models.{model}]\non_unreadable = "{then}"\nrange = "0..1"\n' for model in ("encoded", "digest_fp32"))
    return f"{models}\n[limits]\nimage_pixels = 2000\n"


@pytest.mark.parametrize("name", BATCHES)
def test_a_row_that_cannot_be_read_is_forwarded_and_the_others_are_judged(refrain, clients, direct, asked, name):
    batch, one = BATCHES[name]
    client = clients(refrain(tables=unreadable("forward")), user="alice")
    assert client.infer(one(PICTURE)).code == "OK"
    expected = direct.infer(batch([PICTURE, PICTURE, photo(1)]))
    assert expected.code == "OK"
    with asked(expected.parsed.model_name) as reached:
        assert client.infer(batch([NEAR, PICTURE, photo(1)])) == expected
        assert client.infer(one(one_pixel(photo(1)))).code == "OK"
    assert reached.rows == 2, "the unreadable and the new one"


@pytest.mark.parametrize("name", BATCHES)
def test_a_row_that_cannot_be_read_refuses_its_call_and_nothing_else_is_lost(refrain, clients, direct, asked, name):
    batch, one = BATCHES[name]
    client = clients(refrain(tables=unreadable("reject")), user="alice")
    first = client.infer(one(PICTURE))
    with asked(first.parsed.model_name) as reached:
        reply = client.infer(batch([NEAR, PICTURE, photo(1)]))
        assert reply.code == "INVALID_ARGUMENT" and re.search(r"row 1\b", reply.message), reply.message
        assert client.infer(one(NEAR)) == first
    assert reached.rows == 0
    assert client.infer(one(photo(1))) == direct.infer(one(photo(1))), "the refused call left nothing behind"
