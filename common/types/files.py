"""Secrets and configs: small files that the cluster keeps for its services."""

from datetime import datetime

from pyswarm.common.types.base import EPOCH, Object, Version


class SecretSpec(Object, frozen=True):
    """What the user stored. The payload is kept out of ``repr``, so that no log line or error can hold it."""

    name: str = ""
    labels: dict[str, str] = {}
    data: bytes = b""

    def __repr__(self) -> str:
        return f"SecretSpec(name={self.name!r})"


class Secret(Object, frozen=True):
    """A secret as stored; whoever shows one to a client takes the payload out first."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    spec: SecretSpec = SecretSpec()


class ConfigSpec(Object, frozen=True):
    """What the user stored. Not secret, but large: not in ``repr`` either."""

    name: str = ""
    labels: dict[str, str] = {}
    data: bytes = b""

    def __repr__(self) -> str:
        return f"ConfigSpec(name={self.name!r})"


class Config(Object, frozen=True):
    """A config as stored."""

    id: str
    version: Version = Version()
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    spec: ConfigSpec = ConfigSpec()
