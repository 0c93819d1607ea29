from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogOptions(_message.Message):
    __slots__ = ("follow", "stdout", "stderr", "since", "until", "tail", "details")
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    follow: bool
    stdout: bool
    stderr: bool
    since: str
    until: str
    tail: int
    details: bool
    def __init__(self, follow: _Optional[bool] = ..., stdout: _Optional[bool] = ..., stderr: _Optional[bool] = ..., since: _Optional[str] = ..., until: _Optional[str] = ..., tail: _Optional[int] = ..., details: _Optional[bool] = ...) -> None: ...

class LogPosition(_message.Message):
    __slots__ = ("task_id", "stdout_time", "stdout_count", "stderr_time", "stderr_count")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STDOUT_TIME_FIELD_NUMBER: _ClassVar[int]
    STDOUT_COUNT_FIELD_NUMBER: _ClassVar[int]
    STDERR_TIME_FIELD_NUMBER: _ClassVar[int]
    STDERR_COUNT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    stdout_time: bytes
    stdout_count: int
    stderr_time: bytes
    stderr_count: int
    def __init__(self, task_id: _Optional[str] = ..., stdout_time: _Optional[bytes] = ..., stdout_count: _Optional[int] = ..., stderr_time: _Optional[bytes] = ..., stderr_count: _Optional[int] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("task_id", "frames", "node_id", "service_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    frames: bytes
    node_id: str
    service_id: str
    def __init__(self, task_id: _Optional[str] = ..., frames: _Optional[bytes] = ..., node_id: _Optional[str] = ..., service_id: _Optional[str] = ...) -> None: ...

class ReadLogsRequest(_message.Message):
    __slots__ = ("service_id", "task_id", "options", "began_ns", "positions")
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_NS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    service_id: str
    task_id: str
    options: LogOptions
    began_ns: int
    positions: _containers.RepeatedCompositeFieldContainer[LogPosition]
    def __init__(self, service_id: _Optional[str] = ..., task_id: _Optional[str] = ..., options: _Optional[_Union[LogOptions, _Mapping]] = ..., began_ns: _Optional[int] = ..., positions: _Optional[_Iterable[_Union[LogPosition, _Mapping]]] = ...) -> None: ...

class ReadLogsMessage(_message.Message):
    __slots__ = ("began_ns", "chunks", "positions", "gone", "notice")
    BEGAN_NS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    began_ns: int
    chunks: _containers.RepeatedCompositeFieldContainer[LogChunk]
    positions: _containers.RepeatedCompositeFieldContainer[LogPosition]
    gone: _containers.RepeatedScalarFieldContainer[str]
    notice: str
    def __init__(self, began_ns: _Optional[int] = ..., chunks: _Optional[_Iterable[_Union[LogChunk, _Mapping]]] = ..., positions: _Optional[_Iterable[_Union[LogPosition, _Mapping]]] = ..., gone: _Optional[_Iterable[str]] = ..., notice: _Optional[str] = ...) -> None: ...

class ListenLogsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogOrder(_message.Message):
    __slots__ = ("subscription_id", "close", "options", "tasks")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    close: bool
    options: LogOptions
    tasks: _containers.RepeatedCompositeFieldContainer[LogTask]
    def __init__(self, subscription_id: _Optional[str] = ..., close: _Optional[bool] = ..., options: _Optional[_Union[LogOptions, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[LogTask, _Mapping]]] = ...) -> None: ...

class LogTask(_message.Message):
    __slots__ = ("task_id", "container", "tty", "ended", "whole", "position")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    container: str
    tty: bool
    ended: bool
    whole: bool
    position: LogPosition
    def __init__(self, task_id: _Optional[str] = ..., container: _Optional[str] = ..., tty: _Optional[bool] = ..., ended: _Optional[bool] = ..., whole: _Optional[bool] = ..., position: _Optional[_Union[LogPosition, _Mapping]] = ...) -> None: ...

class PublishLogsMessage(_message.Message):
    __slots__ = ("subscription_id", "chunks", "positions", "caught_up", "ends")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    chunks: _containers.RepeatedCompositeFieldContainer[LogChunk]
    positions: _containers.RepeatedCompositeFieldContainer[LogPosition]
    caught_up: bool
    ends: _containers.RepeatedCompositeFieldContainer[LogEnd]
    def __init__(self, subscription_id: _Optional[str] = ..., chunks: _Optional[_Iterable[_Union[LogChunk, _Mapping]]] = ..., positions: _Optional[_Iterable[_Union[LogPosition, _Mapping]]] = ..., caught_up: _Optional[bool] = ..., ends: _Optional[_Iterable[_Union[LogEnd, _Mapping]]] = ...) -> None: ...

class LogEnd(_message.Message):
    __slots__ = ("task_id", "failure")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    failure: str
    def __init__(self, task_id: _Optional[str] = ..., failure: _Optional[str] = ...) -> None: ...

class PublishLogsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
