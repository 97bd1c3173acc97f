"""A near-copy of a picture that the same caller asked about gets the answer already given; the model is not asked."""

import grpc
import numpy as np
import pytest
from asking import FORMS, finished, question, typed
from pictures import drawn, one_pixel, photo, photos

PICTURE = photo(0)
NEAR = one_pixel(PICTURE, seed=1)


@pytest.mark.parametrize("model", FORMS)
def test_a_copy_with_one_changed_pixel_gets_the_first_answer(proxied, direct, asked, model):
    first = proxied.ask(model, PICTURE)
    assert first == direct.ask(model, PICTURE)
    with asked(model) as reached:
        assert proxied.ask(model, NEAR) == first
    assert reached.requests == 0


@pytest.mark.parametrize("model", FORMS)
def test_an_exact_repeat_gets_the_first_answer_under_its_own_id(proxied, asked, model):
    first = proxied.ask(model, PICTURE, id="first")
    with asked(model) as reached:
        again, nameless = proxied.ask(model, PICTURE, id="second"), proxied.ask(model, PICTURE)
    assert reached.requests == 0
    assert again.body == first.with_id("second") and nameless.body == first.with_id("")


def test_a_different_picture_is_forwarded(proxied, direct, asked):
    proxied.ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert proxied.ask("clf_u8", photo(1)).body == proxied.ask("clf_u8", photo(1)).body
    assert reached.requests == 1
    assert proxied.ask("clf_u8", photo(1)) == direct.ask("clf_u8", photo(1))


def test_all_photographs_are_different_pictures(proxied, direct, asked):
    expected = [direct.ask("clf_u8", picture).body for picture in photos()]
    with asked("clf_u8") as reached:
        assert [proxied.ask("clf_u8", picture).body for picture in photos()] == expected
    assert reached.rows == len(photos())


def test_another_caller_has_another_past(refrain, clients, direct, asked):
    proxy = refrain()
    alice, bob = clients(proxy, user="alice"), clients(proxy, user="bob")
    alice.ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert bob.ask("clf_u8", NEAR) == direct.ask("clf_u8", NEAR)
    assert reached.requests == 2  # bob's, and the one that asked past the proxy


def test_a_caller_is_the_same_on_every_connection(refrain, clients, asked):
    proxy = refrain()
    first = clients(proxy, user="alice").ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert clients(proxy, user="alice").ask("clf_u8", NEAR) == first
    assert reached.requests == 0


def test_a_decoy_between_two_probes_changes_nothing(proxied, asked):
    first = proxied.ask("clf_u8", PICTURE)
    for index in range(1, 6):
        proxied.ask("clf_u8", photo(index))
        with asked("clf_u8") as reached:
            assert proxied.ask("clf_u8", one_pixel(PICTURE, seed=index)) == first
        assert reached.requests == 0


def test_three_hundred_decoys_sent_twice_each_do_not_flush_a_picture_that_was_probed(proxied, asked):
    first = proxied.ask("clf_u8", PICTURE)
    assert proxied.ask("clf_u8", NEAR) == first
    for seed in range(300):
        for _ in range(2):
            assert proxied.ask("clf_u8", drawn(seed)).code == "OK"
    with asked("clf_u8") as reached:
        assert proxied.ask("clf_u8", one_pixel(PICTURE, seed=9)) == first
    assert reached.requests == 0


def test_a_batch_asks_only_for_its_new_rows_and_comes_back_in_order(proxied, direct, asked):
    new = photos(11)
    order = [0, 1, 2, 0, 3, 4, 1, 5, 2, 6, 7, 7, 8, 9, 10, 4]  # five rows are near-copies of rows before them
    seen, rows = set(), []
    for index in order:
        rows.append(one_pixel(new[index], seed=index) if index in seen else new[index])
        seen.add(index)
    with asked("clf_u8") as reached:
        reply = proxied.ask("clf_u8", rows, id="batch")
    assert (reached.requests, reached.rows) == (1, 11)
    assert reply.body == direct.ask("clf_u8", [new[index] for index in order], id="batch").body


