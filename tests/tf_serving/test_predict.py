"""Predict: a new picture gets the server's own reply, a near-copy the first answer, in the form that each asks for."""

import io

import numpy as np
import pytest
from PIL import Image
from pictures import drawn, one_pixel, photo, photos
from predicting import FORMS, TYPES, Predict, model_of, of_type, output, question, reply
from tensorflow_messages import METHODS, types_pb2

PICTURE = photo(0)
NEAR = one_pixel(PICTURE, seed=1)


@pytest.mark.parametrize("model", FORMS)
def test_the_model_itself_tells_the_copy_from_the_picture(direct, model):
    assert direct.ask(model, PICTURE).body != direct.ask(model, NEAR).body


@pytest.mark.parametrize("model", FORMS)
def test_a_copy_with_one_changed_pixel_gets_the_first_answer(proxied, direct, asked, model):
    first = proxied.ask(model, PICTURE)
    assert first == direct.ask(model, PICTURE)
    with asked(model) as reached:
        assert proxied.ask(model, NEAR) == first
    assert reached.requests == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_a_picture_of_any_number_type_is_judged(proxied, direct, asked, dtype):
    first = proxied.predict(of_type(dtype, PICTURE))
    assert first == direct.predict(of_type(dtype, PICTURE))
    with asked(model_of(dtype)) as reached:
        assert proxied.predict(of_type(dtype, NEAR)) == first
        assert proxied.predict(of_type(dtype, NEAR, content=False)) == first
    assert reached.requests == 0


@pytest.mark.parametrize("model", ["clf", "clf_u8", "content", "aux", "single"])
def test_the_same_picture_is_the_same_in_content_and_in_typed_values(proxied, direct, asked, model):
    first = proxied.predict(question(model, PICTURE, content=False))
    assert first == direct.ask(model, PICTURE)
    with asked(model) as reached:
        assert proxied.ask(model, PICTURE) == first
        assert proxied.ask(model, NEAR) == first
    assert reached.requests == 0


def test_all_photographs_are_different_pictures(proxied, direct, asked):
    expected = [direct.ask("clf_u8", picture) for picture in photos()]
    with asked("clf_u8") as reached:
        assert [proxied.ask("clf_u8", picture) for picture in photos()] == expected
    assert reached.rows == len(photos())


def test_another_caller_has_another_past(refrain, clients, direct, asked):
    proxy = refrain()
    alice, bob = clients(proxy, user="alice"), clients(proxy, user="bob")
    alice.ask("clf_u8", PICTURE)
    expected = direct.ask("clf_u8", NEAR)
    with asked("clf_u8") as reached:
        assert bob.ask("clf_u8", NEAR) == expected
    assert reached.requests == 1


# Which model


def test_a_reply_names_the_version_and_signature_that_answered(proxied, direct):
    for picture in (PICTURE, NEAR):
        spec = reply(Predict, proxied.ask("clf", picture)).model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("clf", 2, "serving_default")
        assert not spec.version_label


SAME = {
    "newest": [{}, {"version": 2}, {"label": "canary"}, {"signature": "serving_default"}, {"version": 2, "signature": "serving_default"}],
    "older": [{"version": 1}, {"label": "stable"}, {"label": "stable", "signature": "serving_default"}],
    "other_signature": [{"signature": "mirrored"}, {"signature": "mirrored", "label": "canary"}, {"signature": "mirrored", "version": 2}],
}


@pytest.mark.parametrize("name", SAME)
def test_however_a_version_is_called_the_first_answer_is_replayed_or_a_fresh_one_is_the_servers(proxied, direct, asked, name):
    """Labels may be moved, so that two ways to call a version may be two questions; each is answered for what it names."""
    for which in SAME[name]:
        expected = direct.ask("clf", PICTURE, **which)
        assert proxied.ask("clf", PICTURE, **which) == expected
        with asked("clf") as reached:
            assert proxied.ask("clf", NEAR, **which) == expected
        assert reached.requests == 0


def test_the_version_that_was_newest_and_the_newest_are_one_question(proxied, asked):
    first = proxied.ask("clf", PICTURE)
    with asked("clf") as reached:
        assert proxied.ask("clf", NEAR, version=2) == first
        assert proxied.ask("clf", NEAR, signature="serving_default") == first
    assert reached.requests == 0


@pytest.mark.parametrize("which", [{"version": 1}, {"label": "stable"}, {"signature": "mirrored"}], ids=str)
def test_another_version_or_signature_is_another_question(proxied, direct, asked, which):
    proxied.ask("clf", PICTURE)
    expected = direct.ask("clf", PICTURE, **which)
    with asked("clf") as reached:
        assert proxied.ask("clf", PICTURE, **which) == expected
    assert reached.requests == 1


# Which outputs


@pytest.mark.parametrize("outputs", [["scores"], ["digest", "scores"], ["scores", "digest"], ["classes"]], ids=str)
@pytest.mark.parametrize("model", ["clf_u8", "content"])
def test_the_outputs_asked_for_are_the_outputs_that_come_back(proxied, direct, asked, model, outputs):
    expected = direct.ask(model, PICTURE, outputs=outputs)
    assert proxied.ask(model, PICTURE, outputs=outputs) == expected
    with asked(model) as reached:
        assert proxied.ask(model, NEAR, outputs=outputs) == expected
    assert reached.requests == 0


