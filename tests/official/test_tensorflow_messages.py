"""The messages and fields that our own proto/ names are TensorFlow's official ones: same numbers, types and labels.

Runs twice: with the messages that a package holds without TensorFlow, which are some years old, and in the larger set-up
with those of TensorFlow and its serving API themselves.
"""

import importlib.util
import pathlib
import subprocess
import sys

import pytest
import tensorflow_messages
from google.protobuf import descriptor_pb2, descriptor_pool

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
OFFICIAL = tensorflow_messages.predict_pb2.DESCRIPTOR.pool
FILES = sorted(file for folder in ("tensorflow", "tensorflow_serving") for file in (PROTO / folder).rglob("*.proto"))

# What the package's messages are too old to have.
NEWER = {
    *("tensorflow.TensorProto.float8_val", "tensorflow.SignatureDef.defaults", "tensorflow.SignatureDef.DefaultsEntry"),
    *("DT_FLOAT8_E5M2", "DT_FLOAT8_E4M3FN", "DT_INT4", "DT_UINT4"),
}
NEWER = set() if importlib.util.find_spec("tensorflow.python") else NEWER

# Messages of ours that see a part of an official message as the bytes it is.
SERIALIZED = {
    "SerializedInput": ["Input"],
    "SerializedExampleList": ["ExampleList"],
    "SerializedExampleListWithContext": ["ExampleListWithContext"],
    "SerializedRequest": ["ClassificationRequest", "RegressionRequest"],
    "SerializedTasks": ["MultiInferenceRequest"],
}

pytestmark = pytest.mark.skipif(not FILES, reason="proto/ has no messages of TensorFlow")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    out = tmp_path_factory.mktemp("proto") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_out={out}", "--include_imports", f"-I{PROTO}"]
    subprocess.run([*command, *map(str, FILES)], check=True)
    found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    return [pool.FindFileByName(file.name) for file in found.file if file.package.startswith("tensorflow")]


def messages(of):
    for each in of:
        yield each
        yield from messages(each.nested_types)


def fields(ours):
    return [field for file in ours for message in messages(file.message_types_by_name.values()) for field in message.fields]


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
        "choice": field.containing_oneof and field.containing_oneof.name,
    }


def test_every_field_of_ours_is_the_official_one(ours):
    named = [field for field in fields(ours) if field.containing_type.name not in SERIALIZED]
    assert named
    for field in named:
        if {field.full_name, field.containing_type.full_name} & NEWER:
            continue
        official = OFFICIAL.FindMessageTypeByName(field.containing_type.full_name).fields_by_name.get(field.name)
        assert official is not None, f"{field.full_name} is not an official field"
        assert facts(field) == facts(official), field.full_name


def test_every_part_seen_as_bytes_has_the_official_number(ours):
    for field in fields(ours):
        for name in SERIALIZED.get(field.containing_type.name, ()):
            official = OFFICIAL.FindMessageTypeByName(f"tensorflow.serving.{name}").fields_by_name[field.name]
            assert field.number == official.number, field.full_name
            assert official.message_type is not None, "both are written as a length and bytes"
            assert field.message_type is not None or field.type == field.TYPE_BYTES, field.full_name


def test_every_value_of_our_enums_is_the_official_one(ours):
    enums = [enum for file in ours for enum in file.enum_types_by_name.values()]
    enums += [enum for file in ours for message in messages(file.message_types_by_name.values()) for enum in message.enum_types]
    for enum in enums:
        official = {value.name: value.number for value in OFFICIAL.FindEnumTypeByName(enum.full_name).values}
        for value in enum.values:
            assert value.name in NEWER or official.get(value.name) == value.number, value.name
