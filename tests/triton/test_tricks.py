"""Two questions, no search: a changed copy first, so that its answer is given for the picture. Each must fail."""

import numpy as np
import pytest
from asking import question
from pictures import TRICKS, drawn, one_pixel, photos


@pytest.mark.parametrize("suspicions", [None, 8], ids=["by_default", "where_suspects_are_forwarded"])
@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.__name__)
def test_a_picture_gets_its_own_label_or_none_after_a_changed_copy_of_it(refrain, clients, direct, trick, suspicions):
    proxy = refrain(suspicions=suspicions)
    wrong = []
    for index, picture in enumerate(photos()):
        caller = clients(proxy, user=f"caller-{index}")
        assert caller.ask("clf_u8", trick(picture)).code == "OK"
        reply = caller.ask("clf_u8", picture)
        refused = suspicions is None and reply.code == "RESOURCE_EXHAUSTED"
        if not refused and reply.label != direct.ask("clf_u8", picture).label:
            wrong.append(index)
    assert wrong == []


def test_by_default_the_model_is_never_asked_about_a_suspect(refrain, clients, asked):
    mallory = clients(refrain(suspicions=None), user="mallory")
    picture, patched = photos()[0], photos()[0].copy()
    patched[8:20, 8:20] = drawn(900)[8:20, 8:20]
    first = mallory.ask("clf_u8", picture)
    with asked("clf_u8") as reached:
        refused = mallory.ask("clf_u8", patched)
        mirrored = mallory.ask("clf_u8", np.ascontiguousarray(picture[:, ::-1]))
        assert mallory.ask("clf_u8", one_pixel(picture)) == mallory.ask("clf_u8", picture) == first
    assert refused.code == mirrored.code == "RESOURCE_EXHAUSTED" and not refused.body
    assert reached.requests == 0
    assert mallory.ask("clf_u8", photos()[1]).code == "OK", "what is new is asked"


def test_a_caller_that_keeps_asking_about_changed_copies_is_refused_and_others_are_not(refrain, clients, direct):
    proxy = refrain()
    mallory, alice = clients(proxy, user="mallory"), clients(proxy, user="alice")
    picture = photos()[0]
    codes = [mallory.ask("clf_u8", picture).code]
    for step in range(60):
        changed = picture.copy()
        changed[8:24, 8:24] = drawn(900 + step)[8:24, 8:24]
        codes.append(mallory.ask("clf_u8", changed).code)
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"} and codes[0] == "OK"
    assert mallory.ask("clf_u8", picture) == direct.ask("clf_u8", picture)  # what it was told once, it is told again
    assert alice.ask("clf_u8", picture) == direct.ask("clf_u8", picture)


def test_a_row_hidden_in_a_batch_is_judged_like_any_other(proxied, asked):
    pictures = photos(4)
    first = proxied.ask("clf_u8", pictures[0])
    with asked("clf_u8") as reached:
        reply = proxied.ask("clf_u8", [pictures[1], pictures[2], one_pixel(pictures[0]), pictures[3]])
    assert reached.rows == 3
    assert reply.output()[2].tobytes() == first.output()[0].tobytes()


def test_a_row_with_values_out_of_range_leaves_the_answer_to_the_real_picture_alone(proxied, direct):
    """The hash sees clipped pixels, the model sees huge ones: such a row is not the picture it looks like."""
    picture = photos()[0]
    request = question("clf", picture)
    values = np.frombuffer(request.raw_input_contents[0], np.float32).copy()
    values[values > 0.9] = 50.0
    values[:30] = -50.0
    request.raw_input_contents[0] = values.tobytes()
    proxied.infer(request)
    assert proxied.ask("clf", picture).label == direct.ask("clf", picture).label
