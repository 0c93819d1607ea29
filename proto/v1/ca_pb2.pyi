from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RenewRequest(_message.Message):
    __slots__ = ("csr_pem",)
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    def __init__(self, csr_pem: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate_pem", "root_ca_pem")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    ROOT_CA_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    root_ca_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., root_ca_pem: _Optional[bytes] = ...) -> None: ...
