"""The store: transactions, conflicts, names, watches, snapshots."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from support.store import LocalProposer, local_store
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
    UpdateOutOfSequence,
)
from pyswarm.common.types import (
    Cluster,
    Config,
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    ManagerStatus,
    Network,
    NetworkSpec,
    Node,
    NodeDescription,
    Secret,
    SecretReference,
    SecretSpec,
    Service,
    ServiceSpec,
    Task,
    TaskNetwork,
    TaskSpec,
    TaskState,
    TaskStatus,
    Version,
    timestamp,
)
from pyswarm.manager.state import Event, ResyncRequired, StateDamaged, Store, Transaction, entry
from pyswarm.manager.state.machine import DEDUPE_WINDOW, Machine

GOLDEN = Path(__file__).parent.parent / "golden" / "state"


def service(id: str, name: str, image: str = "busybox") -> Service:
    template = TaskSpec(container_spec=ContainerSpec(image=image))
    return Service(id=id, spec=ServiceSpec(name=name, task_template=template))


def network(id: str, name: str, subnet: str, vni: int, gateway: str = "") -> Network:
    return Network(id=id, spec=NetworkSpec(name=name), subnet=subnet, vni=vni, gateway=gateway)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


async def add(store: Store, *objects: entry.Stored) -> None:
    def build(tx: Transaction) -> None:
        for obj in objects:
            tx.create(obj)

    await store.update(build)


async def test_create_update_delete_carry_versions_and_times(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    await add(store, service("s1", "web"))
    created = store.view.services.find("web")
    assert created.version == Version(index=1)
    assert created.created_at == created.updated_at == timestamp(clock.now())
    await clock.advance(5)
    changed = msgspec.structs.replace(created, spec=msgspec.structs.replace(created.spec, labels={"a": "b"}))
    await store.update(lambda tx: tx.update(changed))
    after = store.view.services.find("s1")
    assert (after.version.index, after.spec.labels) == (2, {"a": "b"})
    assert (after.updated_at - after.created_at).total_seconds() == 5
    with pytest.raises(UpdateOutOfSequence):
        await store.update(lambda tx: tx.update(changed))
    await store.update(lambda tx: tx.delete(after))
    assert len(store.view.services) == 0
    store.validate()


async def test_a_builder_that_raises_changes_nothing(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)

    def build(tx: Transaction) -> None:
        tx.create(service("s1", "web"))
        assert tx.view.services.by_name("web") is not None
        raise NotFound("network x not found")

    with pytest.raises(NotFound):
        await store.update(build)
    assert proposer.index == 0
    assert len(store.view.services) == 0


async def test_find_by_id_name_and_unique_prefix(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    node = Node(id="n1x", description=NodeDescription(hostname="h1"))
    await add(store, service("abc1", "web"), service("abd2", "api"), node, msgspec.structs.replace(node, id="n2x"))
    services = store.view.services
    assert services.find("abc1").spec.name == services.find("abc").spec.name == services.find("web").spec.name
    with pytest.raises(NotFound, match=r"^service nope not found$"):
        services.find("nope")
    with pytest.raises(NotFound):
        services.find("")
    with pytest.raises(InvalidArgument, match="service ab is ambiguous"):
        services.find("ab")
    with pytest.raises(InvalidArgument, match="node h1 is ambiguous"):
        store.view.nodes.find("h1")


async def test_names_are_unique_also_between_concurrent_transactions(clock: VirtualClock) -> None:
    store, _proposer = local_store(clock)
    results = await asyncio.gather(
        add(store, service("s1", "web")), add(store, service("s2", "Web")), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], AlreadyExists)
    with pytest.raises(AlreadyExists, match="service web already exists"):
        await add(store, service("s3", "web"))
    await add(store, network("n1", "app", "10.0.1.0/24", 4097))
    with pytest.raises(AlreadyExists, match=r"^network with name app already exists$"):
        await add(store, network("n2", "app", "10.0.2.0/24", 4098))

    def swap(tx: Transaction) -> None:
        tx.delete(tx.view.services.find("s1"))
        tx.create(service("s9", "web"))

    await store.update(swap)
    assert store.view.services.find("web").id == "s9"
    store.validate()


async def test_a_conflict_is_built_again_on_the_new_state(clock: VirtualClock) -> None:
    store, _proposer = local_store(clock)
    await add(store, service("s1", "web"))
    runs: list[str] = []

    def label(key: str) -> None:
        def build(tx: Transaction) -> None:
            runs.append(key)
            current = tx.view.services.find("s1")
            labels = {**current.spec.labels, key: "1"}
            tx.update(msgspec.structs.replace(current, spec=msgspec.structs.replace(current.spec, labels=labels)))

        return build  # type: ignore[return-value]

    keys = [f"k{i}" for i in range(5)]
    await asyncio.gather(*(store.update(label(key)) for key in keys))  # type: ignore[arg-type]
    assert sorted(store.view.services.find("s1").spec.labels) == keys
    assert len(runs) > len(keys)


async def test_small_transactions_share_entries(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)
    await asyncio.gather(*(add(store, service(f"s{i:03}", f"name{i}")) for i in range(100)))
    assert len(store.view.services) == 100
    assert proposer.index <= 2
    store.validate()


async def test_two_networks_allocated_at_once_do_not_meet(clock: VirtualClock) -> None:
    store, _ = local_store(clock)

    def build(name: str):  # type: ignore[no-untyped-def]
        def allocate(tx: Transaction) -> None:
            n = len(tx.view.networks) + 1
            tx.create(network(f"id-{name}", name, f"10.0.{n}.0/24", 4096 + n))

        return allocate

    await asyncio.gather(*(store.update(build(f"net{i}")) for i in range(4)))
    assert sorted(n.vni for n in store.view.networks.values()) == [4097, 4098, 4099, 4100]
    store.validate()


async def test_an_address_is_held_until_its_task_has_ended(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    held = (TaskNetwork(network_id="net", addr="10.0.1.2/24"),)
    await add(store, network("net", "app", "10.0.1.0/24", 4097), Task(id="t1", networks=held))
    with pytest.raises(Unavailable):
        await add(store, Task(id="t2", networks=held))

    def end(tx: Transaction) -> None:
        task = tx.view.tasks.find("t1")
        tx.update(msgspec.structs.replace(task, status=TaskStatus(state=TaskState.FAILED)))

    await store.update(end)
    await add(store, Task(id="t2", networks=held))
    holder = store.view.tasks.by_address("net", "10.0.1.2/24")
    assert holder is not None
    assert holder.id == "t2"
    store.validate()


async def test_task_indexes_in_view_and_transaction(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    await add(store, Task(id="t1", service_id="s", slot=1), Task(id="t2", service_id="s", slot=2))

    def build(tx: Transaction) -> None:
        first = tx.view.tasks.find("t1")
        status = TaskStatus(state=TaskState.ASSIGNED)
        tx.update(msgspec.structs.replace(first, node_id="n", status=status))
        tx.delete(tx.view.tasks.find("t2"))
        tx.create(Task(id="t3", service_id="s", slot=1))
        assert {t.id for t in tx.view.tasks.by_service("s")} == {"t1", "t3"}
        assert [t.id for t in tx.view.tasks.by_node("n")] == ["t1"]
        assert {t.id for t in tx.view.tasks.by_slot("s", 1)} == {"t1", "t3"}
        assert len(tx.view.tasks) == 2
        assert tx.changes == 3
        held = (TaskNetwork(network_id="net", addr="10.0.1.2/24"),)
        tx.create(Task(id="t4", service_id="s", slot=4, networks=held))
        holder = tx.view.tasks.by_address("net", "10.0.1.2/24")
        assert holder is not None
        assert holder.id == "t4"
        tx.delete(holder)
        assert tx.view.tasks.by_address("net", "10.0.1.2/24") is None

    await store.update(build)
    tasks = store.view.tasks
    assert {t.id for t in tasks.by_service("s")} == {"t1", "t3"}
    assert [t.id for t in tasks.by_node("n")] == ["t1"]
    assert tasks.by_slot("s", 2) == []
    store.validate()


async def test_tasks_are_found_by_their_networks_until_they_end(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    held = (TaskNetwork(network_id="net", addr="10.0.1.2/24"), TaskNetwork(network_id="other"))
    await add(store, Task(id="t1", networks=held), Task(id="t2", networks=held[1:]))

    def build(tx: Transaction) -> None:
        first = tx.view.tasks.find("t1")
        tx.update(msgspec.structs.replace(first, status=TaskStatus(state=TaskState.FAILED)))
        tx.create(Task(id="t3", networks=held[:1]))
        assert [t.id for t in tx.view.tasks.by_network("net")] == ["t3"]
        assert [t.id for t in tx.view.tasks.by_network("other")] == ["t2"]

    assert [t.id for t in store.view.tasks.by_network("net")] == ["t1"]
    await store.update(build)
    assert [t.id for t in store.view.tasks.by_network("net")] == ["t3"]
    assert [t.id for t in store.view.tasks.by_network("other")] == ["t2"]
    assert store.view.tasks.by_network("none") == []
    store.validate()


async def test_managers_are_found_among_the_nodes(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    status = ManagerStatus(addr="10.0.0.1:2377")
    await add(store, Node(id="n1", manager_status=status), Node(id="n2"), Node(id="n3", manager_status=status))

    def build(tx: Transaction) -> None:
        tx.update(msgspec.structs.replace(tx.view.nodes.find("n1"), manager_status=None))
        tx.update(msgspec.structs.replace(tx.view.nodes.find("n2"), manager_status=status))
        tx.delete(tx.view.nodes.find("n3"))
        assert [n.id for n in tx.view.nodes.managers()] == ["n2"]

    assert [n.id for n in store.view.nodes.managers()] == ["n1", "n3"]
    await store.update(build)
    assert [n.id for n in store.view.nodes.managers()] == ["n2"]
    store.validate()


async def test_tasks_never_go_back(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    status = TaskStatus(state=TaskState.RUNNING)
    await add(store, Task(id="t1", node_id="n", status=status, desired_state=TaskState.SHUTDOWN))
    task = store.view.tasks.find("t1")
    earlier = msgspec.structs.replace(task, status=TaskStatus(state=TaskState.STARTING))
    with pytest.raises(FailedPrecondition, match="cannot go back from running to starting"):
        await store.update(lambda tx: tx.update(earlier))
    with pytest.raises(FailedPrecondition, match="wanted running again"):
        await store.update(lambda tx: tx.update(msgspec.structs.replace(task, desired_state=TaskState.RUNNING)))


async def test_tasks_share_their_services_spec(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    await add(store, service("s1", "web"))
    spec = msgspec.msgpack.decode(
        msgspec.msgpack.encode(store.view.services.find("s1").spec.task_template), type=TaskSpec
    )
    await add(store, Task(id="t1", service_id="s1", spec=spec))
    assert store.view.tasks.find("t1").spec is store.view.services.find("s1").spec.task_template
    other = Store(clock)
    other.restore(store.snapshot()(), 2)
    assert other.view.tasks.find("t1").spec is other.view.services.find("s1").spec.task_template


async def test_watch_gives_every_change_once_in_order(clock: VirtualClock) -> None:
    store, _ = local_store(clock)
    await add(store, service("s0", "zero"))
    watch = store.watch()
    known = {s.id for s in store.view.services.values()}
    await add(store, service("s1", "one"), service("s2", "two"))
    await store.update(lambda tx: tx.delete(tx.view.services.find("s1")))
    first = await anext(watch)
    assert [(e.action, e.obj.id) for e in first] == [("create", "s1"), ("create", "s2")]
    second = await anext(watch)
    assert [(e.action, e.obj.id, e.new) for e in second] == [("remove", "s1", None)]
    assert known == {"s0"}
    watch.poke()
    assert await anext(watch) == ()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(watch)
    await add(store, service("s3", "three"))
    assert [e.obj.id for e in watch.drain()] == ["s3"]
    watch.close()
    assert [batch async for batch in watch] == []


async def test_a_slow_watcher_and_a_restore_require_a_resync(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)
    slow, other = store.watch(max_pending=2), store.watch()
    await add(store, *(service(f"s{i}", f"n{i}") for i in range(3)))
    with pytest.raises(ResyncRequired):
        await anext(slow)
    assert len(await anext(other)) == 3
    store.restore(store.snapshot()(), proposer.index)
    with pytest.raises(ResyncRequired):
        await anext(other)


async def test_failures_of_the_proposal_reach_all_in_the_batch(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)
    proposer.fail = NotLeader("10.0.0.2:2377")
    results = await asyncio.gather(
        *(add(store, service(f"s{i}", f"n{i}")) for i in range(3)), return_exceptions=True
    )
    assert all(isinstance(r, NotLeader) for r in results)
    proposer.fail = None
    await add(store, service("s0", "n0"))
    with pytest.raises(Unavailable):
        await add(Store(clock), service("s0", "n0"))


async def test_a_cancelled_caller_does_not_disturb_the_others(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)
    proposer.gate = asyncio.Event()
    first = asyncio.ensure_future(add(store, service("s1", "one")))
    await clock.settle()
    second = asyncio.ensure_future(add(store, service("s2", "two")))
    third = asyncio.ensure_future(add(store, service("s3", "three")))
    await clock.settle()
    first.cancel()
    second.cancel()
    await clock.settle()
    proposer.gate.set()
    await third
    # The first was on its way already and may be stored; the second never left.
    assert {s.id for s in store.view.services.values()} == {"s1", "s3"}


async def test_closing_the_store_answers_who_waits(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)
    proposer.gate = asyncio.Event()
    under_way = asyncio.ensure_future(add(store, service("s1", "n1")))
    await clock.settle()
    queued = asyncio.ensure_future(add(store, service("s2", "n2")))
    await clock.settle()
    await store.close()
    # The first one's proposal may be in the log already; of the second nobody has heard.
    with pytest.raises(OutcomeUnknown):
        await under_way
    with pytest.raises(Unavailable):
        await queued


async def test_snapshot_restores_state_and_window(clock: VirtualClock) -> None:
    store, proposer = local_store(clock)
    await add(store, service("s1", "web"), Cluster(id="c1"), network("net", "app", "10.0.1.0/24", 4097))
    capture = store.snapshot()
    await add(store, service("s2", "later"))
    data = await asyncio.to_thread(capture)
    other = Store(clock)
    other.restore(data, 1)
    other.validate()
    assert other.view.index == 1
    assert other.view.services.by_name("later") is None
    assert other.view.services.find("web") == store.view.services.find("web")
    assert other.view.cluster == store.view.cluster
    for index, command in enumerate(proposer.log[:2], start=2):
        other.apply(index, command)
    assert other.view.services.find("web").version.index == 1, "the first request was answered before"
    with pytest.raises(StateDamaged):
        other.restore(data[:-7], 1)
    assert other.view.services.by_name("web") is not None


def test_a_large_snapshot_is_encoded_in_bounded_pieces() -> None:
    """One call into the encoder holds every thread of the process: none may be as long as the state is large."""
    machine = Machine()
    machine.view.tables["service"].put(msgspec.structs.replace(service("s1", "web"), version=Version(index=1)))
    tasks = {f"t{i}": Task(id=f"t{i}", version=Version(index=1), reason="x" * 900) for i in range(1000)}
    answers = [(f"r{i}", entry.Outcome("ok", i)) for i in range(1000)]
    services = {obj.id: obj for obj in machine.view.services.values()}
    pieces = list(entry.snapshot_pieces(9, {"service": services, "task": tasks, "node": {}}, answers))
    largest_object = max(len(entry.encode_object(task)) for task in tasks.values())
    assert max(len(piece) for piece in pieces) <= entry.SNAPSHOT_SLICE * largest_object
    body = entry.decode_snapshot(b"".join(pieces))
    assert body.index == 9
    assert body.recent == answers
    assert body.objects["node"] == []
    assert {o.id: o for o in (entry.decode_object("task", raw) for raw in body.objects["task"])} == tasks
    assert [entry.decode_object("service", raw) for raw in body.objects["service"]] == list(services.values())


def test_a_snapshot_of_one_encoded_body_is_read_as_well() -> None:
    """As earlier releases wrote it, and with the tasks before the services whose specs they share."""
    web = msgspec.structs.replace(service("s1", "web"), version=Version(index=1))
    task = Task(id="t1", version=Version(index=2), service_id="s1", spec=web.spec.task_template)
    raws = {"task": [entry.encode_object(task)], "service": [entry.encode_object(web)]}
    body = entry.SnapshotBody(index=3, objects=raws, recent=[("r", entry.Outcome("ok", 2))])
    whole = msgspec.msgpack.encode(entry.Envelope(entry.SCHEMA, msgspec.Raw(msgspec.msgpack.encode(body))))
    machine = Machine()
    machine.restore(whole, 3)
    machine.validate()
    restored = machine.view.tasks.get("t1")
    assert restored == task
    assert restored is not None
    assert restored.spec is machine.view.services.find("web").spec.task_template


def record(request_id: str, *actions: entry.Action) -> bytes:
    return entry.encode_record(entry.TransactionRecord(request_id, actions))


def test_apply_never_raises_and_keeps_nothing_of_a_bad_transaction() -> None:
    machine = Machine()
    raw = entry.encode_object(service("s1", "web"))
    bad = [
        record("r1", entry.Action("create", "service", "s1", 0, raw), entry.Action("create", "moon", "m", 0, raw)),
        record("r2", entry.Action("create", "task", "s1", 0, msgspec.Raw(b"\x91\x01"))),
        record("r3", entry.Action("update", "service", "s1", 7, raw)),
        record("r4", entry.Action("create", "service", "s1", 0, raw)),
    ]
    data, events = machine.apply(1, entry.encode_entry(bad))
    assert [o.status for o in entry.decode_outcomes(data)] == ["error", "error", "conflict", "ok"]
    assert [e.action for e in events] == ["create"]
    for index, junk in enumerate((b"", b"\xc1", b"\x93\x01\x02\x03", entry.encode_entry(bad)[:-3]), start=2):
        data, events = machine.apply(index, junk)
        assert [o.status for o in entry.decode_outcomes(data)] == ["error"]
        assert events == ()
    newer = msgspec.msgpack.encode(entry.Envelope(schema=99, body=msgspec.Raw(b"\x80")))
    data, _ = machine.apply(9, newer)
    assert "format 99 is not known" in entry.decode_outcomes(data)[0].message
    machine.validate()


def test_a_transaction_that_meets_a_conflict_half_way_leaves_nothing() -> None:
    machine = Machine()

    def action(op: str, obj: Service, replaces: int) -> entry.Action:
        return entry.Action(op, "service", obj.id, replaces, entry.encode_object(obj))

    machine.apply(1, entry.encode_entry([record("r1", action("create", service("s1", "web"), 0))]))
    before = machine.snapshot()()
    actions = (
        entry.Action("delete", "service", "s1", 1),
        action("create", service("s2", "other"), 0),
        action("update", service("s3", "third"), 5),
    )
    data, events = machine.apply(1, entry.encode_entry([record("r2", *actions)]))
    assert entry.decode_outcomes(data)[0].status == "conflict"
    assert events == ()
    assert [s.id for s in machine.view.services.values()] == ["s1"]
    assert entry.decode_snapshot(machine.snapshot()()).objects == entry.decode_snapshot(before).objects
    machine.validate()


def test_the_window_of_request_ids_is_bounded_and_answers_repeats() -> None:
    machine = Machine()
    create = record("same", entry.Action("create", "service", "s1", 0, entry.encode_object(service("s1", "web"))))
    first, _ = machine.apply(1, entry.encode_entry([create]))
    again, events = machine.apply(2, entry.encode_entry([create]))
    assert first == again
    assert events == ()
    for i in range(DEDUPE_WINDOW):
        machine.apply(3 + i, entry.encode_entry([record(f"r{i}", entry.Action("delete", "task", "none"))]))
    late, _ = machine.apply(9999, entry.encode_entry([create]))
    assert entry.decode_outcomes(late)[0].status == "conflict"
    machine.validate()


def test_a_request_answered_before_the_snapshot_is_not_carried_out_after_it() -> None:
    machine = Machine()
    create = record("same", entry.Action("create", "service", "s1", 0, entry.encode_object(service("s1", "web"))))
    first, _ = machine.apply(1, entry.encode_entry([create]))
    machine.apply(2, entry.encode_entry([record("other", entry.Action("delete", "service", "s1", 1))]))
    restored = Machine()
    restored.restore(machine.snapshot()(), 2)
    again, events = restored.apply(3, entry.encode_entry([create]))
    assert again == first
    assert events == ()
    assert restored.view.services.get("s1") is None


async def test_managers_that_apply_the_same_log_agree(clock: VirtualClock) -> None:
    leader, follower = Store(clock), Store(VirtualClock(start_s=0))
    proposer = LocalProposer(leader, follower)
    leader.bind(proposer.propose)
    await asyncio.gather(*(add(leader, service(f"s{i}", f"n{i % 7}")) for i in range(20)), return_exceptions=True)
    assert len(leader.view.services) == 7
    assert leader.snapshot()() == follower.snapshot()()


def golden_record() -> entry.TransactionRecord:
    task = Task(
        id="t1", service_id="s1", service_name="web", slot=3, node_id="n1",
        spec=TaskSpec(container_spec=ContainerSpec(image="busybox:latest", args=("httpd", "-f"))),
        status=TaskStatus(timestamp=timestamp(1_700_000_000), state=TaskState.RUNNING, message="started"),
        networks=(TaskNetwork(network_id="net", addr="10.0.1.3/24", mac="02:42:0a:00:01:03"),),
    )  # fmt: skip
    return entry.TransactionRecord(
        "request-1",
        (
            entry.Action("delete", "network", "old", 4),
            entry.Action("create", "service", "s1", 0, entry.encode_object(service("s1", "web"))),
            entry.Action("update", "task", "t1", 7, entry.encode_object(task)),
        ),
    )


def test_entries_of_version_1_are_read_for_ever() -> None:
    """A stored log outlives releases: what is in the file must decode to this, whatever else changes."""
    stored = bytes.fromhex((GOLDEN / "entry_v1.hex").read_text())
    (decoded,) = entry.decode_entry(stored)
    wanted = golden_record()
    assert [(a.op, a.kind, a.id, a.replaces) for a in decoded.actions] == [
        (a.op, a.kind, a.id, a.replaces) for a in wanted.actions
    ]
    for mine, theirs in zip(wanted.actions[1:], decoded.actions[1:], strict=True):
        assert entry.decode_object(mine.kind, mine.obj) == entry.decode_object(theirs.kind, theirs.obj)
    task = entry.decode_object("task", decoded.actions[2].obj)
    assert isinstance(task, Task)
    assert (task.name, task.networks[0].addr) == ("web.3", "10.0.1.3/24")
    assert task.status.state is TaskState.RUNNING
    assert decoded.actions[0] == entry.Action("delete", "network", "old", 4)


def test_entries_are_written_as_version_1() -> None:
    """Fails when the written form changes: then SCHEMA must too, or older managers misread it. (v1b: objects that
    have come to have more than 15 fields begin with another kind of map header, which every reader knows.)"""
    assert (
        entry.encode_entry([entry.encode_record(golden_record())]).hex()
        == (GOLDEN / "entry_v1b.hex").read_text().strip()
    )


def files_record() -> entry.TransactionRecord:
    secret = Secret(id="sec", spec=SecretSpec(name="tok", labels={"a": "b"}, data=b"\x00\xff"))
    config = Config(id="con", spec=ConfigSpec(name="conf", data=b"x=1"))
    container = ContainerSpec(
        image="busybox",
        secrets=(
            SecretReference(file=FileTarget(name="tok", uid="7", mode=0o400), secret_id="sec", secret_name="tok"),
        ),
        configs=(ConfigReference(file=FileTarget(name="/conf"), config_id="con", config_name="conf"),),
    )
    web = Service(id="s1", spec=ServiceSpec(name="web", task_template=TaskSpec(container_spec=container)))
    kinds = (("secret", secret), ("config", config), ("service", web))
    return entry.TransactionRecord(
        "request-2",
        tuple(entry.Action("create", kind, obj.id, 0, entry.encode_object(obj)) for kind, obj in kinds),
    )


def test_secrets_and_configs_are_written_and_read_as_ever() -> None:
    golden = (GOLDEN / "entry_files_v1.hex").read_text().strip()
    assert entry.encode_entry([entry.encode_record(files_record())]).hex() == golden
    machine = Machine()
    machine.apply(1, bytes.fromhex(golden))
    assert machine.view.secrets.find("tok").spec.data == b"\x00\xff"
    assert machine.view.configs.find("conf").spec.data == b"x=1"
    (reference,) = machine.view.services.find("web").spec.task_template.container_spec.secrets
    assert (reference.secret_id, reference.file.uid, reference.file.mode) == ("sec", "7", 0o400)
    machine.validate()


def test_event_knows_its_object() -> None:
    web = service("s1", "web")
    assert Event("remove", web, None).obj is web
    assert Event("create", None, web).obj is web
