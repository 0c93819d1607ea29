"""What a reader of the store sees. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

from pyswarm.common.types import Cluster, Config, Network, Secret
from pyswarm.manager.state.entry import Stored
from pyswarm.manager.state.staged import StagedNodeTable, StagedServiceTable, StagedTable, StagedTaskTable
from pyswarm.manager.state.tables import (
    LiveNodeTable,
    LiveServiceTable,
    LiveTable,
    LiveTaskTable,
    NodeTable,
    ServiceTable,
    Table,
    TaskTable,
)


class View(ABC):
    """All tables. It costs nothing to take and shows the store as it is: after an ``await`` it may show a later
    state. The objects in it never change, so they may be kept."""

    nodes: NodeTable
    services: ServiceTable
    tasks: TaskTable
    networks: Table[Network]
    secrets: Table[Secret]
    configs: Table[Config]
    clusters: Table[Cluster]

    @property
    @abstractmethod
    def index(self) -> int:
        """The index of the last entry applied."""

    @property
    def cluster(self) -> Cluster | None:
        """The one cluster object; None before ``swarm init`` stored it."""
        return next(iter(self.clusters.values()), None)


class LiveView(View):
    """The applied state."""

    def __init__(self) -> None:
        self.nodes: LiveNodeTable = LiveNodeTable("node")
        self.services: LiveServiceTable = LiveServiceTable("service")
        self.tasks: LiveTaskTable = LiveTaskTable("task")
        self.networks: LiveTable[Network] = LiveTable("network")
        self.secrets: LiveTable[Secret] = LiveTable("secret")
        self.configs: LiveTable[Config] = LiveTable("config")
        self.clusters: LiveTable[Cluster] = LiveTable("cluster")
        self.applied = 0
        self.tables: Mapping[str, LiveTable[Stored]] = cast(
            Mapping[str, LiveTable[Stored]],
            {
                t.kind: t
                for t in (
                    *(self.clusters, self.nodes, self.networks, self.secrets, self.configs),
                    *(self.services, self.tasks),
                )
            },
        )

    @property
    def index(self) -> int:
        return self.applied


class StagedView(View):
    """The applied state with one transaction's changes on top."""

    def __init__(self, live: View) -> None:
        self._live = live
        self.nodes: StagedNodeTable = StagedNodeTable(live.nodes)
        self.services: StagedServiceTable = StagedServiceTable(live.services)
        self.tasks: StagedTaskTable = StagedTaskTable(live.tasks)
        self.networks: StagedTable[Network] = StagedTable(live.networks)
        self.secrets: StagedTable[Secret] = StagedTable(live.secrets)
        self.configs: StagedTable[Config] = StagedTable(live.configs)
        self.clusters: StagedTable[Cluster] = StagedTable(live.clusters)
        self.tables: Mapping[str, StagedTable[Stored]] = cast(
            Mapping[str, StagedTable[Stored]],
            {
                t.kind: t
                for t in (
                    *(self.clusters, self.nodes, self.networks, self.secrets, self.configs),
                    *(self.services, self.tasks),
                )
            },
        )

    @property
    def index(self) -> int:
        return self._live.index
