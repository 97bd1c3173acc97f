"""Who asks: by certificate, by a name that something trusted gives, by address. Pasts never cross callers."""

import grpc
import pytest
from asking import question
from certificates import Authority
from pictures import one_pixel, photo

PICTURE = photo(4)
NEAR = one_pixel(PICTURE, seed=2)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def credentials(authority, pair=None):
    certificate, key = pair or (None, None)
    return grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(), key and key.read_bytes(), certificate and certificate.read_bytes()
    )


def tls(authority, clients=True):
    certificate, key = authority.server()
    asks = f"client_ca = {str(authority.certificate)!r}\n" if clients else ""
    return f"[tls]\ncertificate = {str(certificate)!r}\nkey = {str(key)!r}\n{asks}"


def test_callers_with_certificates_are_told_apart_by_them(refrain, clients, authority, direct, asked):
    proxy = refrain(tables=tls(authority), callers="")
    alice, bob = (clients(proxy, credentials=credentials(authority, authority.caller(who))) for who in ("alice", "bob"))
    first = alice.ask("clf_u8", PICTURE)
    assert first == direct.ask("clf_u8", PICTURE)
    expected = direct.ask("clf_u8", NEAR)
    with asked("clf_u8") as reached:
        assert alice.ask("clf_u8", NEAR) == first
    assert reached.requests == 0
    with asked("clf_u8") as reached:
        assert bob.ask("clf_u8", NEAR) == expected
    assert reached.requests == 1


def test_a_certificate_counts_for_more_than_a_name(refrain, clients, authority, asked):
    proxy = refrain(tables=tls(authority))
    pair = credentials(authority, authority.caller("alice"))
    first = clients(proxy, credentials=pair, user="alice").ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert clients(proxy, credentials=pair, user="somebody-else").ask("clf_u8", NEAR) == first
    assert reached.requests == 0


def test_a_caller_without_a_certificate_is_not_let_in_where_one_is_asked_for(refrain, clients, authority):
    client = clients(refrain(tables=tls(authority), callers=""), credentials=credentials(authority))
    assert client.ask("clf_u8", PICTURE, timeout=5).code == "UNAVAILABLE"


def test_a_certificate_of_another_authority_is_not_let_in(refrain, clients, authority, tmp_path):
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "others").caller("mallory")
    client = clients(refrain(tables=tls(authority), callers=""), credentials=credentials(authority, stranger))
    assert client.ask("clf_u8", PICTURE, timeout=5).code == "UNAVAILABLE"


def test_tls_without_client_certificates_only_hides_what_is_said(refrain, clients, authority, direct):
    client = clients(refrain(tables=tls(authority, clients=False)), credentials=credentials(authority), user="alice")
    assert client.ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)


def test_a_name_from_a_peer_that_is_not_trusted_is_not_believed(refrain, clients, asked):
    proxy = refrain(callers='[caller]\nmetadata = "x-user"\ntrusted_peers = ["192.0.2.0/24"]\n')
    first = clients(proxy, user="alice").ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert clients(proxy, user="fresh-name").ask("clf_u8", NEAR) == first
    assert reached.requests == 0


def test_a_caller_that_names_itself_twice_is_refused(proxied, asked):
    with asked("clf_u8") as reached:
        reply = proxied.infer(question("clf_u8", PICTURE), metadata=(("x-user", "somebody-else"),))
    assert reply.code in ("INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED")
    assert reached.requests == 0


def test_callers_without_a_name_are_one_caller_by_their_address(refrain, clients, asked):
    proxy = refrain(callers="")
    first = clients(proxy).ask("clf_u8", PICTURE)
    with asked("clf_u8") as reached:
        assert clients(proxy).ask("clf_u8", NEAR) == first
    assert reached.requests == 0


def test_where_a_verified_caller_is_required_a_nameless_one_is_refused(refrain, clients, asked, direct):
    proxy = refrain(callers='[caller]\nmetadata = "x-user"\ntrusted_peers = ["127.0.0.0/8"]\nrequire = true\n')
    with asked("clf_u8") as reached:
        assert clients(proxy).ask("clf_u8", PICTURE).code in ("UNAUTHENTICATED", "PERMISSION_DENIED")
    assert reached.requests == 0
    assert clients(proxy, user="alice").ask("clf_u8", PICTURE) == direct.ask("clf_u8", PICTURE)
