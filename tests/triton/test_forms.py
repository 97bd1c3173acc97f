"""One picture in every form that a model takes: numbers of any type, layout and range, and files of any format.

However it is written, it has the same likeness. Where two forms reach one model, the second is short-circuited. Where they
reach two models of one group, the likeness shows in what the log says of a caller who is suspected: near-copies of what was
asked elsewhere are refused, and the distance is named.
"""

import io
import re
import struct
import time
import zlib

import digests
import forms
import numpy as np
import pytest
from refrain import plain
from PIL import Image
from pictures import drawn, large_photos, one_pixel, photo, photos

PICTURE = photo(0)
NEAR = one_pixel(PICTURE, seed=3)
GROUPED = digests.settings() + '\n[models.encoded]\ngroup = "pictures"\n'
EVENT = re.compile(
    r"rows short-circuited .*?measured=Some\(Measured \{ bits: \((\d+), \d+\), positions: \((\d+), \d+, \d+\), cells: \((\d+), \d+\) \}\)"
)


def meant(form, picture):
    return forms.greyed(picture).repeat(3, axis=2) if form.channels == 1 else picture


@pytest.fixture
def grouped(refrain, clients):
    """A proxy that knows what the values of the digest models mean, and a caller: `.proxy`, `.ask`."""
    proxy = refrain(tables=GROUPED)
    client = clients(proxy, user="alice")
    client.proxy = proxy
    return client


@pytest.mark.parametrize("model", digests.FORMS)
def test_the_model_itself_receives_what_was_meant(direct, model):
    """Of the test's own code: two independent ways from levels to values and back."""
    form = digests.FORMS[model]
    reply = direct.infer(forms.question(model, PICTURE))
    difference = forms.pixels(reply)[0].astype(int) - meant(form, PICTURE)
    assert np.abs(difference).max() <= (1 if form.datatype == "BF16" else 0)
    in_type = forms.typed(forms.question(model, PICTURE))
    assert in_type is None or direct.infer(in_type) == reply


@pytest.mark.parametrize("model", digests.FORMS)
def test_a_picture_in_any_form_is_answered_as_the_server_does_and_its_near_copy_is_not(grouped, direct, asked, model):
    expected = direct.infer(forms.question(model, PICTURE, id="1"))
    other = direct.infer(forms.question(model, photo(1)))
    writings = [forms.question(model, NEAR, id="1"), forms.typed(forms.question(model, NEAR, id="1"))]
    with asked(model) as reached:
        assert grouped.infer(forms.question(model, PICTURE, id="1")) == expected
        for writing in filter(None, writings):
            assert grouped.infer(writing) == expected
        assert grouped.infer(forms.question(model, photo(1))) == other
    assert reached.requests == 2


@pytest.mark.parametrize("model", [name for name, form in digests.FORMS.items() if form.batched])
def test_a_batch_in_any_form_is_judged_row_by_row(grouped, direct, asked, model):
    grouped.infer(forms.question(model, PICTURE))
    expected = direct.infer(forms.question(model, photo(1), PICTURE, photo(2)))
    with asked(model) as reached:
        assert grouped.infer(forms.question(model, photo(1), NEAR, photo(2))) == expected
    assert reached.rows == 2


class Suspected:
    """A caller under suspicion, who is told apart: what is near to something asked before is refused, and measured."""

    def __init__(self, refrain, clients):
        self.proxy = refrain("", GROUPED + "\n[store]\nsuspicions = 1\n")
        self.client = clients(self.proxy, user="mallory")
        self.ask(forms.question("digest_uint8", drawn(1)))
        self.ask(forms.question("digest_nchw", one_pixel(drawn(1))))

    def ask(self, request):
        reply = self.client.infer(request)
        assert reply.code == "OK", reply
        return reply

    def distance(self, request):
        """How far the picture is from the nearest one asked before, by the log: bits, positions, fine cells that are near."""
        before = len(self.events())
        reply = self.client.infer(request)
        deadline = time.monotonic() + 5
        while len(self.events()) == before:
            assert time.monotonic() < deadline, f"not judged near to anything: {reply.code} {reply.message}\n{self.proxy.said()}"
            time.sleep(0.005)
        bits, positions, cells = self.events()[-1]
        return int(bits), int(positions), int(cells)

    def events(self):
        return EVENT.findall(plain(self.proxy.said()))


@pytest.fixture
def suspected(refrain, clients):
    return Suspected(refrain, clients)


