"""FederatedScope's gRPC messages, built from their description instead of by its generated module.

FederatedScope 0.3.0 ships a ``gRPC_comm_manager_pb2.py`` that creates its descriptors by hand, which protobuf 4 and
later refuse.  The same seven messages are described here, in the order and with the numbers of FederatedScope's
``gRPC_comm_manager.proto``, so that the bytes on the wire are the same and old and new clients can talk.
"""

from __future__ import annotations

from types import ModuleType

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: The name under which FederatedScope imports its messages.
MODULE = "federatedscope.core.proto.gRPC_comm_manager_pb2"
FILE = "gRPC_comm_manager.proto"
MESSAGES = (
    "MessageRequest",
    "MsgValue",
    "mSingle",
    "mList",
    "mDict_keyIsString",
    "mDict_keyIsInt",
    "MessageResponse",
)

_Field = descriptor_pb2.FieldDescriptorProto


def file_description() -> descriptor_pb2.FileDescriptorProto:
    """What ``protoc`` would make of FederatedScope's .proto file."""
    file = descriptor_pb2.FileDescriptorProto(name=FILE, syntax="proto3")
    _map(file.message_type.add(name="MessageRequest"), "msg", _Field.TYPE_STRING)
    _one_of(
        file.message_type.add(name="MsgValue"),
        single_msg=".mSingle",
        list_msg=".mList",
        dict_msg_stringkey=".mDict_keyIsString",
        dict_msg_intkey=".mDict_keyIsInt",
    )
    _one_of(
        file.message_type.add(name="mSingle"),
        float_value=_Field.TYPE_FLOAT,
        int_value=_Field.TYPE_INT32,
        str_value=_Field.TYPE_STRING,
    )
    _field(file.message_type.add(name="mList"), "list_value", 1, ".MsgValue", repeated=True)
    _map(file.message_type.add(name="mDict_keyIsString"), "dict_value", _Field.TYPE_STRING)
    _map(file.message_type.add(name="mDict_keyIsInt"), "dict_value", _Field.TYPE_INT32)
    _field(file.message_type.add(name="MessageResponse"), "msg", 1, _Field.TYPE_STRING)
    call = file.service.add(name="gRPCComServeFunc").method.add(name="sendMessage")
    call.input_type, call.output_type = ".MessageRequest", ".MessageResponse"
    call.options.SetInParent()  # the .proto file ends the call with an empty {}
    return file


def build_module() -> ModuleType:
    """A module with the seven message classes; its descriptors live in a pool of their own.

    In protobuf's default pool they would meet those that FederatedScope's generated module leaves there when it fails
    half-way.
    """
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_description().SerializeToString())
    module = ModuleType(MODULE, "FederatedScope's messages, built by fs-fedmllm for today's protobuf.")
    vars(module)["DESCRIPTOR"] = pool.FindFileByName(FILE)
    for name in MESSAGES:
        vars(module)[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    return module


def _field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str | int, *, repeated: bool = False
) -> descriptor_pb2.FieldDescriptorProto:
    """Add a field; ``kind`` is a scalar type's number or the full name of a message."""
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if isinstance(kind, str):
        return message.field.add(name=name, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=kind)
    return message.field.add(name=name, number=number, label=label, type=kind)


def _one_of(message: descriptor_pb2.DescriptorProto, **kinds: str | int) -> None:
    """Fields numbered from 1, of which a message has at most one; FederatedScope calls each group ``type``."""
    message.oneof_decl.add(name="type")
    for number, (name, kind) in enumerate(kinds.items(), start=1):
        _field(message, name, number, kind).oneof_index = 0


def _map(message: descriptor_pb2.DescriptorProto, name: str, key: int) -> None:
    """A ``map<key, MsgValue>`` field: on the wire, repeated entries of a nested message."""
    entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
    entry = message.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    _field(entry, "key", 1, key)
    _field(entry, "value", 2, ".MsgValue")
    _field(message, name, 1, f".{message.name}.{entry_name}", repeated=True)