@pytest.mark.parametrize("model", ["clf", "clf_nchw", "two", "aux"])
def test_a_batch_of_known_and_new_rows_is_answered_row_by_row(proxied, direct, asked, model):
    known = proxied.ask(model, photo(0))
    with asked(model) as reached:
        reply = proxied.ask(model, [photo(1), one_pixel(photo(0)), photo(2)])
    assert (reached.requests, reached.rows) == (1, 2)
    assert reply == direct.ask(model, [photo(1), photo(0), photo(2)])
    assert np.array_equal(reply.output()[1], known.output()[0])


def test_a_batch_of_known_rows_alone_asks_nobody(proxied, direct, asked):
    expected = direct.ask("clf_u8", photos(4))
    proxied.ask("clf_u8", photos(4))
    with asked("clf_u8") as reached:
        assert proxied.ask("clf_u8", [one_pixel(picture) for picture in photos(4)]) == expected
    assert reached.requests == 0


def test_two_near_copies_at_once_ask_once(proxied, asked):
    with asked("slow_u8") as reached:
        calls = [proxied.start("ModelInfer", question("slow_u8", picture)) for picture in (PICTURE, NEAR, PICTURE)]
        replies = [finished(call) for call in calls]
    assert reached.rows == 1
    assert replies[0].code == "OK" and replies[0] == replies[1] == replies[2]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_near_copy_gets_the_first_answer(proxied, direct, asked, compression):
    first = proxied.ask("clf_u8", PICTURE, compression=compression)
    assert first == direct.ask("clf_u8", PICTURE, compression=compression)
    with asked("clf_u8") as reached:
        assert proxied.ask("clf_u8", NEAR, compression=compression).body == first.body
        assert proxied.ask("clf_u8", NEAR).body == first.body
    assert reached.requests == 0


@pytest.mark.parametrize("model", ["clf_u8", "clf", "clf_nchw", "clf_single", "aux"])
def test_the_same_picture_is_the_same_in_raw_and_typed_contents(proxied, direct, asked, model):
    first = proxied.ask(model, PICTURE)
    assert direct.infer(typed(question(model, PICTURE))) == first
    with asked(model) as reached:
        assert proxied.infer(typed(question(model, PICTURE))) == first
        assert proxied.infer(typed(question(model, NEAR))) == first
    assert reached.requests == 0


def test_a_request_in_typed_contents_gets_the_servers_own_reply(proxied, direct):
    request = typed(question("clf_u8", PICTURE))
    assert proxied.infer(request) == direct.infer(request)


@pytest.mark.parametrize("outputs", [["logits"], ["probabilities"], ["logits", "probabilities"], ["logits", "logits"]])
def test_the_outputs_asked_for_are_the_outputs_that_come_back(proxied, direct, asked, outputs):
    expected = direct.infer(question("two", PICTURE, outputs=outputs))
    assert proxied.infer(question("two", PICTURE, outputs=outputs)) == expected
    with asked("two") as reached:
        assert proxied.infer(question("two", NEAR, outputs=outputs)) == expected
    assert reached.requests == 0


def test_a_near_copy_may_ask_for_other_outputs_than_the_first_did(proxied, direct, asked):
    everything = direct.infer(question("two", PICTURE))
    logits = direct.infer(question("two", PICTURE, outputs=["logits"]))
    assert proxied.infer(question("two", PICTURE, outputs=["probabilities"])).code == "OK"
    with asked("two") as reached:
        assert proxied.infer(question("two", NEAR)) == everything
        assert proxied.infer(question("two", NEAR, outputs=["logits"])) == logits
    assert reached.requests == 0


@pytest.mark.parametrize("model", ["clf_u8", "clf"])
def test_a_classification_is_the_servers_own_and_is_replayed_like_any_answer(proxied, direct, asked, model):
    def top(picture, count):
        request = question(model, picture, outputs=["probabilities"])
        request.outputs[0].parameters["classification"].int64_param = count
        return request

    first = proxied.infer(top(PICTURE, 3))
    assert first == direct.infer(top(PICTURE, 3))
    with asked(model) as reached:
        assert proxied.infer(top(NEAR, 3)) == first
    assert reached.requests == 0


