"""The registry against a real etcd with TLS and authentication, on loopback addresses."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from support.env import require_binary
from support.registry_lab import Host, Pki, eventually

from pyswarm.overlay.registry.admin import EtcdAdmin
from pyswarm.overlay.registry.client import EtcdClient
from pyswarm.overlay.registry.codec import PREFIX, Keys
from pyswarm.overlay.registry.errors import RegistryDenied, RegistryFenced, RegistryRefused, RegistryUnavailable
from pyswarm.overlay.registry.model import EndpointEntry, NetworkEntry, NodeEntry, OverlayState, SyncMark
from pyswarm.overlay.registry.users import READER, WRITER, UserDirectory
from pyswarm.overlay.registry.watcher import RegistryWatcher
from pyswarm.overlay.registry.writer import RegistryWriter, SyncResult

pytestmark = pytest.mark.integration_etcd
KEYS = Keys()
_addresses = itertools.count(20)


def state_of(endpoints: int, nodes: int = 2) -> OverlayState:
    """A cluster with one network and so many endpoints on it."""
    return OverlayState(
        nodes={f"n{i}": NodeEntry(f"n{i}", f"host{i}", f"10.0.0.{i + 1}") for i in range(nodes)},
        networks={"net": NetworkEntry("net", "app", 4097, "10.1.0.0/16", "10.1.0.1", 1450)},
        endpoints={
            ("net", f"t{i}"): EndpointEntry(f"t{i}", "net", f"10.1.1.{i}", "02:42:0a:01:01:01", "n0", slot=i)
            for i in range(endpoints)
        },
    )


@pytest.fixture
def pki() -> Pki:
    """A CA of its own."""
    require_binary("etcd", "setpriv")
    return Pki()


@pytest.fixture
def hosts(pki: Pki, tmp_path: Path) -> Iterator[list[Host]]:
    """Three managers and a worker, nothing started yet; ended whatever happens."""
    made = [Host(pki, tmp_path, f"127.0.0.{next(_addresses)}") for _ in range(3)]
    made.append(Host(pki, tmp_path, f"127.0.0.{next(_addresses)}", "worker"))
    try:
        yield made
    finally:
        for host in made:
            host.kill()


@pytest.fixture
async def client(hosts: list[Host]) -> AsyncIterator[EtcdClient]:
    """A client of the first manager, whose etcd runs with authentication on."""
    hosts[0].start([hosts[0]])
    client = hosts[0].client(hosts[0])
    users = UserDirectory(EtcdAdmin(client))
    roles = {h.node_id: "worker" if h is hosts[3] else "manager" for h in hosts}

    async def secured() -> bool:
        await users.secure(roles)
        return True

    await eventually(secured, "etcd answers and is secured")
    yield client
    await client.close()


class Seen:
    """Collects what a watcher delivers."""

    def __init__(self, host: Host, *members: Host) -> None:
        self.states: list[OverlayState] = []
        self.metrics = CollectorRegistry()
        self.marks: list[SyncMark | None] = []
        self.watcher = RegistryWatcher(host.client(*members), self._take, metrics=self.metrics)

    def _take(self, state: OverlayState) -> None:
        self.marks.append(state.mark)
        self.states.append(msgspec.structs.replace(state, mark=None))

    def sample(self, name: str) -> float:
        """A metric's value."""
        return self.metrics.get_sample_value(name) or 0.0

    async def until(self, state: OverlayState, what: str) -> None:
        """Wait for ``state`` to be the last delivered."""

        async def there() -> bool:
            return bool(self.states) and self.states[-1] == state

        await eventually(there, what)

    async def until_connected(self, connected: bool) -> None:
        """Wait for the link to be up, or down."""

        async def there() -> bool:
            return self.watcher.connected == connected

        await eventually(there, f"watcher connected: {connected}")


@pytest.fixture
async def seen(hosts: list[Host], client: EtcdClient) -> AsyncIterator[Seen]:
    """A watcher on the worker."""
    seen = Seen(hosts[3], hosts[0])
    seen.watcher.start()
    yield seen
    await seen.watcher.stop()