@pytest.mark.parametrize("model", ["clf_u8", "content"])
def test_a_near_copy_may_ask_for_other_outputs_than_the_first_did(proxied, direct, asked, model):
    everything = direct.ask(model, PICTURE)
    classes = direct.ask(model, PICTURE, outputs=["classes"])
    assert proxied.ask(model, PICTURE, outputs=["scores"]).code == "OK"
    with asked(model) as reached:
        assert proxied.ask(model, NEAR) == everything
        assert proxied.ask(model, NEAR, outputs=["classes"]) == classes
    assert reached.requests == 0


# Batches. That the server takes a batch of encoded pictures is not in its signature: it is seen once, with other pictures.


def other_pictures(count):
    return [drawn(700 + index) for index in range(count)]


@pytest.mark.parametrize("model", ["clf", "clf_u8", "content", "aux", "jpeg"])
def test_a_batch_gets_the_servers_own_reply(proxied, direct, model):
    assert proxied.ask(model, photos(5)) == direct.ask(model, photos(5))


@pytest.mark.parametrize("content", [True, False], ids=["content", "typed"])
@pytest.mark.parametrize("model", ["clf", "clf_u8", "content", "aux", "jpeg"])
def test_of_a_batch_with_near_copies_only_the_others_are_forwarded(proxied, direct, asked, model, content):
    pictures = photos(4)
    assert proxied.predict(question(model, other_pictures(4), content=content)).code == "OK"
    first = [proxied.ask(model, picture) for picture in pictures[:2]]
    batch = [one_pixel(pictures[1]), pictures[2], one_pixel(pictures[0]), pictures[3]]
    fresh = direct.ask(model, batch)
    with asked(model) as reached:
        answer = proxied.predict(question(model, batch, content=content))
    assert (reached.requests, reached.rows) == (1, 2)
    for alias in ("scores", "digest", "classes"):
        expected = output(fresh, alias).copy()
        expected[0], expected[2] = output(first[1], alias)[0], output(first[0], alias)[0]
        assert np.array_equal(output(answer, alias), expected), alias
    assert reply(Predict, answer).model_spec == reply(Predict, fresh).model_spec


@pytest.mark.parametrize("model", ["clf_u8", "content", "jpeg"])
def test_a_batch_of_near_copies_alone_is_not_forwarded(proxied, direct, asked, model):
    expected = direct.ask(model, photos(3))
    assert proxied.ask(model, other_pictures(3)).code == "OK"
    for picture in photos(3):
        proxied.ask(model, picture)
    with asked(model) as reached:
        assert proxied.ask(model, [one_pixel(picture) for picture in photos(3)]) == expected
    assert reached.requests == 0


def test_two_near_copies_in_one_batch_are_one_question(proxied, direct, asked):
    assert proxied.ask("clf_u8", [photo(4), photo(5), photo(6)]).code == "OK", "no signature says how many rows are taken"
    with asked("clf_u8") as reached:
        answer = proxied.ask("clf_u8", [PICTURE, NEAR, photo(1)])
    assert reached.rows == 2
    assert np.array_equal(output(answer)[0], output(answer)[1])
    assert np.array_equal(output(answer)[:1], output(direct.ask("clf_u8", PICTURE)))


# What else a question may hold


def test_another_value_of_another_input_is_another_question(proxied, direct, asked):
    proxied.ask("aux", PICTURE, threshold=0.05)
    expected = direct.ask("aux", PICTURE, threshold=0.2)
    with asked("aux") as reached:
        assert proxied.ask("aux", PICTURE, threshold=0.2) == expected
    assert reached.requests == 1


def test_an_encoded_picture_is_the_same_in_another_format(proxied, direct, asked):
    """A near-copy of an encoded picture is known by its pixels, not by its bytes."""
    request = question("jpeg", NEAR)
    request.inputs["image_bytes"].string_val[0] = bitmap(photo(1))
    assert proxied.predict(request) == direct.predict(request)
    first = proxied.ask("jpeg", PICTURE)
    request.inputs["image_bytes"].string_val[0] = bitmap(NEAR)
    with asked("jpeg") as reached:
        assert proxied.predict(request) == first
    assert reached.requests == 0


def bitmap(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "BMP")
    return file.getvalue()


def test_text_to_a_model_without_pictures_gets_the_servers_own_reply_every_time(direct, proxied, asked):
    request = text(b"hello", b"a longer text")
    expected = direct.predict(request)
    assert expected.code == "OK"
    with asked("text") as reached:
        assert [proxied.predict(request), proxied.predict(request)] == [expected, expected]
    assert reached.requests == 2


def text(*strings):
    request = METHODS[Predict][0](model_spec={"name": "text"})
    request.inputs["text"].dtype = types_pb2.DT_STRING
    request.inputs["text"].tensor_shape.dim.add(size=len(strings))
    request.inputs["text"].string_val.extend(strings)
    return request
