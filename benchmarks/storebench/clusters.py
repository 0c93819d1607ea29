"""Three members of each store on loopback, with certificates of one cluster."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

from support.pki import Pki

from pyswarm.common.tls import manager_name
from pyswarm.overlay.registry.server import EtcdServerConfig, EtcdTLSFiles, etcd_argv
from storebench.child import Child

MEMBERS = 3
HOST = "127.0.0.1"
LEADER_PATIENCE_S = 15.0
#: What pyswarm tells its own etcd, for its small data, undone: etcd's defaults, and room for all writes.
_ETCD_DEFAULTS = (
    "--snapshot-count=100000",
    "--auto-compaction-retention=0",
    "--quota-backend-bytes=8000000000",
)


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


class Identities:
    """A CA and managers' certificates."""

    def __init__(self) -> None:
        self._pki = Pki()

    @property
    def cluster_id(self) -> str:
        """The cluster they are of."""
        return self._pki.cluster_id

    def save(self, folder: Path) -> str:
        """A new manager's certificate, in ``folder``; returns its node id."""
        identity = self._pki.identity("manager", addr=HOST, life_s=86400)
        identity.save(folder)
        return identity.node_id


class Managers:
    """Our side: Raft and store of three managers."""

    def __init__(self, folder: Path, identities: Identities) -> None:
        self.members: list[Child] = []
        self.addrs: dict[Child, str] = {}
        self._everybody: list[str] = []
        for number in range(MEMBERS):
            home, addr = folder / f"manager{number}", f"{HOST}:{free_port()}"
            self._everybody.append(f"{identities.save(home / 'certs')}@{addr}")
            child = Child("member", str(home), addr)
            self.members.append(child)
            self.addrs[child] = addr

    async def start(self) -> None:
        """For the first time."""
        for member in self.members:
            await member.start(*self._everybody)

    async def leader(self) -> Child:
        """Who leads now, waiting for somebody to."""
        until_s = time.monotonic() + LEADER_PATIENCE_S
        while time.monotonic() < until_s:
            for member in self.members:
                if (await member.ask("state"))["leads"]:
                    return member
            await asyncio.sleep(0.01)
        raise SystemExit("none of the managers leads")

    async def stop(self) -> None:
        """End all."""
        for member in self.members:
            await member.kill()


class Etcd:
    """etcd 3.4 with etcd's own defaults where they matter here, over mutual TLS as well."""

    def __init__(self, folder: Path, identities: Identities) -> None:
        self._processes: list[asyncio.subprocess.Process] = []
        members = []
        for number in range(MEMBERS):
            home = folder / f"etcd{number}"
            members.append((identities.save(home / "certs"), home, free_port(), free_port()))
        self.addrs = [f"{HOST}:{client_port}" for _, _, client_port, _ in members]
        initial = ",".join(f"{node_id}=https://{HOST}:{peer_port}" for node_id, _, _, peer_port in members)
        self._commands = [
            [
                *etcd_argv(
                    EtcdServerConfig(
                        node_id=node_id,
                        ip=HOST,
                        data_dir=str(home / "data"),
                        tls=EtcdTLSFiles(*(str(home / "certs" / f) for f in ("ca.crt", "node.crt", "node.key"))),
                        manager_name=manager_name(identities.cluster_id),
                        initial_cluster=initial,
                        state="new",
                        token="benchmark",  # noqa: S106 - a name, no secret
                        client_port=client_port,
                        peer_port=peer_port,
                    )
                ),
                *_ETCD_DEFAULTS,
            ]
            for node_id, home, client_port, peer_port in members
        ]

    async def start(self) -> None:
        """All members."""
        for command in self._commands:
            nothing = asyncio.subprocess.DEVNULL
            self._processes.append(await asyncio.create_subprocess_exec(*command, stdin=nothing, stderr=nothing))

    async def leader(self, client: Child) -> str:
        """The address of whoever leads."""
        until_s = time.monotonic() + LEADER_PATIENCE_S
        while time.monotonic() < until_s:
            for addr in self.addrs:
                if (await client.ask("leader", addr=addr))["leads"]:
                    return addr
            await asyncio.sleep(0.1)
        raise SystemExit("no member of etcd leads")

    async def stop(self) -> None:
        """End all."""
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


def described() -> dict[str, Any]:
    """What each side used, for whoever reads the figures."""
    both = (
        "3 processes on loopback, mutual TLS between members and towards the client, fdatasync before each answer"
    )
    return {
        "ours": f"{both}; a service of this benchmark that calls Store.update (a new config of 300 bytes)",
        "etcd": f"{both}; KV Put of 300 bytes, etcd's own defaults for snapshots",
        "rpc_without_work": "a call of our service that stores nothing: what the RPC alone allows",
        "client": "one process with one connection to the leader, Python's grpc.aio, unary calls, for both",
    }
