from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class NodeInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("local_state", "node_id", "cluster_id", "role", "addr", "error", "manager_addrs", "engine", "certs_dir", "version")
    LOCAL_STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MANAGER_ADDRS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    CERTS_DIR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    local_state: str
    node_id: str
    cluster_id: str
    role: str
    addr: str
    error: str
    manager_addrs: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    certs_dir: str
    version: str
    def __init__(self, local_state: _Optional[str] = ..., node_id: _Optional[str] = ..., cluster_id: _Optional[str] = ..., role: _Optional[str] = ..., addr: _Optional[str] = ..., error: _Optional[str] = ..., manager_addrs: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ..., certs_dir: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class InitRequest(_message.Message):
    __slots__ = ("advertise_addr", "listen_addr", "default_addr_pool", "subnet_size", "data_path_port", "availability", "force_new_cluster", "spec", "etcd_endpoints")
    ADVERTISE_ADDR_FIELD_NUMBER: _ClassVar[int]
    LISTEN_ADDR_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ADDR_POOL_FIELD_NUMBER: _ClassVar[int]
    SUBNET_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_PORT_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    FORCE_NEW_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ETCD_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    advertise_addr: str
    listen_addr: str
    default_addr_pool: _containers.RepeatedScalarFieldContainer[str]
    subnet_size: int
    data_path_port: int
    availability: str
    force_new_cluster: bool
    spec: bytes
    etcd_endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, advertise_addr: _Optional[str] = ..., listen_addr: _Optional[str] = ..., default_addr_pool: _Optional[_Iterable[str]] = ..., subnet_size: _Optional[int] = ..., data_path_port: _Optional[int] = ..., availability: _Optional[str] = ..., force_new_cluster: _Optional[bool] = ..., spec: _Optional[bytes] = ..., etcd_endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class InitReply(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("remote_addrs", "token", "advertise_addr", "listen_addr", "availability")
    REMOTE_ADDRS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ADVERTISE_ADDR_FIELD_NUMBER: _ClassVar[int]
    LISTEN_ADDR_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    remote_addrs: _containers.RepeatedScalarFieldContainer[str]
    token: str
    advertise_addr: str
    listen_addr: str
    availability: str
    def __init__(self, remote_addrs: _Optional[_Iterable[str]] = ..., token: _Optional[str] = ..., advertise_addr: _Optional[str] = ..., listen_addr: _Optional[str] = ..., availability: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("node_id", "role")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    role: str
    def __init__(self, node_id: _Optional[str] = ..., role: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("force",)
    FORCE_FIELD_NUMBER: _ClassVar[int]
    force: bool
    def __init__(self, force: _Optional[bool] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("warning",)
    WARNING_FIELD_NUMBER: _ClassVar[int]
    warning: str
    def __init__(self, warning: _Optional[str] = ...) -> None: ...
