from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RaftMessage(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class RaftStreamEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RaftMember(_message.Message):
    __slots__ = ("node_id", "addr")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    addr: str
    def __init__(self, node_id: _Optional[str] = ..., addr: _Optional[str] = ...) -> None: ...

class RaftJoinRequest(_message.Message):
    __slots__ = ("addr", "confirm", "has_data")
    ADDR_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_FIELD_NUMBER: _ClassVar[int]
    HAS_DATA_FIELD_NUMBER: _ClassVar[int]
    addr: str
    confirm: bool
    has_data: bool
    def __init__(self, addr: _Optional[str] = ..., confirm: _Optional[bool] = ..., has_data: _Optional[bool] = ...) -> None: ...

class RaftJoinReply(_message.Message):
    __slots__ = ("members", "generation")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[RaftMember]
    generation: str
    def __init__(self, members: _Optional[_Iterable[_Union[RaftMember, _Mapping]]] = ..., generation: _Optional[str] = ...) -> None: ...

class RaftLeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RaftLeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
