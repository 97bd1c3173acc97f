"""The messages and methods that our own proto/ names are the official ones: same numbers, types and labels."""

import pathlib
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from tritonclient.grpc import service_pb2

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
OFFICIAL = service_pb2.DESCRIPTOR.pool


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Every file of proto/ that speaks of package `inference`, compiled."""
    files = sorted(file for file in PROTO.rglob("*.proto") if "package inference;" in file.read_text())
    assert files, "proto/ has the messages of package inference"
    out = tmp_path_factory.mktemp("proto") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_out={out}", "--include_imports"]
    roots = sorted({PROTO, *(file.parent for file in files)})
    names = [str(file) for file in files]
    subprocess.run([*command, *(f"-I{root}" for root in roots[::-1]), *names], check=True)
    found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    return [pool.FindFileByName(file.name) for file in found.file if file.package == "inference"]


def messages(of):
    for each in of:
        yield each
        yield from messages(each.nested_types)


def facts(field):
    """What decides how a field is written, and what its value means."""
    held = field.message_type or field.enum_type
    return {
        "number": field.number,
        "type": field.type,
        "label": "repeated" if field.is_repeated else "required" if field.is_required else "one",
        "holds": held and held.full_name,
        "presence": field.has_presence,
        "packed": field.is_packed,
    }


def test_every_field_of_ours_is_the_official_one(ours):
    named = [field for file in ours for message in messages(file.message_types_by_name.values()) for field in message.fields]
    assert named
    for field in named:
        official = OFFICIAL.FindMessageTypeByName(field.containing_type.full_name).fields_by_name.get(field.name)
        assert official is not None, f"{field.full_name} is not an official field"
        assert facts(field) == facts(official), field.full_name


def test_every_value_of_our_enums_is_the_official_one(ours):
    enums = [enum for file in ours for enum in file.enum_types_by_name.values()]
    enums += [enum for file in ours for message in messages(file.message_types_by_name.values()) for enum in message.enum_types]
    for enum in enums:
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
