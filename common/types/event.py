"""What happened to an object of the cluster, as clients are told."""

from pyswarm.common.types.base import Object


class ClusterEvent(Object, frozen=True):
    """``type`` is service, node, network, secret or config; ``action`` is create, update or remove.

    ``attributes`` are what is shown; ``labels`` are the object's own, by which a client may choose.
    """

    type: str
    action: str
    id: str
    time_ns: int
    attributes: dict[str, str] = {}
    labels: dict[str, str] = {}