@pytest.mark.parametrize("model", [name for name in digests.FORMS if name != "digest_uint8"])
def test_a_picture_has_the_same_likeness_in_every_form(suspected, model):
    picture, near = (meant(digests.FORMS[model], each) for each in (PICTURE, NEAR))
    suspected.ask(forms.question("digest_uint8", picture))
    expected = suspected.distance(forms.question("digest_any", near))
    bits, positions, cells = suspected.distance(forms.question(model, near))
    if digests.FORMS[model].datatype == "BF16":
        assert abs(cells - expected[2]) <= 1 and abs(bits - expected[0]) <= 8
    else:
        assert (bits, positions, cells) == expected
    suspected.ask(forms.question(model, photo(5)))


@pytest.mark.parametrize("name", [*forms.LOSSLESS, *forms.PALETTES])
def test_a_file_has_the_likeness_of_its_pixels(suspected, name):
    picture = forms.few_colours(PICTURE)
    near = forms.few_colours(one_pixel(picture, seed=3))
    write = {**forms.LOSSLESS, **forms.PALETTES}[name]
    suspected.ask(forms.question("digest_uint8", picture))
    assert suspected.distance(forms.files(write(near))) == suspected.distance(forms.question("digest_any", near))
    suspected.ask(forms.files(write(photo(5))))


# Files


def write_each(picture):
    """The picture in every format that keeps its pixels."""
    few = len(np.unique(picture.reshape(-1, 3), axis=0)) <= 256
    return {name: write(picture) for name, write in {**forms.LOSSLESS, **(forms.PALETTES if few else {})}.items()}


@pytest.fixture
def opened(proxied):
    """A caller of a proxy that has seen `encoded` and `pipeline` open every kind of file: only then is a replay given for one."""
    for model in ("encoded", "pipeline"):
        for contents in [*write_each(forms.few_colours(drawn(77))).values(), forms.file(drawn(77), "JPEG")]:
            assert proxied.infer(forms.files(contents, model=model)).code == "OK"
    return proxied


def test_a_near_copy_in_a_kind_of_file_that_was_not_seen_gets_the_first_answer_too(proxied, asked):
    first = proxied.infer(forms.files(forms.file(PICTURE, "PNG")))
    for near, reaches in ((NEAR, 1), (one_pixel(PICTURE, 9), 0)):
        with asked("encoded") as reached:
            assert proxied.infer(forms.files(forms.file(near, "BMP"))) == first
        assert reached.requests == reaches, "asked once, to see whether the model opens such a file"


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("first", [*forms.LOSSLESS, *forms.PALETTES])
def test_a_near_copy_in_any_other_format_gets_the_first_answer(opened, direct, asked, first, side):
    picture = forms.few_colours(PICTURE if side == 32 else large_photos(side)[2])
    near = picture.copy()
    near[9, 9] = picture[20, 20]  # of the same colours
    request = forms.files(write_each(picture)[first], id="1")
    expected = direct.infer(request)
    with asked("encoded") as reached:
        assert opened.infer(request) == expected
        for name, contents in write_each(near).items():
            assert opened.infer(forms.files(contents, id="1")) == expected, name
            assert opened.infer(forms.typed(forms.files(contents, id="1"))) == expected, name
    assert reached.requests == 1


def test_a_batch_of_files_is_judged_row_by_row(opened, direct, asked):
    opened.infer(forms.files(forms.file(PICTURE, "PNG")))
    rows = [forms.file(photo(1), "BMP"), forms.file(PICTURE, "PNG"), forms.file(photo(2), "WEBP", lossless=True)]
    expected = direct.infer(forms.files(*rows))
    rows[1] = forms.file(NEAR, "BMP")
    with asked("encoded") as reached:
        assert opened.infer(forms.files(*rows)) == expected
    assert reached.rows == 2


def test_an_ensemble_that_decodes_is_defended_as_one_model(opened, direct, asked):
    """Compared as messages: Triton writes an ensemble's response parameters in an order that changes from call to call."""
    expected = direct.infer(forms.files(forms.file(PICTURE, "PNG"), model="pipeline"))
    assert expected.output().tobytes() == direct.ask("clf_u8", PICTURE).output().tobytes()
    with asked("clf_u8") as reached:
        assert opened.infer(forms.files(forms.file(PICTURE, "PNG"), model="pipeline")).parsed == expected.parsed
        assert opened.infer(forms.files(forms.file(NEAR, "BMP"), model="pipeline")).parsed == expected.parsed
    assert reached.requests == 1


def test_an_ensembles_reply_names_the_sequence_of_its_own_request(proxied, direct):
    """Triton echoes these parameters for ensembles, of whatever the caller sent."""

    def named(picture, **value):
        request = forms.files(forms.file(picture, "PNG"), model="pipeline")
        for field, each in value.items():
            setattr(request.parameters["sequence_id"], field, each)
        return request

    for picture, value in ((PICTURE, {"int64_param": 9}), (NEAR, {"string_param": "abc"}), (NEAR, {})):
        expected = direct.infer(named(PICTURE, **value)).parsed
        assert "sequence_id" in expected.parameters
        assert proxied.infer(named(picture, **value)).parsed == expected


