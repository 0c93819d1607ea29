"""One pass over this host's part of the mesh: look, plan, act. Runs in a worker thread; keeps nothing but a memory
of what was in place, to tell repairs from changes."""

import contextlib
from collections.abc import Mapping

import msgspec

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.conntrack import forget_flows
from pyswarm.overlay.linux.iptables import keep_user_chain
from pyswarm.overlay.linux.meshkernel import open_mesh
from pyswarm.overlay.linux.nft import Nft
from pyswarm.overlay.mesh import names
from pyswarm.overlay.mesh.objects import Backend, Mesh, Publication, SetSetting
from pyswarm.overlay.mesh.plan import Surroundings, desired_mesh, is_stale, plan_mesh
from pyswarm.overlay.mesh.tablekeeper import TableKeeper
from pyswarm.overlay.objects import Entries
from pyswarm.overlay.registry.model import OverlayState


class Outcome(msgspec.Struct):
    """What a pass did. ``repairs``: how much of that undid what another hand had done."""

    operations: int = 0
    repairs: int = 0
    flows_ended: int = 0


class MeshKeeper:
    """Compares and repairs. Not thread-safe: one thread at a time."""

    def __init__(self, node_id: str, underlay_addr: str, vxlan_port: int) -> None:
        self._node_id = node_id
        self._underlay_addr = underlay_addr
        self._port = vxlan_port
        self._in_place: Mesh | None = None  # None: not known
        self._table = TableKeeper(names.NFT_TABLE)
        self._guard = TableKeeper(names.GUARD_TABLE)
        self._index = 0
        #: What an earlier process knew of tasks that went on meanwhile: network address -> way in.
        self._adopted: dict[str, str] | None = None

    def run(self, state: OverlayState, ways_in: Mapping[str, str]) -> Outcome:
        """Bring this host's part to what the cluster's state says. ``ways_in``: the address of each task of this
        host on the bridge that leads out; empty for one that ended. Raises OverlayError; another pass goes on."""
        if self._adopted is None:
            self._adopted = _ways_in_place()
        known = {e.endpoint_id: way for e in state.endpoints.values() if (way := self._adopted.get(e.addr))}
        with open_mesh() as door:
            here = Surroundings(
                node_id=self._node_id,
                underlay=door.underlay(self._underlay_addr),
                port=self._port,
                ways_in={**known, **ways_in},
                egress_subnets=door.egress_subnets(),
            )
        return self._bring(desired_mesh(state, here))

    def remove(self) -> bool:
        """Take everything of the mesh away, also what an earlier process made; whether there was anything."""
        return self._bring(Mesh()).operations > 0

    def _bring(self, want: Mesh) -> Outcome:
        known = self._in_place
        outcome = Outcome()
        self._in_place = None
        guarded = self._guard.keep(want.guard)
        if want.table is None and known is not None and known.table is None:
            # Nothing more to be there, and nothing was: others' rules are not worth a look.
            outcome.operations, outcome.repairs = guarded, guarded if known == want else 0
            self._in_place = want
            return outcome
        with open_mesh() as door:
            before, after = plan_mesh(want, door.look())
            door.apply(before)
            changed = guarded + self._table.keep(want.table)
            chain = keep_user_chain(want.table is not None)
            door.apply(after)
            self._index = door.index()
        if known is None or _led(known) - _led(want):
            outcome.flows_ended = forget_flows(lambda flow: is_stale(flow, want))
        outcome.operations = len(before) + len(after) + changed + chain
        if known == want:
            # A bridge or a chain that the engine has just made is nobody's damage.
            outcome.repairs = changed + sum(1 for op in (*before, *after) if not isinstance(op, SetSetting))
        self._in_place = want
        return outcome

    @property
    def publications(self) -> tuple[Publication, ...]:
        """What is in place."""
        return self._in_place.publications if self._in_place is not None else ()

    def watched(self) -> tuple[int, Entries] | None:
        """The device, by its index, and what shall be on it."""
        if self._in_place is None or self._in_place.link is None or not self._index:
            return None
        return self._index, Entries(self._in_place.fdb, self._in_place.neighbours)


def _ways_in_place() -> dict[str, str]:
    with Nft() as nft, contextlib.suppress(OverlayError):
        listed = nft.listing(f"list map ip {names.NFT_TABLE} ways_in")
        pairs = [pair for entry in listed if "map" in entry for pair in entry["map"].get("elem", ())]
        return {str(addr): str(way) for addr, way in pairs}
    return {}


def _led(mesh: Mesh) -> set[tuple[str, int, Backend]]:
    """Where each published port leads, and where it may have led."""
    return {(p.protocol, p.published, backend) for p in mesh.publications for backend in p.backends}
