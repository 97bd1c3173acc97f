"""One picture can be written in many ways. However TensorFlow reads it, Refrain reads the same: none is a way round.

Each writing holds a near-copy of a picture that the caller asked about. It gets the first answer, or it is refused where no
honest client writes so; never does it get the answer that the model would give to the copy.
"""

import pytest
from pictures import one_pixel, photo
from predicting import Predict, output
from tensorflow_messages import METHODS
from writings import OTHER, REFUSABLE, WRITINGS, grey_ended, plain_of

PICTURE = photo(3)
NEAR = grey_ended(one_pixel(PICTURE, seed=5))


def model(name):
    return METHODS[Predict][0].FromString(WRITINGS[name](OTHER)).model_spec.name


@pytest.mark.parametrize("name", WRITINGS)
def test_the_server_reads_this_writing_as_the_picture(direct, name):
    as_written, plain = direct.predict(WRITINGS[name](NEAR)), direct.predict(plain_of(name, NEAR))
    assert output(as_written, "digest").tolist() == output(plain, "digest").tolist()
    assert as_written.body == plain.body != direct.predict(plain_of(name, PICTURE)).body


@pytest.mark.parametrize("name", WRITINGS)
def test_no_writing_of_a_near_copy_gets_an_answer_of_its_own(proxied, asked, name):
    """A form that the server has not been seen to accept may be forwarded once, to see whether it does, but not answered from it."""
    first = proxied.predict(plain_of(name, PICTURE))
    assert first.code == "OK"
    for known in (False, True):
        with asked(model(name)) as reached:
            reply = proxied.predict(WRITINGS[name](NEAR))
        if reply.code == "OK" or name not in REFUSABLE:
            assert reply == first
        if known and reply.code == "OK":
            assert reached.rows == 0


@pytest.mark.parametrize("name", WRITINGS)
def test_every_writing_of_a_new_picture_is_answered_as_the_server_answers_it(proxied, direct, asked, name):
    assert proxied.predict(plain_of(name, photo(1))).code == "OK"
    with asked(model(name)) as reached:
        reply = proxied.predict(WRITINGS[name](NEAR))
    if reply.code == "OK" or name not in REFUSABLE:
        assert reply == direct.predict(WRITINGS[name](NEAR))
        assert reached.rows == 1
