"""Secrets and configs over the Control service: stored, listed, changed, removed, and never given away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from support.managers import TestCluster, running_cluster

from pyswarm.common.errors import (
    AlreadyExists,
    InUse,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PyswarmError,
    UpdateOutOfSequence,
)
from pyswarm.common.types import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from pyswarm.manager.control import replies
from pyswarm.proto.v1 import control_pb2, control_pb2_grpc

PAYLOAD = b"hunter2\x00\xff"


@pytest.fixture
async def cluster() -> AsyncIterator[TestCluster]:
    async with running_cluster() as running:
        yield running


def service_spec(name: str, *files: SecretReference | ConfigReference) -> ServiceSpec:
    container = ContainerSpec(
        image="busybox:latest",
        secrets=tuple(f for f in files if isinstance(f, SecretReference)),
        configs=tuple(f for f in files if isinstance(f, ConfigReference)),
    )
    return ServiceSpec(name=name, task_template=TaskSpec(container_spec=container))


def secret_ref(id: str, name: str = "tok", target: str = "tok") -> SecretReference:
    return SecretReference(file=FileTarget(name=target), secret_id=id, secret_name=name)


def config_ref(id: str, name: str = "conf") -> ConfigReference:
    return ConfigReference(file=FileTarget(name="/conf"), config_id=id, config_name=name)


async def test_a_secret_is_stored_and_its_payload_never_given_away(cluster: TestCluster) -> None:
    client = cluster.client()
    created = await client.create_secret(SecretSpec(name="tok", labels={"a": "b"}, data=PAYLOAD))
    assert created.spec == SecretSpec(name="tok", labels={"a": "b"})
    stored = cluster.store.view.secrets.find("tok")
    assert stored.spec.data == PAYLOAD
    changed = await client.update_secret(
        created.id, created.version.index, SecretSpec(name="tok", labels={"c": ""})
    )
    assert changed.spec == SecretSpec(name="tok", labels={"c": ""})
    assert cluster.store.view.secrets.find("tok").spec.data == PAYLOAD, "who leaves the payload out keeps it"
    for found in (await client.get_secret("tok"), await client.get_secret(created.id[:8])):
        assert found == changed
    for filters in ({"name": ["to"]}, {"names": ["tok"]}, {"label": ["c"]}, {"id": [created.id[:5]]}):
        assert await client.list_secrets(filters) == [changed]
    for filters in ({"name": ["x"]}, {"names": ["to"]}, {"label": ["a"]}):
        assert await client.list_secrets(filters) == []
    await client.remove_secret("tok")
    with pytest.raises(NotFound, match=r"^secret tok not found$"):
        await client.get_secret("tok")


async def test_no_reply_of_any_call_holds_a_payload(cluster: TestCluster) -> None:
    manager = cluster.managers[0]
    spec = msgspec.msgpack.encode(SecretSpec(name="tok", data=PAYLOAD))
    async with manager.identity.channel(manager.addr) as channel:
        stub: Any = control_pb2_grpc.ControlStub(channel)
        created = await stub.CreateSecret(control_pb2.CreateRequest(spec=spec))
        update = control_pb2.UpdateRequest(ref="tok", version=cluster.store.view.index, spec=spec)
        replies_ = [
            created,
            await stub.UpdateSecret(update),
            await stub.Get(control_pb2.GetRequest(kind="secret", ref="tok")),
            await stub.List(control_pb2.ListRequest(kind="secret")),
        ]
    assert all(b"tok" in reply.SerializeToString() for reply in replies_)
    assert not any(b"hunter2" in reply.SerializeToString() for reply in replies_)


async def test_a_config_is_given_back_whole(cluster: TestCluster) -> None:
    client = cluster.client()
    created = await client.create_config(ConfigSpec(name="conf", data=PAYLOAD))
    assert created.spec.data == PAYLOAD
    changed = await client.update_config(
        "conf", created.version.index, ConfigSpec(name="conf", labels={"a": "b"}, data=PAYLOAD)
    )
    assert changed.spec == ConfigSpec(name="conf", labels={"a": "b"}, data=PAYLOAD)
    assert await client.list_configs({"name": ["con"]}) == [changed] == [await client.get_config("conf")]
    await client.remove_config(created.id)
    assert await client.list_configs() == []


async def test_refusals(cluster: TestCluster) -> None:
    client = cluster.client()
    secret = await client.create_secret(SecretSpec(name="tok", data=PAYLOAD))
    config = await client.create_config(ConfigSpec(name="conf", data=PAYLOAD))
    version = secret.version.index
    refusals: list[tuple[Any, type[PyswarmError], str]] = [
        (
            client.create_secret(SecretSpec(name="tok", data=b"x")),
            AlreadyExists,
            "rpc error: code = AlreadyExists desc = secret tok already exists",
        ),
        (
            client.create_config(ConfigSpec(name="CONF", data=b"x")),
            AlreadyExists,
            "rpc error: code = AlreadyExists desc = config CONF already exists",
        ),
        (client.get_config("tok"), NotFound, "config tok not found"),
        (client.remove_secret("nope"), NotFound, "secret nope not found"),
        (client.update_secret("nope", version, SecretSpec(name="nope")), NotFound, "secret nope not found"),
        (
            client.update_secret("tok", version, SecretSpec(name="tok", data=b"new")),
            InvalidArgument,
            "only updates to Labels are allowed",
        ),
        (
            client.update_config("conf", config.version.index, ConfigSpec(name="other", data=PAYLOAD)),
            InvalidArgument,
            "only updates to Labels are allowed",
        ),
        (client.list_secrets({"colour": ["red"]}), InvalidArgument, "invalid filter 'colour'"),
        (
            client.create_service(service_spec("web", secret_ref("nope", "nope"))),
            InvalidArgument,
            "secret not found: nope",
        ),
        (
            client.create_service(
                service_spec("web", secret_ref(secret.id, "other"), secret_ref("nope", "nope", "n2"))
            ),
            InvalidArgument,
            "secrets not found: other, nope",
        ),
        (
            client.create_service(service_spec("web", config_ref(secret.id))),
            InvalidArgument,
            "config not found: conf",
        ),
    ]
    for call, kind, text in refusals:
        with pytest.raises(PyswarmError) as caught:
            await call
        assert (type(caught.value), str(caught.value)) == (kind, text)
    with pytest.raises(UpdateOutOfSequence):
        await client.update_secret("tok", version - 1, SecretSpec(name="tok"))
    assert await client.list_services() == []


async def test_what_services_use_is_kept_and_they_are_named(cluster: TestCluster) -> None:
    client = cluster.client()
    secret = await client.create_secret(SecretSpec(name="tok", data=PAYLOAD))
    config = await client.create_config(ConfigSpec(name="conf", data=PAYLOAD))
    web = await client.create_service(service_spec("web", secret_ref(secret.id), config_ref(config.id)))
    with pytest.raises(InUse, match=r"^secret 'tok' is in use by the following service: web$"):
        await client.remove_secret("tok")
    api = await client.create_service(service_spec("api", secret_ref(secret.id)))
    with pytest.raises(InUse, match=r"^secret 'tok' is in use by the following services: api, web$"):
        await client.remove_secret("tok")
    with pytest.raises(InUse, match=r"^config 'conf' is in use by the following service: web$"):
        await client.remove_config(config.id)
    await client.remove_service(api.id)
    without = await client.update_service("web", web.version.index, service_spec("web"))
    await client.remove_secret("tok")
    await client.remove_config("conf")
    with pytest.raises(InvalidArgument, match="secret not found: tok"):
        await client.update_service("web", without.version.index, rollback=True)
    assert (await client.get_service("web")).spec == without.spec


@pytest.mark.parametrize("removal_first", [True, False])
async def test_a_removal_and_a_new_user_at_the_same_moment(cluster: TestCluster, removal_first: bool) -> None:
    client = cluster.client()
    for number in range(10):
        name = f"tok{number}"
        secret = await client.create_secret(SecretSpec(name=name, data=PAYLOAD))
        calls: list[Any] = [
            client.remove_secret(name),
            client.create_service(service_spec(f"web{number}", secret_ref(secret.id, name))),
        ]
        # Held back, so that both are built on a state in which they are possible.
        cluster.raft.reachable.clear()
        working = [asyncio.ensure_future(call) for call in (calls if removal_first else calls[::-1])]
        await asyncio.sleep(0.02)
        cluster.raft.reachable.set()
        results = await asyncio.gather(*working, return_exceptions=True)
        removed, created = results if removal_first else results[::-1]
        cluster.store.validate()
        if isinstance(created, Exception):
            assert str(created) == f"secret not found: {name}"
            assert removed is None
        else:
            assert isinstance(removed, InUse)


async def test_the_largest_payloads_go_through_a_follower(cluster: TestCluster) -> None:
    async with running_cluster(managers=2) as two:
        client = two.client(1)
        data = bytes(range(256)) * 4000
        created = await client.create_config(ConfigSpec(name="conf", data=data[:1_023_999]))
        assert len((await client.get_config(created.id)).spec.data) == 1_023_999
        await client.create_secret(SecretSpec(name="tok", data=data[:511_999]))
        with pytest.raises(InvalidArgument, match="less than 512000 bytes"):
            await client.create_secret(SecretSpec(name="big", data=data[:512_000]))
        assert len(two.managers[1].store.view.secrets.find("tok").spec.data) == 511_999


async def test_more_configs_than_one_message_carries(
    cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "PAGE_BYTES", 2_000)
    client = cluster.client()
    for number in range(7):
        await client.create_config(ConfigSpec(name=f"c{number}", data=bytes([number]) * 900))
    assert [c.spec.name for c in await client.list_configs()] == [f"c{n}" for n in range(7)]
    assert [c.spec.name for c in await client.list_configs({"name": ["c1", "c6"]})] == ["c1", "c6"]


async def test_workers_may_not_ask(cluster: TestCluster) -> None:
    await cluster.client().create_secret(SecretSpec(name="tok", data=PAYLOAD))
    client = cluster.client(identity=await cluster.add_worker())
    for call in (client.get_secret("tok"), client.list_configs(), client.remove_secret("tok")):
        with pytest.raises(PermissionDenied):
            await call


async def test_an_unreadable_spec_is_told_without_its_inside(cluster: TestCluster) -> None:
    manager = cluster.managers[0]
    async with manager.identity.channel(manager.addr) as channel:
        stub: Any = control_pb2_grpc.ControlStub(channel)
        good = msgspec.msgpack.decode(msgspec.msgpack.encode(SecretSpec(name="tok", data=PAYLOAD)))
        for bad in ({**good, "Labels": {"k": 5}}, {**good, "Data": "hunter2"}, {**good, "Name": PAYLOAD}):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it must not tell
                await stub.CreateSecret(control_pb2.CreateRequest(spec=msgspec.msgpack.encode(bad)))
            assert "hunter2" not in str(caught.value)
            assert "aHVudGVy" not in str(caught.value)


async def test_a_secret_survives_a_snapshot(cluster: TestCluster) -> None:
    client = cluster.client()
    secret = await client.create_secret(SecretSpec(name="tok", data=PAYLOAD))
    await client.create_service(service_spec("web", secret_ref(secret.id)))
    snapshot = cluster.store.snapshot()()
    cluster.store.restore(snapshot, cluster.raft.index)
    assert cluster.store.view.secrets.find("tok").spec.data == PAYLOAD
    assert replace(await client.get_secret("tok"), version=secret.version) == secret
    cluster.store.validate()
