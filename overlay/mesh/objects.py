"""The mesh on one host as data: what it shall be, what the kernel has, and the operations between them. Pure."""

import msgspec

from pyswarm.overlay.mesh.table import Table
from pyswarm.overlay.objects import Op, VxlanLink, VxlanParams


class Rule(msgspec.Struct, frozen=True):
    """A routing rule. ``action``: ``lookup`` in table ``target``, ``goto`` priority ``target``, or ``nop``."""

    priority: int
    action: str
    target: int = 0
    mark: int = 0
    mask: int = 0
    invert: bool = False
    device: str = ""


class Route(msgspec.Struct, frozen=True):
    """A route through the mesh's device to ``dst`` (an address; ``0.0.0.0`` is everything), by way of a host's
    address there (``via``) or, without one, directly."""

    table: int
    dst: str
    via: str = ""
    src: str = ""

    @property
    def key(self) -> tuple[int, str]:
        """A table holds one route to each destination."""
        return self.table, self.dst


class Backend(msgspec.Struct, frozen=True):
    """A task that may still run, by its address on the network. ``way_in``: for one of this host, its address on
    the bridge that leads out. ``ready``: it is led to; else only what it began goes on."""

    addr: str
    way_in: str = ""
    ready: bool = True


class Publication(msgspec.Struct, frozen=True):
    """A published port and the tasks behind it; ``port`` is the one in the containers."""

    protocol: str
    published: int
    port: int
    backends: tuple[Backend, ...]

    @property
    def ready(self) -> tuple[Backend, ...]:
        """Those it leads to."""
        return tuple(backend for backend in self.backends if backend.ready)


class MeshLink(msgspec.Struct, frozen=True):
    """The mesh's device: ``addr`` is this host's address on it."""

    params: VxlanParams
    mac: str
    mtu: int
    addr: str


class Mesh(msgspec.Struct, frozen=True):
    """This host's part of the mesh. While nothing is published there is nothing of it but the ``guard``, which is
    for all networks."""

    link: MeshLink | None = None
    fdb: dict[str, str] = {}  # MAC -> underlay address of its host
    neighbours: dict[str, str] = {}  # address in the mesh -> MAC
    rules: frozenset[Rule] = frozenset()
    routes: frozenset[Route] = frozenset()
    table: Table | None = None
    publications: tuple[Publication, ...] = ()
    guard: Table | None = None


class MeshKernel(msgspec.Struct, frozen=True):
    """What the kernel has of it. ``settings`` are those that matter, of the mesh's device and of the bridges that
    lead out: (device, name) -> value."""

    link: VxlanLink | None = None
    addrs: frozenset[str] = frozenset()
    fdb: dict[str, str] = {}
    neighbours: dict[str, str] = {}
    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()
    settings: dict[tuple[str, str], str] = {}


class PutAddr(Op, frozen=True, tag=True):
    """The device has an address."""

    device: str
    addr: str


class DelAddr(Op, frozen=True, tag=True):
    """It has it no more."""

    device: str
    addr: str


class PutRule(Op, frozen=True, tag=True):
    """A routing rule of ours."""

    rule: Rule


class DelRule(Op, frozen=True, tag=True):
    """One no more."""

    rule: Rule


class PutRoute(Op, frozen=True, tag=True):
    """A route of ours, in place of another one to the same destination."""

    route: Route


class DelRoute(Op, frozen=True, tag=True):
    """One no more."""

    route: Route


class SetSetting(Op, frozen=True, tag=True):
    """A setting of a device (``net.ipv4.conf``)."""

    device: str
    name: str
    value: str


RoutingOp = PutRule | DelRule | PutRoute | DelRoute


class Flow(msgspec.Struct, frozen=True):
    """A connection that was led to a task: the port it came to, and the task's address and port."""

    protocol: str
    published: int
    addr: str
    port: int
