"""Service logs through the API and the clients: Docker's form, and one stream however often it breaks."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.env import require_binary
from support.gateway_fakes import Rig, run, running_gateway

from pyswarm.common.errors import NotFound, NotLeader, PermissionDenied, Unavailable
from pyswarm.common.logframes import STDERR, STDOUT, SYSTEM, Cursor, Mark, frame
from pyswarm.common.types import ContainerSpec, ReplicatedMode, Service, ServiceMode, ServiceSpec, TaskSpec
from pyswarm.proto.logs import cursor_of, position_of
from pyswarm.proto.v1 import logs_pb2 as pb

BEGAN = pb.ReadLogsMessage(began_ns=1_700_000_000_000_000_000)
NOTICE = (
    "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
    "node h2 is not available"
)


def at(tick: int) -> bytes:
    return b"2026-01-02T03:04:05.%09dZ" % tick


class Logs:
    """A manager with a service of two tasks, and what a client reads of their logs."""

    def __init__(self, rig: Rig, session: aiohttp.ClientSession) -> None:
        self.rig = rig
        self._session = session

    async def create(self, tty: bool = False) -> Service:
        spec = ServiceSpec(
            name="web",
            task_template=TaskSpec(container_spec=ContainerSpec(image="busybox", tty=tty)),
            mode=ServiceMode(replicated=ReplicatedMode(replicas=2)),
        )
        service = await self.rig.control.create_service(spec)
        self.tasks = {t.slot: t for t in self.rig.control.tasks.values()}
        return service

    def chunk(self, slot: int, *said: tuple[int, str], stream: int = STDOUT, details: str | None = None) -> Any:
        task = self.tasks[slot]
        attributes = b"" if details is None else details.encode() + b" "
        frames = b"".join(frame(stream, at(tick) + b" " + attributes + text.encode()) for tick, text in said)
        return pb.LogChunk(task_id=task.id, frames=frames, node_id=task.node_id, service_id=task.service_id)

    def script(self, *calls: list[Any]) -> None:
        """What the manager says, call by call: chunks, messages, errors, or None to stay silent."""
        self.rig.control.log_script = [
            [pb.ReadLogsMessage(chunks=[step]) if isinstance(step, pb.LogChunk) else step for step in call]
            for call in calls
        ]

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self._session.get(f"http://x{path}") as reply:
            return reply.status, await reply.read()

    @property
    def requests(self) -> list[pb.ReadLogsRequest]:
        return self.rig.control.log_requests

    def context(self, slot: int) -> str:
        task = self.tasks[slot]
        return (
            f"com.docker.swarm.node.id={task.node_id},com.docker.swarm.service.id={task.service_id},"
            f"com.docker.swarm.task.id={task.id}"
        )


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[Logs]:
    async with (
        running_gateway(tmp_path) as rig,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(rig.socket))) as session,
    ):
        rig.node.become("manager")
        rig.control.add_node("h2")
        yield Logs(rig, session)


async def test_lines_in_the_engines_form(logs: Logs) -> None:
    await logs.create()
    said = [BEGAN, logs.chunk(1, (1, "one\n"), (2, "two\n")), logs.chunk(2, (3, "bad\n"), stream=STDERR)]
    logs.script(said)
    status, body = await logs.get("/v1.41/services/web/logs?stdout=1&stderr=1")
    assert status == 200
    assert body == frame(STDOUT, b"one\n") + frame(STDOUT, b"two\n") + frame(STDERR, b"bad\n")
    logs.script(said)
    _, body = await logs.get("/v1.41/services/web/logs?stdout=1&timestamps=1")
    assert body == frame(STDOUT, at(1) + b" one\n") + frame(STDOUT, at(2) + b" two\n")


async def test_details_say_where_a_line_comes_from(logs: Logs) -> None:
    await logs.create()
    forged = "a=x+y,com.docker.swarm.task.id=forged,z=1"
    logs.script([BEGAN, logs.chunk(1, (1, "one\n"), details=forged), logs.chunk(2, (2, " two\n"), details="")])
    _, body = await logs.get("/services/web/logs?stdout=1&details=1&timestamps=1")
    assert body == (
        frame(STDOUT, at(1) + f" a=x+y,{logs.context(1)},z=1 one\n".encode())
        + frame(STDOUT, at(2) + f" {logs.context(2)}  two\n".encode())
    )


async def test_a_terminal_is_raw(logs: Logs) -> None:
    await logs.create(tty=True)
    logs.script([BEGAN, logs.chunk(1, (1, "one\r\n")), pb.ReadLogsMessage(notice=NOTICE)])
    _, body = await logs.get("/services/web/logs?stdout=1")
    assert body == b"one\r\n" + f"Error grabbing logs: {NOTICE}\n".encode()


async def test_options_reach_the_managers(logs: Logs) -> None:
    service = await logs.create()
    logs.script([BEGAN], [BEGAN])
    await logs.get("/services/web/logs?stdout=1&follow=1&since=5.000000007&tail=3&until=99999999999&details=1")
    task = logs.tasks[1]
    await logs.get(f"/tasks/{task.id[:10]}/logs?stderr=true&tail=all&since=0")
    first, second = logs.requests
    assert first.service_id == service.id
    assert first.options == pb.LogOptions(
        stdout=True, follow=True, since="5.000000007", until="99999999999", tail=3, details=True
    )
    assert (second.task_id, second.options) == (task.id, pb.LogOptions(stderr=True, tail=-1))


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 400, "Bad parameters: you must choose at least one stream"),
        ("stdout=1&tail=x", 400, 'tail value must be a positive integer or \\"all\\"'),
        ("stdout=1&tail=-1", 400, "negative tail values not supported"),
        ("stdout=1&since=yesterday", 400, 'invalid value for \\"since\\"'),
        ("stdout=1&until=1e9", 400, 'invalid value for \\"until\\"'),
    ],
)
async def test_bad_parameters(logs: Logs, query: str, status: int, text: str) -> None:
    await logs.create()
    found, body = await logs.get(f"/services/web/logs?{query}")
    assert found == status
    assert text in body.decode()


async def test_what_is_refused_at_first_has_a_status_of_its_own(logs: Logs) -> None:
    assert (await logs.get("/services/web/logs?stdout=1"))[0] == 404
    assert (await logs.get("/tasks/web/logs?stdout=1"))[0] == 404
    await logs.create()
    logs.script([PermissionDenied("no")])
    assert await logs.get("/services/web/logs?stdout=1") == (403, b'{"message":"no"}\n')


async def test_a_stream_that_breaks_goes_on_where_it_was(logs: Logs) -> None:
    await logs.create()
    silent = position_of(logs.tasks[2].id, Cursor(Mark(at(9)), Mark(at(9))))
    logs.script(
        [NotLeader()],
        [BEGAN, logs.chunk(1, (1, "1\n"), (5, "2\n"), (5, "3\n")), Unavailable("the connection broke")],
        [BEGAN, pb.ReadLogsMessage(positions=[silent]), NotLeader("10.0.0.2:2377")],
        [BEGAN, logs.chunk(1, (5, "4\n")), pb.ReadLogsMessage(gone=[logs.tasks[2].id]), Unavailable("again")],
        [BEGAN, logs.chunk(1, (6, "5\n"))],
    )
    _, body = await logs.get("/services/web/logs?stdout=1&follow=1")
    assert body == b"".join(frame(STDOUT, b"%d\n" % n) for n in range(1, 6))
    again = [{p.task_id: cursor_of(p) for p in request.positions} for request in logs.requests]
    first, second = logs.tasks[1].id, logs.tasks[2].id
    assert again[:2] == [{}, {}]
    assert again[2] == {first: Cursor(Mark(at(5), 2))}
    assert again[3] == {first: Cursor(Mark(at(5), 2)), second: Cursor(Mark(at(9)), Mark(at(9)))}
    assert again[4] == {first: Cursor(Mark(at(5), 3))}
    assert [r.began_ns for r in logs.requests] == [0, 0, *[BEGAN.began_ns] * 3]


async def test_the_end_of_what_was_read_meanwhile(logs: Logs) -> None:
    await logs.create()
    logs.script([BEGAN, Unavailable("the connection broke")], [NotFound("service web not found")])
    assert await logs.get("/services/web/logs?stdout=1&follow=1") == (200, b"")
    logs.script([BEGAN, PermissionDenied("the node was removed")])
    _, body = await logs.get("/services/web/logs?stdout=1&follow=1")
    assert body == frame(SYSTEM, b"Error grabbing logs: the node was removed\n")


async def test_following_ends_at_the_time_given(logs: Logs) -> None:
    await logs.create()
    logs.script([BEGAN, logs.chunk(1, (1, "1\n")), None])
    _, body = await logs.get(f"/services/web/logs?stdout=1&follow=1&until={time.time() + 0.5:.3f}")
    assert body == frame(STDOUT, b"1\n")
    logs.script([BEGAN])
    await logs.get("/services/web/logs?stdout=1&follow=1&until=5")
    assert not logs.requests[-1].options.follow


async def test_rubbish_of_one_task_is_left_out(logs: Logs) -> None:
    await logs.create()
    bad = logs.chunk(1, (1, "1\n"))
    bad.frames += b"rubbish"
    logs.script([BEGAN, bad, logs.chunk(2, (2, "2\n"))])
    _, body = await logs.get("/services/web/logs?stdout=1")
    assert body == frame(STDOUT, b"1\n") + frame(STDOUT, b"2\n")


# --- the clients


async def client(logs: Logs, program: str, *argv: str) -> tuple[int, str, str]:
    if program == "docker":
        require_binary(program)
    env = {"DOCKER_HOST": logs.rig.host, "PYSWARM_HOST": logs.rig.host, "DOCKER_CONFIG": "/nonexistent"}
    return await run(program, "service", "logs", *argv, **env)


def said(logs: Logs) -> list[Any]:
    return [
        BEGAN,
        logs.chunk(1, (1, "one \x1b[31m\n"), details="env=a+b"),
        logs.chunk(2, (2, "bad\n"), stream=STDERR, details=""),
    ]


@pytest.mark.parametrize("program", ["pyswarm", "docker"])
async def test_the_clients_show_names(logs: Logs, program: str) -> None:
    await logs.create()
    nodes = {n.id: n.description.hostname for n in logs.rig.control.nodes.values()}
    host = {slot: nodes[task.node_id] for slot, task in logs.tasks.items()}
    short = {slot: task.id[:12] for slot, task in logs.tasks.items()}
    logs.script(said(logs))
    assert await client(logs, program, "web") == (
        0,
        f"web.1.{short[1]}@{host[1]}    | one \x1b[31m\n",
        f"web.2.{short[2]}@{host[2]}    | bad\n",
    )
    logs.script(said(logs))
    assert await client(logs, program, "-t", "--no-task-ids", "--details", "web") == (
        0,
        f"{at(1).decode()} web.1@{host[1]}    | env=a b one \x1b[31m\n",
        f"{at(2).decode()} web.2@{host[2]}    |  bad\n",
    )
    task = logs.tasks[1]
    logs.script([*said(logs)[:2]])
    assert (await client(logs, program, "--no-trunc", "--no-resolve", task.id))[1] == (
        f"{task.service_id}.1.{task.id}@{task.node_id}    | one \x1b[31m\n"
    )
    logs.script([BEGAN, logs.chunk(1, (1, "one\n"))])
    assert (await client(logs, program, "--raw", "--tail", "5", "--since", "10m", "web"))[1] == "one\n"
    assert (logs.requests[-1].options.tail, logs.requests[-1].options.details) == (5, False)
    assert float(logs.requests[-1].options.since) > 0


@pytest.mark.parametrize("program", ["pyswarm", "docker"])
async def test_the_clients_on_what_goes_wrong(logs: Logs, program: str) -> None:
    code, _, err = await client(logs, program, "nobody")
    assert code == 1
    assert "no such task or service: nobody" in err
    await logs.create(tty=True)
    code, _, err = await client(logs, program, "web")
    assert (code, "tty service logs only supported with --raw" in err) == (1, True)
    logs.script([BEGAN, logs.chunk(1, (1, "$ \r\n"))])
    assert (await client(logs, program, "--raw", "web"))[:2] == (0, "$ \r\n")


async def test_a_notice_is_no_error_for_pyswarm(logs: Logs) -> None:
    await logs.create()
    logs.script([*said(logs), pb.ReadLogsMessage(notice=NOTICE)])
    code, out, err = await client(logs, "pyswarm", "web")
    assert code == 0
    assert out.count("\n") == 1
    assert err.endswith(f"| bad\n{NOTICE}\n")
    logs.script([*said(logs), pb.ReadLogsMessage(notice=NOTICE)])
    # The stock client has but one way to show what a daemon says within the stream.
    _, _, err = await client(logs, "docker", "web")
    assert err.endswith(f"| bad\nerror from daemon in stream: Error grabbing logs: {NOTICE}\n\n")


async def test_bad_options_are_named(logs: Logs) -> None:
    await logs.create()
    code, _, err = await client(logs, "pyswarm", "--since", "yesterday", "web")
    assert code == 2
    assert 'invalid argument "yesterday" for "--since" flag: failed to parse value as time or duration' in err
    code, _, err = await client(logs, "pyswarm", "--tail", "x", "web")
    assert (code, "Error response from daemon: tail value must be a positive integer" in err) == (1, True)
