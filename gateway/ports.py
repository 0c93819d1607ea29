"""What the gateway needs of a manager, as a Protocol; ``manager.control.client`` implements it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pyswarm.common.types import (
    Cluster,
    ClusterSpec,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    Service,
    ServiceSpec,
    Task,
)

#: Docker's filters: name -> accepted values.
Filters = Mapping[str, Sequence[str]]


class Control(Protocol):
    """The cluster's objects. ``ref``: full id, exact name or unique id prefix. Errors are ``PyswarmError``."""

    async def get_service(self, ref: str) -> Service: ...

    async def list_services(self, filters: Filters | None = None) -> list[Service]: ...

    async def create_service(self, spec: ServiceSpec) -> Service: ...

    async def update_service(
        self, ref: str, version: int, spec: ServiceSpec, rollback: bool = False
    ) -> Service: ...

    async def remove_service(self, ref: str) -> None: ...

    async def get_network(self, ref: str) -> Network: ...

    async def list_networks(self, filters: Filters | None = None) -> list[Network]: ...

    async def create_network(self, spec: NetworkSpec) -> Network: ...

    async def remove_network(self, ref: str) -> None: ...

    async def get_node(self, ref: str) -> Node: ...

    async def list_nodes(self, filters: Filters | None = None) -> list[Node]: ...

    async def update_node(self, ref: str, version: int, spec: NodeSpec) -> Node: ...

    async def remove_node(self, ref: str, force: bool = False) -> None: ...

    async def get_task(self, ref: str) -> Task: ...

    async def list_tasks(self, filters: Filters | None = None) -> list[Task]: ...

    async def get_cluster(self) -> Cluster: ...

    async def update_cluster(
        self,
        version: int = 0,
        spec: ClusterSpec | None = None,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
    ) -> Cluster: ...

    async def close(self) -> None: ...
