"""``/secrets`` and ``/configs`` in Docker's JSON, and services that name them."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from support.gateway_fakes import Rig, running_gateway
from yarl import URL

PAYLOAD = b"hunter2\x00\xff"
ENCODED = base64.b64encode(PAYLOAD).decode()


class Api:
    """Requests to a manager's gateway."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession) -> None:
        self.rig = rig
        self._session = session
        self.said = b""

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        async with self._session.request(method, URL(f"http://x{path}", encoded=True), data=data) as reply:
            text = await reply.read()
            self.said += text
            return reply.status, json.loads(text) if text.strip() else None


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with (
        running_gateway(tmp_path) as rig,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(rig.socket))) as session,
    ):
        made = Api(rig, session)
        await made("POST", "/swarm/init", {})
        yield made


def filtered(path: str, **filters: Any) -> str:
    return f"{path}?filters={quote(json.dumps(filters))}"


async def test_a_secret_from_create_to_remove(api: Api) -> None:
    status, created = await api(
        "POST", "/v1.41/secrets/create", {"Name": "tok", "Labels": {"a": "b"}, "Data": ENCODED}
    )
    assert (status, list(created)) == (201, ["ID"])
    assert api.rig.control.secrets[created["ID"]].spec.data == PAYLOAD
    found = (await api("GET", "/secrets/tok"))[1]
    assert found.keys() == {"ID", "Version", "CreatedAt", "UpdatedAt", "Spec"}
    assert found["Spec"] == {"Name": "tok", "Labels": {"a": "b"}}
    assert found["Version"]["Index"] > 0
    assert (await api("GET", "/secrets"))[1] == [found]
    for filters, hits in (({"name": ["to"]}, 1), ({"names": {"tok": True}}, 1), ({"names": ["to"]}, 0)):
        assert len((await api("GET", filtered("/secrets", **filters)))[1]) == hits
    path = f"/secrets/{found['ID']}/update"
    spec = {**found["Spec"], "Labels": {"c": "d"}}
    assert await api("POST", f"{path}?version={found['Version']['Index']}", spec) == (200, None)
    assert (await api("GET", f"/secrets/{found['ID'][:6]}"))[1]["Spec"] == spec
    assert await api("DELETE", "/secrets/tok") == (204, None)
    assert await api("GET", "/secrets/tok") == (404, {"message": "secret tok not found"})
    assert ENCODED.encode() not in api.said
    assert b"hunter2" not in api.said


async def test_a_config_from_create_to_remove(api: Api) -> None:
    status, created = await api("POST", "/configs/create", {"Name": "conf", "Data": ENCODED})
    assert (status, list(created)) == (201, ["ID"])
    found = (await api("GET", "/configs/conf"))[1]
    assert found["Spec"] == {"Name": "conf", "Labels": {}, "Data": ENCODED}
    assert (await api("GET", filtered("/configs", name=["con"])))[1] == [found]
    # As stack deploy does, with the payload.
    spec = {**found["Spec"], "Labels": {"com.docker.stack.namespace": "s"}}
    path = f"/configs/{found['ID']}/update?version={found['Version']['Index']}"
    assert await api("POST", path, spec) == (200, None)
    assert (await api("GET", "/configs/conf"))[1]["Spec"] == spec
    assert await api("DELETE", f"/configs/{found['ID']}") == (204, None)


