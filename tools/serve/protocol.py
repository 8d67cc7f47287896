"""The messages of the gRPC protocol, made from protocol.proto when the server starts.

Code that protoc generates puts its messages into one pool for the whole process, where those of
another library with the same names (``tritonclient``, KServe) cannot stand beside them, and asks
for a version of protobuf.  So the file itself is read: the few constructs in it, into a pool of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FILE = "protocol.proto"
_TOKENS = re.compile(r"//[^\n]*|\s+|([\w.]+|\"[^\"]*\"|[{}()<>=;,])")
_FIELD = descriptor_pb2.FieldDescriptorProto


@dataclass(frozen=True)
class Method:
    """One call of the service: its name and the classes of its request and response."""

    name: str
    request: Any
    response: Any


@dataclass(frozen=True)
class Protocol:
    """The service of protocol.proto.

    Attributes
    ----------
    service : str
        Full name of the service.
    methods : dict
        Name to :class:`Method`.
    file : FileDescriptorProto
        What was read.
    """

    service: str
    methods: dict[str, Method]
    file: Any


def load() -> Protocol:
    """Read protocol.proto."""
    text = resources.files(__package__).joinpath(FILE).read_text("utf-8")
    file = read(text)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    (service,) = file.service
    name = f"{file.package}.{service.name}"

    def message(type_name: str) -> Any:
        full_name = type_name.removeprefix(".")
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))

    methods = {
        method.name: Method(method.name, message(method.input_type), message(method.output_type))
        for method in service.method
    }
    return Protocol(name, methods, file)


def read(text: str) -> Any:
    """Return the ``FileDescriptorProto`` of a file in the part of proto3 that ours is written in.

    Messages (nested ones too), scalars, ``repeated``, ``map``, ``oneof``, and calls that stream
    nothing.

    Raises
    ------
    ValueError
        At what is none of these.
    """
    file = descriptor_pb2.FileDescriptorProto(name=FILE)
    tokens = _Tokens(text)
    while (word := tokens.next()) is not None:
        if word == "syntax":
            file.syntax = tokens.take("=", 1).strip('"')
        elif word == "package":
            file.package = tokens.word()
        elif word == "message":
            _message(tokens, file.message_type.add(), f".{file.package}")
        elif word == "service":
            _service(tokens, file)
        elif word != ";":
            raise ValueError(f"protocol: '{word}' was not expected")
    _qualify(file)
    return file


class _Tokens:
    def __init__(self, text: str) -> None:
        self._found = self._split(text)

    @staticmethod
    def _split(text: str) -> Iterator[str]:
        at = 0
        while at < len(text):
            match = _TOKENS.match(text, at)
            if match is None:
                raise ValueError(f"protocol: {text[at : at + 20]!r} was not expected")
            at = match.end()
            if match[1] is not None:
                yield match[1]

    def next(self) -> str | None:
        return next(self._found, None)

    def word(self) -> str:
        found = self.next()
        if found is None:
            raise ValueError("protocol: the file ends too early")
        return found

    def expect(self, *words: str) -> None:
        for wanted in words:
            if (found := self.word()) != wanted:
                raise ValueError(f"protocol: '{found}' where '{wanted}' was expected")

    def take(self, before: str, count: int) -> str:
        """Return the word after `before`; `count` words are read."""
        self.expect(before)
        return [self.word() for _ in range(count)][-1]


def _message(tokens: _Tokens, message: Any, scope: str) -> None:
    message.name = tokens.word()
    scope = f"{scope}.{message.name}"
    tokens.expect("{")
    while (word := tokens.word()) != "}":
        if word == "message":
            _message(tokens, message.nested_type.add(), scope)
        elif word == "oneof":
            message.oneof_decl.add(name=tokens.word())
            tokens.expect("{")
            while (kind := tokens.word()) != "}":
                _field(tokens, message, kind).oneof_index = len(message.oneof_decl) - 1
        elif word == "map":
            _map(tokens, message, scope)
        elif word == "repeated":
            _field(tokens, message, tokens.word()).label = _FIELD.LABEL_REPEATED
        else:
            _field(tokens, message, word)


def _field(tokens: _Tokens, message: Any, kind: str) -> Any:
    field = message.field.add(name=tokens.word(), label=_FIELD.LABEL_OPTIONAL)
    field.number = int(tokens.take("=", 1))
    tokens.expect(";")
    _set_type(field, kind)
    return field


def _map(tokens: _Tokens, message: Any, scope: str) -> None:
    tokens.expect("<")
    key = tokens.word()
    value = tokens.take(",", 1)
    tokens.expect(">")
    name = tokens.word()
    entry = message.nested_type.add(name=_camel(f"_{name}") + "Entry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
        field = entry.field.add(name=part, number=number, label=_FIELD.LABEL_OPTIONAL)
        _set_type(field, kind)
    field = message.field.add(name=name, label=_FIELD.LABEL_REPEATED)
    field.number = int(tokens.take("=", 1))
    field.type, field.type_name = _FIELD.TYPE_MESSAGE, f"{scope}.{entry.name}"
    tokens.expect(";")


def _service(tokens: _Tokens, file: Any) -> None:
    service = file.service.add(name=tokens.word())
    tokens.expect("{")
    while (word := tokens.word()) != "}":
        if word != "rpc":
            raise ValueError(f"protocol: '{word}' where 'rpc' was expected")
        method = service.method.add(name=tokens.word())
        method.input_type = tokens.take("(", 1)
        tokens.expect(")", "returns")
        method.output_type = tokens.take("(", 1)
        tokens.expect(")", "{", "}")
        method.options.SetInParent()


def _set_type(field: Any, kind: str) -> None:
    name = f"TYPE_{kind.upper()}"
    if name in _FIELD.Type.keys():  # noqa: SIM118  (no mapping)
        field.type = _FIELD.Type.Value(name)
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def _qualify(file: Any) -> None:
    """Write the names of messages in full, from the innermost scope that has them."""
    package = f".{file.package}"
    messages = dict(_scoped(file.message_type, package))
    for scope, message in messages.items():
        for field in message.field:
            if field.type_name:
                field.type_name = _full(field.type_name, scope, messages)
    for service in file.service:
        for method in service.method:
            method.input_type = _full(method.input_type, package, messages)
            method.output_type = _full(method.output_type, package, messages)


def _scoped(messages: Any, scope: str) -> Iterator[tuple[str, Any]]:
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name, message
        yield from _scoped(message.nested_type, name)


def _full(name: str, scope: str, messages: dict[str, Any]) -> str:
    while name not in messages and scope:
        if f"{scope}.{name}" in messages:
            return f"{scope}.{name}"
        scope = scope.rpartition(".")[0]
    if name not in messages:
        raise ValueError(f"protocol: there is no message '{name}'")
    return name