def test_another_value_of_another_input_is_another_question(proxied, direct, asked):
    proxied.infer(question("aux", PICTURE, threshold=0.05))
    with asked("aux") as reached:
        assert proxied.infer(question("aux", PICTURE, threshold=0.2)).code == "OK"
    assert reached.requests == 1
    assert proxied.infer(question("aux", PICTURE, threshold=0.2)) == direct.infer(question("aux", PICTURE, threshold=0.2))


def test_a_version_is_another_question_and_its_spelling_is_not(proxied, direct, asked):
    newest = proxied.infer(question("versioned", PICTURE))
    assert newest == direct.infer(question("versioned", PICTURE))
    with asked("versioned") as reached:
        assert proxied.infer(question("versioned", NEAR, version="2")) == newest
    assert reached.requests == 0
    older = proxied.infer(question("versioned", PICTURE, version="1"))
    assert older == direct.infer(question("versioned", PICTURE, version="1")) != newest


def test_parameters_that_change_nothing_do_not_make_another_question(proxied, asked):
    first = proxied.ask("clf_u8", PICTURE)
    request = question("clf_u8", NEAR)
    request.parameters["anything"].string_param = "x"
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 1_000_000
    with asked("clf_u8") as reached:
        assert proxied.infer(request) == first
    assert reached.requests == 0


def test_an_error_is_never_remembered(proxied, direct):
    failing, fine = PICTURE.copy(), PICTURE.copy()
    failing[0, 0, 0], fine[0, 0, 0] = 255, 254
    assert proxied.ask("fails", failing) == direct.ask("fails", failing)
    assert proxied.ask("fails", fine) == direct.ask("fails", fine)
    assert direct.ask("fails", fine).code == "OK"


def test_a_model_that_answers_several_pictures_at_once_is_not_split(proxied, direct, asked):
    expected = direct.infer(summed(photos(3)))
    with asked("summed") as reached:
        assert proxied.infer(summed(photos(3))) == expected
    assert reached.requests == 1


def summed(pictures):
    request = question("clf", pictures)
    request.model_name = "summed"
    return request


def test_a_stateful_model_is_asked_every_time(proxied, direct):
    def sequence(client):
        for index in range(4):
            request = question("seq", PICTURE)
            request.parameters["sequence_id"].int64_param = 71
            request.parameters["sequence_start"].bool_param = index == 0
            request.parameters["sequence_end"].bool_param = index == 3
            yield client.infer(request)

    replies = list(sequence(proxied))
    assert replies == list(sequence(direct))
    assert [reply.parsed.raw_output_contents[1] for reply in replies] == [bytes([count, 0, 0, 0]) for count in (1, 2, 3, 4)]
    assert proxied.infer(question("seq", PICTURE)) == direct.infer(question("seq", PICTURE))  # no sequence: an error


def test_a_decoupled_model_refuses_as_before(proxied, direct):
    for _ in range(2):
        assert proxied.ask("decoupled", PICTURE) == direct.ask("decoupled", PICTURE)


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_without_enforcement_every_question_reaches_the_model(refrain, clients, direct, asked, mode):
    client = clients(refrain(f'mode = "{mode}"'), user="alice")
    pictures = [PICTURE, NEAR, PICTURE, *(one_pixel(PICTURE, seed) for seed in range(2, 14))]
    expected = [direct.ask("clf_u8", picture) for picture in pictures]
    with asked("clf_u8") as reached:
        assert [client.ask("clf_u8", picture) for picture in pictures] == expected
    assert reached.requests == len(pictures)


def test_the_mode_of_one_model_is_its_own(refrain, clients, asked):
    client = clients(refrain(tables='[models."two"]\nmode = "observe"'), user="alice")
    for model, expected in (("two", 2), ("clf_u8", 1)):
        with asked(model) as reached:
            client.ask(model, PICTURE), client.ask(model, NEAR)
        assert reached.requests == expected


def test_the_papers_own_profile_remembers_one_picture(refrain, clients, asked):
    client = clients(refrain('profile = "paper"'), user="alice")
    first = client.ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert client.ask("clf_u8", NEAR) == first
    assert reached.requests == 0
    client.ask("clf_u8", photo(1))
    with asked("clf_u8") as reached:
        client.ask("clf_u8", NEAR)
    assert reached.requests == 1