def with_orientation(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, for those who look
    return forms.file(picture, "PNG", exif=exif)


def with_more_frames(picture):
    first, *others = (Image.fromarray(each).quantize(256) for each in (picture, photo(4), photo(5)))
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others)
    return out.getvalue()


def sixteen_bits(picture):
    """A PNG of 16 bits a channel, which Pillow does not write: levels times 257."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = picture.shape
    rows = (picture.astype(">u2") * 257).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# Each beside the plain picture whose pixels the model sees.
KINDS = {
    "exif_orientation_is_left_alone": (with_orientation, lambda picture: picture),
    "the_first_frame_of_a_gif": (with_more_frames, forms.few_colours),
    "sixteen_bits": (sixteen_bits, lambda picture: picture),
    "grey": (lambda picture: forms.file(forms.greyed(picture)[..., 0], "PNG"), lambda picture: forms.greyed(picture).repeat(3, axis=2)),
    "transparent": (lambda picture: forms.file(np.dstack([picture, np.full((32, 32), 9, np.uint8)]), "PNG"), lambda picture: picture),
    "webp_with_alpha": (
        lambda picture: forms.file(np.dstack([picture, np.full((32, 32), 99, np.uint8)]), "WEBP", lossless=True, exact=True),
        lambda picture: picture,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_unusual_files_are_read_as_the_model_reads_them(opened, direct, asked, name):
    write, shown = KINDS[name]
    request = forms.files(write(PICTURE))
    assert np.array_equal(forms.pixels(direct.infer(request))[0], shown(PICTURE))
    expected = direct.infer(forms.files(forms.file(shown(PICTURE), "PNG")))
    with asked("encoded") as reached:
        assert opened.infer(forms.files(forms.file(shown(PICTURE), "PNG"))) == expected
        assert forms.output(opened.infer(request), "probabilities") == forms.output(expected, "probabilities")
        assert opened.infer(forms.files(write(photo(6)))).code == "OK"
    assert reached.requests == 2


# JPEG, within its loss

JPEGS = {
    "quality_90": {"quality": 90},
    "quality_95": {"quality": 95},
    "quality_100": {"quality": 100},
    "progressive": {"quality": 92, "progressive": True},
    "all_colours": {"quality": 92, "subsampling": 0},
    "half_colours": {"quality": 92, "subsampling": 1},
    "optimized": {"quality": 90, "optimize": True},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("jpeg_first", [False, True], ids=["png_first", "jpeg_first"])
def test_a_good_jpeg_of_a_photo_gets_the_first_answer_and_is_within_eight_bits(refrain, clients, asked, options, jpeg_first):
    proxy = refrain()
    opener = clients(proxy, user="opener")
    for form in ("PNG", "JPEG"):
        assert opener.infer(forms.files(forms.file(drawn(78), form))).code == "OK"
    for index, picture in enumerate(large_photos(224)):
        client = clients(proxy, user=f"caller-{index}")
        pair = [forms.files(forms.file(picture, "PNG")), forms.files(forms.file(picture, "JPEG", **options))]
        first, second = reversed(pair) if jpeg_first else pair
        with asked("encoded") as reached:
            answer = client.infer(first)
            assert answer.code == "OK" and client.infer(second) == answer, index
        assert reached.requests == 1
    bits = [int(bits) for bits, _, _ in EVENT.findall(plain(proxy.said()))]
    assert len(bits) == len(large_photos(224)) and max(bits) <= 8


def test_small_and_coarse_jpegs_are_reported(refrain, clients, table):
    """No promise, but a figure: how many are short-circuited after the PNG, by side and quality."""
    proxy = refrain()
    qualities = (50, 75, 85, 90, 95)
    table("JPEG after PNG: pairs short-circuited, by side (rows) and quality", ["side", *qualities])
    for side in (32, 64, 96, 160, 224):
        pictures = [*large_photos(side), *(photos() if side == 32 else [])]
        shares = []
        for quality in qualities:
            hits = 0
            for index, picture in enumerate(pictures):
                client = clients(proxy, user=f"{side}-{quality}-{index}")
                answer = client.infer(forms.files(forms.file(picture, "PNG")))
                again = client.infer(forms.files(forms.file(picture, "JPEG", quality=quality)))
                assert answer.code == again.code == "OK"
                hits += again == answer
            shares.append(f"{hits}/{len(pictures)}")
        table.row([side, *shares])
        if side == 224:
            assert shares[-2:] == [f"{len(pictures)}/{len(pictures)}"] * 2
