"""Requests that the server refuses are refused alike: on a picture that would be forwarded, and on one that would be replayed.

A hit must not succeed where a miss would fail, or its success tells that the model was not asked. Sizes that a caller chose
are refused by what they say, before anything is allocated.
"""

import time

import numpy as np
import pytest
from malformed import BOMBS, CASES, OURS, image
from pictures import one_pixel, photo
from predicting import png, question

@pytest.mark.parametrize("known", [False, True], ids=["new_picture", "known_picture"])
@pytest.mark.parametrize("name", CASES)
def test_a_malformed_request_is_refused_as_the_server_refuses_it(proxied, direct, asked, name, known):
    picture = photo(0)
    if known:
        assert proxied.ask("clf_u8", picture).code == "OK"
        picture = one_pixel(picture)
    request = question("clf_u8", picture)
    CASES[name](request)
    expected = direct.predict(request)
    assert expected.code != "OK"
    with asked("clf_u8") as reached:
        reply = proxied.predict(request)
    assert (reply.code, reply.body) == (expected.code, None), reply.message
    assert reached.rows == 0


@pytest.mark.parametrize("name", OURS)
def test_a_tensor_without_a_picture_is_refused(proxied, asked, name):
    request = question("clf_u8", photo(0))
    OURS[name](request)
    with asked("clf_u8") as reached:
        assert proxied.predict(request).code == "INVALID_ARGUMENT"
    assert reached.rows == 0


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(proxied, direct, asked, name):
    proxied.ask("clf_u8", photo(1)), proxied.ask("clf", photo(1)), proxied.ask("jpeg", photo(1))
    request = BOMBS[name]()
    before = direct.counts()
    began = time.monotonic()
    reply = proxied.predict(request, timeout=5)
    seconds = time.monotonic() - began
    assert reply.code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), reply
    assert seconds < 0.5, "far less than expanding it would take"
    after = direct.counts()
    assert {key: value for key, value in after.items() if key.endswith("rows")} == {
        key: value for key, value in before.items() if key.endswith("rows")
    }


def test_pixels_that_are_no_numbers_are_never_replayed(proxied, asked):
    proxied.ask("clf", photo(0))
    request = question("clf", photo(0))
    values = np.frombuffer(image(request).tensor_content, np.float32).copy()
    values[5] = np.nan
    image(request).tensor_content = values.tobytes()
    with asked("clf") as reached:
        assert proxied.predict(request).code == "INVALID_ARGUMENT"
    assert reached.rows == 0


def test_a_picture_cut_short_is_refused_alike_for_hit_and_miss(proxied, direct, asked):
    request = question("jpeg", photo(0))
    request.inputs["image_bytes"].string_val[0] = png(photo(0))[:-40]
    assert direct.predict(request).code == "INVALID_ARGUMENT"
    with asked("jpeg") as reached:
        assert proxied.predict(request).code == "INVALID_ARGUMENT"
        proxied.ask("jpeg", photo(0))
        assert proxied.predict(request).code == "INVALID_ARGUMENT"
    assert reached.rows == 1
