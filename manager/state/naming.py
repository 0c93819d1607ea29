"""What objects are called, and which names must be unique. Pure."""

from pyswarm.common.types import Config, Network, Node, Secret, Service
from pyswarm.manager.state.entry import Stored


def name_of(obj: Stored) -> str:
    """The name people use; empty when the kind has none. A node is called by its hostname."""
    if isinstance(obj, (Service, Network, Secret, Config)):
        return obj.spec.name
    if isinstance(obj, Node):
        return obj.description.hostname or obj.spec.name
    return ""


def has_unique_name(obj: Stored) -> bool:
    """All that users name; hosts are named by their owners, and two may share a hostname."""
    return isinstance(obj, (Service, Network, Secret, Config))


def taken_message(obj: Stored) -> str:
    """Docker's words for a name that is in use."""
    if isinstance(obj, Network):
        return f"network with name {obj.spec.name} already exists"
    if isinstance(obj, (Secret, Config)):
        kind = "secret" if isinstance(obj, Secret) else "config"
        return f"rpc error: code = AlreadyExists desc = {kind} {name_of(obj)} already exists"
    return f"name conflicts with an existing object: service {name_of(obj)} already exists"
