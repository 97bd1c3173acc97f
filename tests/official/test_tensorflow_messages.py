"""The messages and fields that our own proto/ names are TensorFlow's official ones: same numbers, types and labels.

Runs twice: with the messages that a package holds without TensorFlow, which are some years old, and in the larger set-up
with those of TensorFlow and its serving API themselves.
"""

import importlib.util

import pytest
import tensorflow_messages
from descriptors import PROTO, choice, compiled, enums, facts, fields

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


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return compiled(FILES, "tensorflow", tmp_path_factory.mktemp("proto") / "set")


def test_every_field_of_ours_is_the_official_one(ours):
    named = [field for field in fields(ours) if field.containing_type.name not in SERIALIZED]
    assert named
    for field in named:
        if {field.full_name, field.containing_type.full_name} & NEWER:
            continue
        official = OFFICIAL.FindMessageTypeByName(field.containing_type.full_name).fields_by_name.get(field.name)
        assert official is not None, f"{field.full_name} is not an official field"
        assert facts(field) == facts(official), field.full_name
        assert choice(field) == choice(official), field.full_name


def test_every_part_seen_as_bytes_has_the_official_number(ours):
    for field in fields(ours):
        for name in SERIALIZED.get(field.containing_type.name, ()):
            official = OFFICIAL.FindMessageTypeByName(f"tensorflow.serving.{name}").fields_by_name[field.name]
            assert field.number == official.number, field.full_name
            assert official.message_type is not None, "both are written as a length and bytes"
            assert field.message_type is not None or field.type == field.TYPE_BYTES, field.full_name


def test_every_value_of_our_enums_is_the_official_one(ours):
    for enum in enums(ours):
        official = {value.name: value.number for value in OFFICIAL.FindEnumTypeByName(enum.full_name).values}
        for value in enum.values:
            assert value.name in NEWER or official.get(value.name) == value.number, value.name