async def test_refusals(api: Api) -> None:
    await api("POST", "/secrets/create", {"Name": "tok", "Data": ENCODED})
    found = (await api("GET", "/secrets/tok"))[1]
    version = found["Version"]["Index"]
    large = {"Name": "big", "Data": base64.b64encode(b"x" * 512_000).decode()}
    refusals: list[tuple[str, str, Any, int, str]] = [
        ("POST", "/secrets/create", {"Name": "tok", "Data": ENCODED}, 409, "secret tok already exists"),
        ("POST", "/secrets/create", {"Name": "a b", "Data": ENCODED}, 400, "invalid name"),
        ("POST", "/secrets/create", {"Name": "", "Data": ENCODED}, 400, "name must be provided"),
        ("POST", "/secrets/create", {"Name": "x"}, 400, "larger than 0 and less than 512000 bytes"),
        ("POST", "/secrets/create", large, 400, "larger than 0 and less than 512000 bytes"),
        ("POST", "/configs/create", {"Name": "x"}, 400, "larger than 0 and less than 1024000 bytes"),
        ("POST", "/secrets/create", b"{" + b" " * 5_000_000, 400, "less than 512000 bytes"),
        ("POST", "/configs/create", b"{" + b" " * 5_000_000, 400, "less than 1024000 bytes"),
        ("POST", "/secrets/create", b"{hunter2", 400, "invalid JSON"),
        (
            "POST",
            "/secrets/create",
            {"Name": "x", "Data": ENCODED, "Templating": {"Name": "golang"}},
            400,
            "Templating.Name is not supported",
        ),
        ("POST", "/secrets/create", {"Name": "x", "Driver": {"Name": "v"}}, 400, "Driver.Name is not supported"),
        (
            "POST",
            f"/secrets/tok/update?version={version}",
            {"Name": "other"},
            400,
            "only updates to Labels are allowed",
        ),
        ("POST", "/secrets/tok/update?version=1", {"Name": "tok"}, 500, "update out of sequence"),
        ("POST", "/secrets/tok/update", {"Name": "tok"}, 400, "version"),
        ("GET", "/configs/tok", None, 404, "config tok not found"),
        ("DELETE", "/secrets/nope", None, 404, "secret nope not found"),
        ("GET", filtered("/secrets", colour=["red"]), None, 400, "invalid filter 'colour'"),
    ]
    for method, path, body, wanted, text in refusals:
        status, answer = await api(method, path, body)
        assert (status, text in answer["message"]) == (wanted, True), (path, status, answer)
        assert "\n" not in answer["message"]
    assert b"hunter2" not in api.said
    assert [s.spec.name for s in api.rig.control.secrets.values()] == ["tok"]


async def test_the_largest_payloads_fit_into_a_request(api: Api) -> None:
    for path, size in (("/secrets/create", 511_999), ("/configs/create", 1_023_999)):
        data = base64.b64encode(b"\xff" * size).decode()
        assert (await api("POST", path, {"Name": "big", "Data": data}))[0] == 201
    assert len(base64.b64decode((await api("GET", "/configs"))[1][0]["Spec"]["Data"])) == 1_023_999


async def test_services_name_secrets_and_configs(api: Api) -> None:
    secret_id = (await api("POST", "/secrets/create", {"Name": "tok", "Data": ENCODED}))[1]["ID"]
    config_id = (await api("POST", "/configs/create", {"Name": "conf", "Data": ENCODED}))[1]["ID"]
    target = {"Name": "tok", "UID": "0", "GID": "0", "Mode": 292}
    container = {
        "Image": "busybox:latest",
        "Secrets": [{"File": target, "SecretID": secret_id, "SecretName": "tok"}],
        "Configs": [{"File": {**target, "Name": "/c"}, "ConfigID": config_id, "ConfigName": "conf"}],
    }
    assert (await api("POST", "/services/create", {"Name": "web", "TaskTemplate": {"ContainerSpec": container}}))[
        0
    ] == 201
    service = (await api("GET", "/services/web"))[1]
    assert service["Spec"]["TaskTemplate"]["ContainerSpec"] == container
    (task,) = (await api("GET", "/tasks"))[1]
    assert task["Spec"]["ContainerSpec"] == container
    status, answer = await api("DELETE", "/secrets/tok")
    assert (status, answer["message"]) == (400, "secret 'tok' is in use by the following service: web")
    twice = {**container, "Secrets": container["Secrets"] * 2}
    body = {**service["Spec"], "TaskTemplate": {"ContainerSpec": twice}}
    status, answer = await api("POST", f"/services/web/update?version={service['Version']['Index']}", body)
    assert (status, "conflicting target" in answer["message"]) == (400, True)
    await api("GET", "/services")
    assert ENCODED.encode() not in api.said, "nothing but the configs' own endpoints shows a payload"


async def test_without_a_swarm_they_say_so(tmp_path: Path) -> None:
    async with (
        running_gateway(tmp_path) as rig,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(rig.socket))) as session,
    ):
        api = Api(rig, session)
        for method, path in (("GET", "/secrets"), ("POST", "/configs/create"), ("DELETE", "/secrets/x")):
            status, answer = await api(method, path)
            assert (status, "not a swarm manager" in answer["message"]) == (503, True)
        assert rig.engine.seen == []
