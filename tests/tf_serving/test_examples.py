"""Classify, Regress and MultiInference: judged where the picture is a bytes feature of the Example, else refused."""

import pytest
from pictures import one_pixel, photo, photos
from predicting import Classify, MultiInference, Regress, example, examples, reply

METHODS = [Classify, Regress, MultiInference]
PICTURE = photo(6)
NEAR = one_pixel(PICTURE, seed=2)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_itself_tells_the_copy_from_the_picture(direct, method):
    answers = [direct.call(method, examples(method, [picture])) for picture in (PICTURE, NEAR)]
    assert [answer.code for answer in answers] == ["OK", "OK"]
    assert answers[0].body != answers[1].body


@pytest.mark.parametrize("method", METHODS)
def test_a_near_copy_in_an_example_gets_the_first_answer(proxied, direct, asked, method):
    first = proxied.call(method, examples(method, [PICTURE]))
    assert first == direct.call(method, examples(method, [PICTURE]))
    with asked("clf") as reached:
        assert proxied.call(method, examples(method, [NEAR])) == first
    assert reached.rows == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_new_picture_in_an_example_gets_the_servers_own_reply(proxied, direct, method):
    proxied.call(method, examples(method, [PICTURE]))
    assert proxied.call(method, examples(method, [photo(7)])) == direct.call(method, examples(method, [photo(7)]))


@pytest.mark.parametrize("method", METHODS)
def test_several_examples_get_the_servers_own_reply_and_a_repeat_the_same(proxied, direct, asked, method):
    expected = direct.call(method, examples(method, photos(3)))
    assert proxied.call(method, examples(method, photos(3))) == expected
    with asked("clf") as reached:
        assert proxied.call(method, examples(method, [one_pixel(picture) for picture in photos(3)])) == expected
    assert reached.rows == 0


@pytest.mark.parametrize("method", [Classify, Regress])
def test_no_near_copy_among_examples_gets_an_answer_of_its_own(proxied, direct, method):
    """Whether the others are forwarded alone or the call as a whole is the proxy's choice: the copy's answer is the first one's."""
    first = proxied.call(method, examples(method, [PICTURE]))
    answer = proxied.call(method, examples(method, [photo(8), NEAR]))
    if answer.code == "OK":
        assert rows(method, answer)[1] == rows(method, first)[0]
        assert rows(method, answer)[0] == rows(method, direct.call(method, examples(method, [photo(8)])))[0]


def rows(method, answer):
    result = reply(method, answer).result
    return result.classifications if method == Classify else result.regressions


REFUSED = "refused"


def answers(proxied, asked, method, request):
    """Two answers to it; to see whether the server accepts its form it may be forwarded the first time, but not the second."""
    first = proxied.call(method, request)
    with asked("clf") as reached:
        second = proxied.call(method, request)
    assert reached.rows == 0
    return REFUSED if first.code == second.code == "INVALID_ARGUMENT" else [first, second]


@pytest.mark.parametrize("method", METHODS)
def test_an_example_with_a_shared_context_is_judged_or_refused(proxied, direct, asked, method):
    """The server writes the context before every Example: a picture in it is every Example's."""
    plain = examples(method, [PICTURE])
    shared = examples(method, [None], context=example(NEAR))
    assert direct.call(method, shared).body == direct.call(method, examples(method, [NEAR])).body
    first = proxied.call(method, plain)
    assert answers(proxied, asked, method, shared) in ([first, first], REFUSED)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_in_an_example_counts_over_one_in_the_context(proxied, direct, asked, method):
    hidden = examples(method, [NEAR], context=example(photo(9)))
    assert direct.call(method, hidden).body == direct.call(method, examples(method, [NEAR])).body
    first = proxied.call(method, examples(method, [PICTURE]))
    assert answers(proxied, asked, method, hidden) in ([first, first], REFUSED)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_feature_hides_no_picture_of_the_context(proxied, direct, asked, method):
    """TensorFlow passes over a feature of no kind, where protobuf's own merging would let it count."""
    hidden = examples(method, [None], context=example(NEAR))
    part = hidden.input.example_list_with_context.examples[0]
    part.features.feature["image/encoded"].Clear()
    assert direct.call(method, hidden).body == direct.call(method, examples(method, [NEAR])).body
    first = proxied.call(method, examples(method, [PICTURE]))
    assert answers(proxied, asked, method, hidden) in ([first, first], REFUSED)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", ["no_examples", "no_picture", "two_pictures", "no_bytes", "not_a_picture"])
def test_examples_without_one_picture_each_are_refused(proxied, direct, asked, method, given):
    request = examples(method, [] if given == "no_examples" else [None if given == "no_picture" else PICTURE])
    if given in ("two_pictures", "not_a_picture", "no_bytes"):
        values = request.input.example_list.examples[0].features.feature["image/encoded"]
        if given == "two_pictures":
            values.bytes_list.value.append(values.bytes_list.value[0])
        elif given == "not_a_picture":
            values.bytes_list.value[0] = b"GIF89a, not really"
        else:
            values.float_list.value.append(1.0)
    assert direct.call(method, request).code != "OK"
    with asked("clf") as reached:
        answer = proxied.call(method, request)
    assert answer.code in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED"), answer
    assert reached.rows == 0


@pytest.mark.parametrize("known", [False, True], ids=["new_picture", "known_picture"])
@pytest.mark.parametrize("signature", ["nope", "serving_default", "regress"])
def test_a_signature_that_does_not_classify_is_refused_alike_for_hit_and_miss(proxied, direct, signature, known):
    if known:
        proxied.call(Classify, examples(Classify, [PICTURE]))
    request = examples(Classify, [NEAR], signature=signature)
    expected = direct.call(Classify, request)
    assert expected.code == "INVALID_ARGUMENT"
    assert proxied.call(Classify, request).code == expected.code
