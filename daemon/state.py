"""What a node remembers of itself across restarts: which cluster, which role, which addresses."""

from pathlib import Path

import msgspec

from pyswarm.common.durable import read_struct, write_durably
from pyswarm.common.errors import FailedPrecondition


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A node's place in its cluster. ``managers`` are ``ip:2377`` of the managers last heard of."""

    node_id: str
    cluster_id: str
    role: str
    advertise_addr: str
    listen_addr: str = "0.0.0.0:2377"
    managers: tuple[str, ...] = ()
    data_path_port: int = 4789

    @property
    def manager_addr(self) -> str:
        """``ip:port`` at which this node's manager, if it has one, is reached by others."""
        return f"{self.advertise_addr}:{self.listen_addr.rpartition(':')[2]}"


class Folders:
    """Where a daemon keeps what: ``data`` survives a reboot, ``run`` does not."""

    def __init__(self, data: str, run: str) -> None:
        self.data = Path(data)
        self.run = Path(run)

    @property
    def certs(self) -> Path:
        """The node's certificate, key and root."""
        return self.data / "certs"

    @property
    def manager(self) -> Path:
        """The manager's log and snapshots."""
        return self.data / "manager"

    @property
    def bootstrap(self) -> Path:
        """The first objects of a new cluster, until its store holds them."""
        return self.manager / "bootstrap.msgpack"

    @property
    def rescue_order(self) -> Path:
        """The order to make this manager the only one, until it is carried out."""
        return self.manager / "force-new-cluster"

    @property
    def manager_failure(self) -> Path:
        """Why the manager process ended last, in its own words."""
        return self.run / "manager.failed"

    @property
    def etcd(self) -> Path:
        """etcd's data, derived from the store."""
        return self.data / "etcd"

    @property
    def agent(self) -> Path:
        """The agent's task database."""
        return self.data / "agent"

    @property
    def membership(self) -> Path:
        """The file of this module."""
        return self.data / "node.msgpack"

    @property
    def api_socket(self) -> Path:
        """Where Docker's API is served."""
        return self.run / "docker.sock"

    @property
    def node_socket(self) -> Path:
        """Where the gateway reaches the daemon."""
        return self.run / "node.sock"

    def create(self) -> None:
        """Make both folders, closed to others; raises FailedPrecondition when that is impossible."""
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as exc:
            raise FailedPrecondition(f"cannot create {exc.filename}: {exc.strerror}") from exc


def load_membership(folders: Folders) -> Membership | None:
    """The membership on disk, or None; raises FailedPrecondition when the file is damaged."""
    remedy = f"restore it from a backup, or remove the folder {folders.data} and join the swarm again"
    return read_struct(folders.membership, Membership, remedy)


def save_membership(folders: Folders, membership: Membership) -> None:
    """Replace the membership on disk in one step."""
    write_durably(folders.membership, msgspec.msgpack.encode(membership))
