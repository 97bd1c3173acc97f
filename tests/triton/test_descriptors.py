"""The messages and methods that our own proto/ names are the official ones: same numbers, types and labels."""

import pytest
from descriptors import PROTO, compiled, enums, facts, fields
from tritonclient.grpc import service_pb2

OFFICIAL = service_pb2.DESCRIPTOR.pool


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Every file of proto/ that speaks of package `inference`, compiled."""
    files = sorted(file for file in PROTO.rglob("*.proto") if "package inference;" in file.read_text())
    return compiled(files, "inference", tmp_path_factory.mktemp("proto") / "set")


def test_every_field_of_ours_is_the_official_one(ours):
    named = fields(ours)
    assert named
    for field in named:
        official = OFFICIAL.FindMessageTypeByName(field.containing_type.full_name).fields_by_name.get(field.name)
        assert official is not None, f"{field.full_name} is not an official field"
        assert facts(field) == facts(official), field.full_name


def test_every_value_of_our_enums_is_the_official_one(ours):
    for enum in enums(ours):
        official = {value.name: value.number for value in OFFICIAL.FindEnumTypeByName(enum.full_name).values}
        for value in enum.values:
            assert official.get(value.name) == value.number, value.name


def test_every_method_of_ours_is_the_official_one(ours):
    for file in ours:
        for service in file.services_by_name.values():
            official = OFFICIAL.FindServiceByName(service.full_name).methods_by_name
            for method in service.methods:
                same = official[method.name]
                assert method.input_type.full_name == same.input_type.full_name
                assert method.output_type.full_name == same.output_type.full_name
                assert (method.client_streaming, method.server_streaming) == (same.client_streaming, same.server_streaming)
