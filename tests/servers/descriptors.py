"""Our own proto/ as descriptors, and what of a field must be as in the official one."""

import pathlib
import subprocess
import sys

from google.protobuf import descriptor_pb2, descriptor_pool

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def compiled(files, package, out):
    """The descriptors of `files` of proto/ whose package begins with `package`; `out` is a file to write."""
    assert files, f"proto/ has the messages of package {package}"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_out={out}", "--include_imports", f"-I{PROTO}"]
    subprocess.run([*command, *map(str, files)], check=True)
    found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    return [pool.FindFileByName(file.name) for file in found.file if file.package.startswith(package)]


def messages(of):
    for each in of:
        yield each
        yield from messages(each.nested_types)


def fields(files):
    return [field for file in files for message in messages(file.message_types_by_name.values()) for field in message.fields]


def enums(files):
    inner = [enum for file in files for message in messages(file.message_types_by_name.values()) for enum in message.enum_types]
    return [*(enum for file in files for enum in file.enum_types_by_name.values()), *inner]


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


def choice(field):
    """Which fields exclude it: one of ours that stands alone may officially be one of several that we do not name."""
    return field.containing_oneof and field.containing_oneof.name