async def test_a_worker_may_read_and_nothing_else(hosts: list[Host], client: EtcdClient) -> None:
    await RegistryWriter(client).sync(state_of(1), (1, 1))
    worker = hosts[3].client(hosts[0])
    listing = await worker.list(KEYS.root)
    assert len(listing.kvs) == 7
    for refused in (
        worker.put(KEYS.root + b"nodes/evil", b"{}"),
        worker.put(b"/elsewhere", b""),
        worker.get(b"/elsewhere"),
        worker.txn([], [], [listing.kvs[0].key]),
        EtcdAdmin(worker).users(),
        EtcdAdmin(worker).add_user("evil"),
        EtcdAdmin(worker).add_learner("https://127.0.0.9:2380"),
        RegistryWriter(worker).sync(state_of(2), (9, 9)),
    ):
        with pytest.raises(RegistryDenied):
            await refused
    assert await client.list(KEYS.root) == listing
    await worker.close()


async def test_a_certificate_without_user_may_not_read(hosts: list[Host], pki: Pki, client: EtcdClient) -> None:
    stranger = Host(pki, hosts[0].folder.parent, "127.0.0.9", "worker").client(hosts[0])
    with pytest.raises(RegistryDenied):
        await stranger.list(KEYS.root)
    await stranger.close()


async def ask_as_peer(host: Host, target: Host) -> bytes:
    """What etcd's peer port answers to this host's certificate."""
    context = ssl.create_default_context(cafile=host.tls_files.ca)
    context.check_hostname = False
    context.load_cert_chain(host.tls_files.cert, host.tls_files.key)
    reader, writer = await asyncio.open_connection(target.ip, target.peer_port, ssl=context)
    try:
        writer.write(b"GET /members HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")
        return await reader.read(4096)
    finally:
        writer.close()


async def test_only_a_managers_certificate_is_a_peer(hosts: list[Host], client: EtcdClient) -> None:
    assert b"200 OK" in await ask_as_peer(hosts[1], hosts[0])
    try:
        answer = await ask_as_peer(hosts[3], hosts[0])
    except OSError:
        answer = b""
    assert answer == b"", "a worker was let in as a peer"
    assert "client certificate authentication failed" in hosts[0].log()


async def test_a_sealed_member_lets_only_managers_in(hosts: list[Host]) -> None:
    hosts[0].start([hosts[0]], sealed=True)
    manager, worker = hosts[1].client(hosts[0]), hosts[3].client(hosts[0])
    await eventually(lambda: manager.put(KEYS.root + b"x", b"1"), "the manager may write")
    with pytest.raises(RegistryUnavailable):
        await worker.get(KEYS.root + b"x")
    await manager.close()
    await worker.close()


async def test_the_writer_writes_differences_and_watchers_follow(client: EtcdClient, seen: Seen) -> None:
    writer = RegistryWriter(client)
    assert await writer.sync(state_of(250), (1, 1)) == SyncResult(253, 0, marked=True)
    await seen.until(state_of(250), "the first state is delivered")
    assert await writer.sync(state_of(240), (1, 2)) == SyncResult(0, 10, marked=True)
    assert await writer.sync(state_of(240), (1, 3)) == SyncResult(0, 0)
    assert await writer.sync(state_of(241), (1, 3)) == SyncResult(1, 0, marked=True)
    await seen.until(state_of(241), "the changes are delivered")
    # A new leadership finds everything in place, and removes what is not in its state.
    await client.put(KEYS.root + b"nodes/foreign", b'{"node_id":"foreign","hostname":"","underlay_addr":""}')
    assert await RegistryWriter(client).sync(state_of(241), (2, 1)) == SyncResult(0, 1, marked=True)
    assert len((await client.list(KEYS.root, page_keys=100)).kvs) == 241 + 3 + 3


async def test_hosts_see_up_to_where_the_leader_has_written_and_that_it_asks(
    client: EtcdClient, seen: Seen
) -> None:
    writer = RegistryWriter(client)
    await writer.sync(state_of(250), (1, 1))
    await seen.until(state_of(250), "the first state is delivered")
    assert seen.marks[-1] == SyncMark((1, 1))
    await writer.sync(state_of(10), (1, 5), ask=True)
    await seen.until(state_of(10), "the second state is delivered")
    assert seen.marks[-1] == SyncMark((1, 5), asked=True)
    halfway = [m for m, s in zip(seen.marks, seen.states, strict=True) if s not in (state_of(250), state_of(10))]
    assert SyncMark((1, 5), asked=True) not in halfway, "the mark comes with the last of it"


