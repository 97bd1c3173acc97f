"""Classes instead of numbers: however many a caller asks for, they are cut from one answer, as the server would cut it."""

import forms
import pytest
from asking import question
from forms import elements, output
from pictures import one_pixel, photo

import triton as servers

PICTURE = photo(0)
NEAR = one_pixel(PICTURE, seed=1)
ALL = 2**31 - 1
COUNTS = [1, 2, 3, 9, 10, 11, ALL, 2**31, 2**32 - 1, 2**32, 2**32 + 2, 2**40, 2**63 - 1]


def top(picture, *counts, id="", model="scores"):
    """A question for classes: `counts` holds pairs of an output and how many of its classes, None for its numbers."""
    request = question(model, picture, id=id)
    for name, count in counts:
        wanted = request.outputs.add(name=name)
        if count is not None:
            wanted.parameters["classification"].int64_param = count
    return request


QUESTIONS = {
    "one": [("probabilities", 1)],
    "labels": [("probabilities", 3)],
    "labels_of_doubles": [("double", 4)],
    "integers": [("percent", 3)],
    "bytes": [("small", 5)],
    "two_dimensions": [("grid", 7)],
    "many_alike": [("tied", 33)],
    "all": [("probabilities", ALL)],
    "classes_and_numbers": [("probabilities", 2), ("percent", None)],
    "numbers_and_classes": [("percent", None), ("probabilities", 2)],
    "two_counts": [("double", 4), ("probabilities", 2)],
    "twice_with_other_counts": [("probabilities", 2), ("probabilities", 4)],
    "first_numbers_then_classes": [("probabilities", None), ("probabilities", 4)],
    "first_classes_then_numbers": [("probabilities", 4), ("probabilities", None)],
    "everything_else": [("words", None), ("flags", None), ("half", None), ("tied", 6)],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_classes_are_the_servers_own_on_a_miss_and_on_a_hit(proxied, direct, asked, name):
    expected = direct.infer(top(PICTURE, *QUESTIONS[name], id="1"))
    assert expected.code == "OK"
    assert proxied.infer(top(PICTURE, *QUESTIONS[name], id="1")) == expected
    with asked("scores") as reached:
        assert proxied.infer(top(NEAR, *QUESTIONS[name], id="1")) == expected
    assert reached.requests == 0


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_classes_is_cut_from_the_first_answer(proxied, direct, asked, count):
    """The first question asks for one class; Triton cuts the number to 32 bits, so that some huge ones are none at all."""
    assert proxied.infer(top(PICTURE, ("probabilities", 1))).code == "OK"
    expected = direct.infer(top(PICTURE, ("probabilities", count)))
    with asked("scores") as reached:
        assert proxied.infer(top(NEAR, ("probabilities", count))) == expected
    assert reached.requests == 0


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_classes_is_answered_as_the_server_does_on_a_miss(proxied, direct, count):
    request = top([PICTURE, photo(1)], ("tied", count))
    assert proxied.infer(request) == direct.infer(request)


def test_classes_of_a_batch_are_each_rows_own(proxied, direct, asked):
    wanted = [("probabilities", 3), ("percent", 2)]
    proxied.infer(top(PICTURE, ("probabilities", 1), ("percent", 1)))
    expected = direct.infer(top([photo(1), PICTURE, photo(2)], *wanted))
    with asked("scores") as reached:
        assert proxied.infer(top([photo(1), NEAR, photo(2)], *wanted)) == expected
    assert reached.rows == 2


def test_labels_are_those_of_the_first_picture(proxied, direct):
    proxied.infer(top(PICTURE, ("probabilities", 1)))
    labels = [element.split(b":")[2] for element in elements(output(proxied.infer(top(NEAR, ("probabilities", 3))), "probabilities"))]
    assert labels == [element.split(b":")[2] for element in elements(output(direct.infer(top(PICTURE, ("probabilities", 3))), "probabilities"))]


def test_of_a_model_without_batches_the_whole_answer_is_one_row(proxied, direct, asked):
    expected = direct.infer(top(PICTURE, ("probabilities", 3), model="clf_single"))
    assert proxied.infer(top(PICTURE, ("probabilities", 3), model="clf_single")) == expected
    with asked("clf_single") as reached:
        assert proxied.infer(top(NEAR, ("probabilities", 3), model="clf_single")) == expected
    assert reached.requests == 0


@pytest.mark.parametrize("name", ["half", "flags"])
@pytest.mark.parametrize("known", [False, True], ids=["new_picture", "known_picture"])
def test_what_has_no_classes_is_refused_as_the_server_refuses_it(proxied, direct, name, known):
    if known:
        assert proxied.infer(top(PICTURE, ("probabilities", 1))).code == "OK"
    expected = direct.infer(top(NEAR, (name, 1)))
    assert expected.code == "INVALID_ARGUMENT"
    assert proxied.infer(top(NEAR, (name, 1))) == expected


def test_classes_of_text_never_reach_the_server_which_dies_of_them(refrain, clients):
    with servers.Triton(only=["scores", "text"]) as server:  # a server of its own
        client = clients(refrain(upstream=f"http://127.0.0.1:{server.grpc}"), user="alice")
        text = forms.tensor("text", "BYTES", [1, 1], b"\x02\0\0\0hi", name="text")
        text.outputs.add(name="upper").parameters["classification"].int64_param = 1
        assert client.infer(top(NEAR, ("words", 1))).code == "INVALID_ARGUMENT"
        assert client.infer(text).code == "INVALID_ARGUMENT"
        assert client.infer(top(PICTURE, ("probabilities", 1))).code == "OK"
        assert client.infer(top(NEAR, ("probabilities", 1), ("words", 1))).code == "INVALID_ARGUMENT"
        assert client.infer(top(photo(1))).code == "OK", "Triton still lives"


def test_what_a_caller_may_vary_freely_asks_the_model_once(proxied, asked):
    """The number of classes, the id, the parameters, naming the output twice: one question all the same."""
    with asked("scores") as reached:
        assert proxied.infer(top(PICTURE, ("probabilities", 1))).code == "OK"
        for seed, count in enumerate((2, 3, 10, ALL, 2**40)):
            assert proxied.infer(top(one_pixel(PICTURE, seed), ("probabilities", count), id=str(count))).code == "OK"
        assert proxied.infer(top(NEAR, ("probabilities", 2), ("probabilities", 7))).code == "OK"
        request = top(NEAR, ("probabilities", 2))
        request.parameters["anything"].string_param = "x"
        request.outputs[0].parameters["anything"].int64_param = 1
        assert proxied.infer(request).code == "OK"
    assert reached.requests == 1


def test_what_has_no_classes_is_kept_beside_them_whichever_output_was_asked_for(proxied, direct, asked):
    expected = direct.infer(top(PICTURE, ("half", None), ("probabilities", 3), ("words", None), ("percent", 2)))
    assert proxied.infer(top(PICTURE, ("probabilities", 1))).code == "OK"
    with asked("scores") as reached:
        assert proxied.infer(top(NEAR, ("half", None), ("probabilities", 3), ("words", None), ("percent", 2))) == expected
    assert reached.requests == 0


def test_numbers_and_classes_of_one_picture_are_each_asked_for_once(proxied, direct, asked):
    wanted = ([], [("probabilities", 2)], [("probabilities", 5)], [("double", 2)], [("double", 3)], [("percent", None)])
    with asked("scores") as reached:
        for outputs in wanted * 2:
            assert proxied.infer(top(PICTURE, *outputs)) == direct.infer(top(PICTURE, *outputs))
    assert reached.requests - 12 <= 3, "12 past the proxy; numbers, classes of one output, classes of another"