async def test_a_deposed_leader_is_fenced(client: EtcdClient) -> None:
    old, new = RegistryWriter(client), RegistryWriter(client)
    await old.sync(state_of(1), (1, 7))
    await new.sync(state_of(2), (2, 1))
    before = await client.list(KEYS.root)
    with pytest.raises(RegistryFenced):
        await old.sync(state_of(0), (1, 99))
    with pytest.raises(RegistryFenced):
        await old.sync(state_of(0), (1, 100))
    assert await client.list(KEYS.root) == before
    assert await new.sync(state_of(3), (2, 2)) == SyncResult(1, 0, marked=True)


async def test_a_watch_resumes_over_restarts_and_compaction(
    hosts: list[Host], client: EtcdClient, seen: Seen
) -> None:
    writer = RegistryWriter(client)
    await writer.sync(state_of(3), (1, 1))
    await seen.until(state_of(3), "the first state is delivered")
    resyncs = seen.sample("pyswarm_registry_resyncs_total")
    hosts[0].kill()
    await seen.until_connected(False)
    assert seen.states[-1] == state_of(3)
    hosts[0].start([hosts[0]])
    # The writer's idea of etcd's content survives, as etcd does.
    assert await eventually(lambda: writer.sync(state_of(5), (1, 2)), "etcd is back") is not None
    await seen.until(state_of(5), "the watch resumed")
    assert seen.sample("pyswarm_registry_resyncs_total") == resyncs
    # Cut off while history is made and forgotten: the watcher must list again.
    seen.watcher.set_endpoints(["127.0.0.1:1"])
    await seen.until_connected(False)
    for n in range(6, 12):
        await writer.sync(state_of(n), (1, n))
    await client.compact((await client.list(KEYS.root)).revision)
    seen.watcher.set_endpoints([hosts[0].client_url])
    await seen.until(state_of(11), "the state after the compaction")
    assert seen.sample("pyswarm_registry_resyncs_total") == resyncs + 1


async def test_a_wiped_etcd_is_refilled_unnoticed(hosts: list[Host], client: EtcdClient, seen: Seen) -> None:
    writer = RegistryWriter(client)
    for n in range(1, 9):
        await writer.sync(state_of(n), (1, n))
    await seen.until(state_of(8), "the first state is delivered")
    delivered = len(seen.states)
    hosts[0].kill()
    hosts[0].start([hosts[0]], data="etcd2")
    # Half a fill, as of a leader that died over it: entries, but no marker.
    half = Keys().flatten(state_of(4))
    for key, value in half.items():
        await eventually(lambda k=key, v=value: client.put(k, v), "etcd is back")  # type: ignore[misc]

    async def read_anew() -> bool:
        return seen.sample("pyswarm_registry_revision") == (await client.list(KEYS.root)).revision

    await eventually(read_anew, "the watcher has read the half-filled etcd")
    assert len(seen.states) == delivered, "a half-filled registry was believed"
    with pytest.raises(RegistryUnavailable):
        await writer.sync(state_of(9), (1, 10))
    await writer.sync(state_of(9), (1, 10))
    await seen.until(state_of(9), "the refilled state")
    assert len(seen.states) == delivered + 1


async def test_members_join_as_learners_and_the_loss_of_one_is_survived(
    hosts: list[Host], client: EtcdClient, seen: Seen
) -> None:
    admin = EtcdAdmin(client)
    for count in (2, 3):
        joining = hosts[count - 1]
        member = await eventually(lambda j=joining: admin.add_learner(j.peer_url), "added")  # type: ignore[misc]
        joining.start(hosts[:count], "existing")

        async def promoted(member_id: int = member) -> bool:
            try:
                await admin.promote(member_id)
            except RegistryRefused:
                return False
            return True

        await eventually(promoted, "the learner votes")
    assert [m.learner for m in await admin.members()] == [False] * 3
    urls = [h.client_url for h in hosts[:3]]
    await client.set_endpoints(urls)
    seen.watcher.set_endpoints(urls)
    await RegistryWriter(client).sync(state_of(2), (1, 1))
    await seen.until(state_of(2), "the first state is delivered")
    hosts[0].kill()
    writer = RegistryWriter(client)
    await eventually(lambda: writer.sync(state_of(3), (2, 1)), "two of three write")
    await seen.until(state_of(3), "the watch went to another member")


def test_prefix() -> None:
    assert KEYS.root == PREFIX.encode() + b"/"
    assert {READER, WRITER} == {"pyswarm-reader", "pyswarm-writer"}
