"""The pyswarm command and the stock docker client, as programs, against the gateway."""

import asyncio
import json
import os
import pty
import re
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from support.env import require_binary
from support.gateway_fakes import PATH, FakeControl, Rig, run, running_gateway

from pyswarm.common.types import UpdateStatus

SERVER = ("busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www")
#: The watch after convergence, cut short.
SOON = ("--update-monitor", "200ms")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_gateway(tmp_path) as rig:
        yield rig


@pytest.fixture
async def manager(rig: Rig) -> Rig:
    """The node is the only manager of a swarm with a worker."""
    rig.node.become("manager")
    rig.control.add_node("h2")
    return rig


async def pyswarm(rig: Rig, *argv: str, code: int = 0) -> str:
    """What ``pyswarm ARGV`` prints, or its one line of error when it should fail."""
    status, out, err = await run("pyswarm", *argv, PYSWARM_HOST=rig.host)
    assert status == code, f"{argv}: {status}\n{out}{err}"
    assert "Traceback" not in err
    return err.strip() if code else out


async def docker(rig: Rig, *argv: str, code: int = 0) -> str:
    """The same of the stock client, without a configuration of its own."""
    require_binary("docker")
    status, out, err = await run("docker", *argv, DOCKER_HOST=rig.host, DOCKER_CONFIG="/nonexistent")
    assert status == code, f"{argv}: {status}\n{out}{err}"
    return err.strip() if code else out


async def test_init_join_token_and_leave(rig: Rig) -> None:
    out = await pyswarm(rig, "swarm", "init", "--advertise-addr", "10.99.0.1")
    node_id = rig.node.state.node_id
    token = rig.control.cluster.join_tokens.worker
    assert out.startswith(f"Swarm initialized: current node ({node_id}) is now a manager.\n\nTo add a worker")
    assert f"\n    pyswarm swarm join --token {token} 10.99.0.1:2377\n" in out
    assert f"docker context create pyswarm --docker host={rig.host}" in out
    assert await pyswarm(rig, "swarm", "join-token", "-q", "worker") == f"{token}\n"
    rotated = await pyswarm(rig, "swarm", "join-token", "--rotate", "worker")
    assert "Successfully rotated worker join token." in rotated
    assert token not in rotated
    assert "already part of a swarm" in await pyswarm(rig, "swarm", "init", code=1)
    assert "--force" in await pyswarm(rig, "swarm", "leave", code=1)
    assert await pyswarm(rig, "swarm", "leave", "--force") == "Node left the swarm.\n"
    for role in ("worker", "manager"):
        token = getattr(rig_tokens(), role)
        out = await pyswarm(rig, "swarm", "join", "--token", token, "10.99.0.9:2377")
        assert out == f"This node joined a swarm as a {role}.\n"
        await pyswarm(rig, "swarm", "leave", "--force")


async def test_what_stays_behind_on_leaving_is_told(rig: Rig) -> None:
    await pyswarm(rig, "swarm", "init", "--advertise-addr", "10.99.0.1")
    rig.node.leave_warning = "containers stay on this host"
    code, out, err = await run("pyswarm", "swarm", "leave", "--force", PYSWARM_HOST=rig.host)
    assert (code, out, err) == (0, "Node left the swarm.\n", "WARNING: containers stay on this host\n")


def rig_tokens() -> Any:
    """The tokens the imagined cluster takes."""
    return FakeControl("x" * 25).cluster.join_tokens


async def test_nodes(manager: Rig) -> None:
    lines = (await pyswarm(manager, "node", "ls")).splitlines()
    head = "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION"
    assert lines[0] == head
    node_id = manager.node.state.node_id
    assert lines[1] == f"{node_id} *   h1         Ready     Active         Leader           20.10.24+dfsg1"
    assert await pyswarm(manager, "node", "ls", "--format", "{{.Hostname}}: {{.Self}}") == "h1: true\nh2: false\n"
    assert (
        await pyswarm(manager, "node", "update", "--availability", "drain", "--label-add", "a=b", "h2") == "h2\n"
    )
    found = json.loads(await pyswarm(manager, "node", "inspect", "h2"))[0]
    assert (found["Spec"]["Availability"], found["Spec"]["Labels"]) == ("drain", {"a": "b"})
    assert "Labels:\n - a=b\n" in await pyswarm(manager, "node", "inspect", "--pretty", "h2")
    assert json.loads(await pyswarm(manager, "node", "inspect", "self"))[0]["ID"] == node_id
    assert "Leader:\t\tYes" in (await pyswarm(manager, "node", "inspect", "--pretty", "self")).replace(
        "\t\t\t", "\t\t"
    )
    assert "is not down" in await pyswarm(manager, "node", "rm", "h2", code=1)
    assert await pyswarm(manager, "node", "rm", "--force", "h2") == "h2\n"


async def test_a_node_whose_engine_is_away_shows_it(manager: Rig) -> None:
    await pyswarm(manager, "service", "create", "-d", "--name", "web", "--replicas", "2", *SERVER)
    worker = next(n for n in manager.control.nodes.values() if n.description.hostname == "h2")
    description = replace(worker.description, engine_error="cannot connect to the Docker Engine")
    manager.control.nodes[worker.id] = replace(worker, description=description)
    lines = (await pyswarm(manager, "node", "ls")).splitlines()
    assert "Ready (engine down)" in lines[2]
    assert "engine down" not in lines[1]
    assert await pyswarm(manager, "node", "ls", "--format", "{{.Status}}") == "Ready\nReady\n"
    assert " Message:\t\tcannot connect to" in await pyswarm(manager, "node", "inspect", "--pretty", "h2")
    out = await pyswarm(manager, "service", "ps", "web", "--format", "{{.Node}} {{.Error}}")
    assert sorted(out.splitlines()) == ["h1 ", 'h2 "engine of h2 does not answer"']


async def test_a_service_from_creation_to_removal(manager: Rig) -> None:
    assert len(await pyswarm(manager, "network", "create", "-d", "overlay", "--attachable", "app")) == 26
    options = ("--name", "web", "--replicas", "6", "--network", "app", "--limit-memory", "64m", "-e", "A=0", *SOON)
    out = await pyswarm(manager, "service", "create", *options, *SERVER)
    service_id = (await manager.control.get_service("web")).id
    assert out.splitlines()[0] == service_id
    assert "overall progress: 6 out of 6 tasks" in out
    assert out.endswith(
        "verify: Waiting 1 seconds to verify that tasks are stable...\nverify: Service converged\n"
    )
    spec = (await manager.control.get_service("web")).spec
    assert spec.task_template.container_spec.args == SERVER[1:]
    assert spec.task_template.resources.limits.memory_bytes == 64 << 20

    assert await pyswarm(manager, "service", "ls") == (
        "ID             NAME      MODE         REPLICAS   IMAGE            PORTS\n"
        f"{service_id[:12]}   web       replicated   6/6        busybox:latest   \n"
    )
    assert await pyswarm(manager, "service", "ls", "-q") == f"{service_id[:12]}\n"
    listed = json.loads(await pyswarm(manager, "service", "ls", "--format", "{{json .}}"))
    assert (listed["Name"], listed["Replicas"]) == ("web", "6/6")
    lines = (await pyswarm(manager, "service", "ps", "web")).splitlines()
    assert lines[0].split() == [
        "ID",
        "NAME",
        "IMAGE",
        "NODE",
        "DESIRED",
        "STATE",
        "CURRENT",
        "STATE",
        "ERROR",
        "PORTS",
    ]
    assert [line.split()[1] for line in lines[1:]] == [f"web.{n}" for n in range(1, 7)]

    out = await pyswarm(manager, "service", "scale", "web=12")
    assert out.startswith("web scaled to 12\noverall progress: 12 out of 12 tasks\n")
    update = ("--env-add", "A=1", "--env-add", "B=2", "--label-add", "x=y", "--detach=true", service_id[:5])
    assert await pyswarm(manager, "service", "update", *update) == f"{service_id[:5]}\n"
    after = (await manager.control.get_service("web")).spec
    assert after.task_template.container_spec.env == ("A=1", "B=2")
    assert (after.labels, after.replicas) == ({"x": "y"}, 12)
    assert after.task_template.networks == spec.task_template.networks
    lines = (await pyswarm(manager, "service", "ps", "web")).splitlines()
    assert "Shutdown" in lines[2]
    assert lines[2].split()[1:3] == ["\\_", "web.1"]
    running = await pyswarm(manager, "service", "ps", "-q", "--filter", "desired-state=running", "web")
    assert len(running.split()) == 12
    pretty = await pyswarm(manager, "service", "inspect", "--pretty", "web")
    assert "Networks: app" in pretty
    assert "  Memory:\t64MiB" in pretty

    assert "in use" in await pyswarm(manager, "network", "rm", "app", code=1)
    error = await pyswarm(manager, "service", "rm", "nothing", "web", code=1)
    assert error == "Error response from daemon: service nothing not found"
    assert await pyswarm(manager, "network", "rm", "app") == "app\n"
    assert await pyswarm(manager, "service", "ls", "-q") == ""


async def test_options_of_update(manager: Rig) -> None:
    await pyswarm(
        manager, "service", "create", "-d", "--name", "web", "-e", "A=0", "-e", "B=0", "busybox", "sleep", "9"
    )
    await pyswarm(manager, "network", "create", "-d", "overlay", "app")
    given = (
        *("--image", "busybox:1.36", "--args", "sleep '1 0'", "--env-rm", "A", "--force", "--container-label-add"),
        *(
            "c=d",
            "--limit-cpu",
            "0.5",
            "--reserve-memory",
            "8m",
            "--network-add",
            "app",
            "--restart-delay",
            "1m30s",
        ),
        *(
            "--update-parallelism",
            "0",
            "--stop-grace-period",
            "3s",
            "--read-only",
            "--replicas",
            "2",
            "-u",
            "nobody",
        ),
    )
    await pyswarm(manager, "service", "update", "-d", *given, "web")
    spec = (await manager.control.get_service("web")).spec
    template = spec.task_template
    container = template.container_spec
    assert (container.image, container.args, container.env) == ("busybox:1.36", ("sleep", "1 0"), ("B=0",))
    assert (container.labels, container.read_only, container.user) == ({"c": "d"}, True, "nobody")
    assert (container.stop_grace_period_ns, template.force_update, spec.replicas) == (3 * 10**9, 1, 2)
    assert template.resources.limits.nano_cpus == 500_000_000
    assert template.resources.reservations.memory_bytes == 8 << 20
    assert len(template.networks) == 1
    assert template.restart_policy.delay_ns == 90 * 10**9
    assert spec.update_config is not None
    assert spec.update_config.parallelism == 0
    assert "already attached" in await pyswarm(
        manager, "service", "update", "-d", "--network-add", "app", "web", code=1
    )
    await pyswarm(manager, "service", "update", "-d", "--network-rm", "app", "--read-only=false", "web")
    spec = (await manager.control.get_service("web")).spec
    assert (spec.task_template.networks, spec.task_template.container_spec.read_only) == ((), False)
    await pyswarm(manager, "service", "update", "-d", "--rollback", "web")
    assert len((await manager.control.get_service("web")).spec.task_template.networks) == 1


async def test_switches_with_values_stop_at_the_image(manager: Rig) -> None:
    create = ("service", "create", "--detach=true", "--init=false", "-te", "A=1", "--name", "x", "busybox")
    await pyswarm(manager, *create, "run", "--init=true", "-d=true")
    container = (await manager.control.get_service("x")).spec.task_template.container_spec
    assert (container.init, container.tty, container.env) == (False, True, ("A=1",))
    assert container.args == ("run", "--init=true", "-d=true")


async def test_networks(manager: Rig) -> None:
    create = ("network", "create", "-d", "overlay", "--subnet", "10.11.0.0/16", "--label", "a=b", "app")
    network_id = (await pyswarm(manager, *create)).strip()
    assert await pyswarm(manager, "network", "ls") == (
        "NETWORK ID     NAME      DRIVER    SCOPE\n"
        f"{network_id[:12]}   app       overlay   swarm\n"
        "bbbbbbbbbbbb   bridge    bridge    local\n"
    )
    found = json.loads(await pyswarm(manager, "network", "inspect", network_id[:4]))[0]
    assert found["IPAM"]["Config"][0]["Subnet"] == "10.11.0.0/16"
    out = await pyswarm(manager, "network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}}{{end}}", "app")
    assert out == "10.11.0.0/16\n"
    assert "already exists" in await pyswarm(manager, *create, code=1)
    await pyswarm(manager, "network", "rm", "-f", "nothing")


async def test_version_and_info(manager: Rig) -> None:
    assert "API version:       1.41" in await pyswarm(manager, "version")
    assert await pyswarm(manager, "version", "-f", "{{.Server.ApiVersion}}") == "1.41\n"
    info = await pyswarm(manager, "info")
    assert "Swarm: active\n" in info
    assert " Is Manager: true\n" in info
    assert await pyswarm(manager, "info", "--format", "{{.Swarm.LocalNodeState}}") == "active\n"


BAD = [
    (
        ("service", "create", "--mount", "type=tmpfs,dst=/x", "busybox"),
        1,
        "--mount is not supported by this",
    ),
    (
        ("service", "create", "-p", "80:65536", "busybox"),
        2,
        'invalid argument "80:65536" for "-p, --publish" flag',
    ),
    (("service", "create", "--no-healthcheck", "busybox"), 1, "--no-healthcheck is not supported"),
    (("service", "create", "--mode", "global", "busybox"), 1, "--mode global is not supported by this version"),
    (("service", "create", "--network", "name=app,alias=", "busybox"), 2, 'for "--network" flag: write NAME or'),
    (("service", "create", "--constraint", "node.role==worker", "busybox"), 1, "--constraint is not supported"),
    (("service", "update", "--publish-add", "80:", "web"), 2, "no port specified: 80:<empty>"),
    (("node", "update", "--role", "boss", "h2"), 2, "'boss' is not one of 'worker', 'manager'"),
    (("node", "promote", "nobody"), 1, "node nobody not found"),
    (("swarm", "init", "--autolock"), 1, "--autolock is not supported"),
    (("network", "create", "-d", "overlay", "--ipv6", "x"), 1, "--ipv6 is not supported"),
    (
        ("service", "create", "--limit-memory", "x", "busybox"),
        2,
        """Error: invalid argument "x" for "--limit-memory" flag: invalid size: 'x'""",
    ),
    (("service", "create", "--replicas", "many", "busybox"), 2, 'invalid argument "many" for "--replicas" flag'),
    (("service", "create", "--restart-delay", "5", "busybox"), 2, 'time: missing unit in duration "5"'),
    (("service", "create", "--limit-cpu", "x", "busybox"), 2, "failed to parse x as a rational number"),
    (("service", "create", "--tty=maybe", "busybox"), 2, 'invalid argument "maybe" for "-t, --tty" flag'),
    (("service", "create", "-e", "=x", "busybox"), 2, "invalid environment variable"),
    (("service", "create", "--env-file", "/nonexistent", "busybox"), 1, "/nonexistent"),
    (("service", "create", "--banana", "busybox"), 2, "unknown flag: --banana"),
    (("service", "create"), 2, "Missing argument 'IMAGE'"),
    (("service", "create", "--network", "nowhere", "busybox"), 1, "network nowhere not found"),
    (("service", "banana"), 2, "No such command 'banana'"),
    (("service", "scale", "web"), 2, "invalid scale specifier 'web'"),
    (("service", "scale", "web=-1"), 2, "web: invalid replicas value -1"),
    (("service", "scale", "nothing=1"), 1, "nothing: service nothing not found"),
    (("service", "ps", "nothing"), 1, "no such service: nothing"),
    (("service", "inspect", "nothing"), 1, "No such service: nothing"),
    (("service", "ls", "--format", "{{.Banana}}"), 1, "can't evaluate field Banana"),
    (("service", "ls", "--format", "{{.ID"), 1, "unclosed action"),
    (("service", "ls", "--filter", "banana=x"), 1, "invalid filter 'banana'"),
    (("service", "ls", "--filter", "x"), 2, "expected name=value"),
    (("node", "inspect", "nothing"), 1, "No such node: nothing"),
    (("swarm", "join", "10.99.0.1:2377"), 2, "--token is required"),
    (("swarm", "join-token", "queen"), 1, "unknown role queen"),
    (("network", "create", "-d", "overlay", "--gateway", "10.1.0.1", "x"), 2, "must have a corresponding subnet"),
]


async def test_wrong_input_gets_one_clear_line_and_changes_nothing(manager: Rig) -> None:
    async def check(argv: tuple[str, ...], code: int, says: str) -> None:
        error = await pyswarm(manager, *argv, code=code)
        assert says in error, argv
        assert len(error.splitlines()) <= code, error

    for at in range(0, len(BAD), 4):
        await asyncio.gather(*(check(*bad) for bad in BAD[at : at + 4]))
    assert not manager.control.services
    assert not manager.control.networks


async def test_every_help_has_an_example(rig: Rig) -> None:
    for argv in ((), ("service",), ("service", "create"), ("swarm", "init"), ("node", "ls"), ("network", "rm")):
        assert re.search(r"Example:\n +pyswarm", await pyswarm(rig, *argv, "--help"))


async def test_no_daemon_and_the_wrong_daemon(rig: Rig) -> None:
    host = "unix:///nonexistent/docker.sock"
    code, _, error = await run("pyswarm", "node", "ls", PYSWARM_HOST=host)
    assert code == 1
    assert error == (
        f"Cannot connect to the pyswarm daemon at {host}. Is it running? "
        "Start it with: systemctl start pyswarmd (or: pyswarmd)\n"
    )
    code, _, error = await run("pyswarm", "-H", "tcp://1.2.3.4:5", "node", "ls")
    assert (code, error) == (1, "Error: the host must be a unix socket (unix:///path), not tcp://1.2.3.4:5\n")
    code, _, error = await run("pyswarm", "node", "ls", DOCKER_HOST=f"unix://{rig.engine_socket}")
    assert (code, "is not pyswarm but" in error) == (1, True)


async def test_an_interrupt_leaves_a_service_that_cannot_converge_to_itself(manager: Rig) -> None:
    reason = "no suitable node (insufficient resources on 2 nodes)"
    manager.control.place = manager.control.keep_pending(reason)
    process = await asyncio.create_subprocess_exec(
        # A test run in the background of a shell inherits an ignored SIGINT.
        *(
            "env",
            "--default-signal=INT",
            "pyswarm",
            "service",
            "create",
            "--name",
            "big",
            "--replicas",
            "2",
            *SERVER,
        ),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYSWARM_HOST": manager.host, "PATH": PATH},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            seen = []
            while not seen or reason not in seen[-1]:
                seen.append((await process.stdout.readline()).decode())
            assert seen[-1] == f"1/2: {reason}\n"
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err
    service_id = seen[0].strip()
    assert out.decode().endswith(
        f"Operation continuing in background.\nUse `pyswarm service ps {service_id}` to check progress.\n"
    )
    lines = (await pyswarm(manager, "service", "ps", "big")).splitlines()
    assert '"no suitable node (insufficien…"' in lines[1]
    assert f'"{reason}"' in await pyswarm(manager, "service", "ps", "--no-trunc", "big")


async def test_on_a_terminal_lines_change_in_place(manager: Rig) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *("pyswarm", "service", "create", "--name", "web", "--replicas", "2", *SOON, *SERVER),
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYSWARM_HOST": manager.host, "PATH": PATH},
    )
    os.close(theirs)
    try:
        async with asyncio.timeout(15):
            await process.wait()
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, shown
    assert f"1/2: running   [{'=' * 50}]" in shown
    assert "\x1b[1A\r\x1b[2Kverify: Service converged" in shown


async def test_a_removed_service_and_a_paused_update_end_the_wait(manager: Rig) -> None:
    await pyswarm(manager, "service", "create", "-d", "--name", "web", "busybox")
    service = await manager.control.get_service("web")

    async def paused(*_args: object) -> Any:
        return replace(service, update_status=UpdateStatus(state="paused", message="update paused due to failure"))

    real = manager.control.get_service
    calls = 0

    async def get(ref: str) -> Any:
        nonlocal calls
        calls += 1
        return await (real(ref) if calls == 1 else paused())

    manager.control.get_service = get  # type: ignore[method-assign]
    update_web = ("service", "update", "--detach=false", "--label-add", "a=b", "web")
    assert (
        await pyswarm(manager, *update_web, code=1) == "Error: service update paused: update paused due to failure"
    )


async def test_the_stock_client(rig: Rig) -> None:
    require_binary("docker")
    out = await docker(rig, "swarm", "init", "--advertise-addr", "10.99.0.1")
    assert "docker swarm join --token SWMTKN-1-" in out
    rig.control.add_node("h2")
    assert {"h1", "h2", "Ready", "Leader"} <= set((await docker(rig, "node", "ls")).split())
    network_id = (await docker(rig, "network", "create", "-d", "overlay", "--attachable", "app")).strip()
    assert (await docker(rig, "network", "ls")).count(" app ") == 1
    assert json.loads(await docker(rig, "network", "inspect", "app"))[0]["Id"] == network_id
    create = ("service", "create", "--name", "web", "--replicas", "3", "--network", "app", "--limit-memory", "64m")
    out = await docker(rig, *create, *SOON, *SERVER)
    assert "overall progress: 3 out of 3 tasks" in out
    assert "converged" in out
    assert "3/3" in await docker(rig, "service", "ls")
    assert (await docker(rig, "service", "ps", "web")).count("Running") == 6
    spec = json.loads(await docker(rig, "service", "inspect", "web"))[0]["Spec"]
    assert spec["TaskTemplate"]["Networks"] == [{"Target": network_id}]
    assert "Networks: app" in await docker(rig, "service", "inspect", "--pretty", "web")
    before = {t.id for t in await rig.control.list_tasks()}
    await docker(rig, "service", "scale", "-d", "web=5")
    after = {t.id for t in await rig.control.list_tasks()}
    assert before < after, "scaling must replace nothing"
    await docker(rig, "service", "update", "-d", "--env-add", "A=1", "web")
    assert (await rig.control.get_service("web")).spec.task_template.container_spec.env == ("A=1",)
    assert "service web already exists" in await docker(rig, *create, *SERVER, code=1)
    assert "update out of sequence" not in await docker(rig, "service", "update", "-d", "--replicas", "1", "web")
    mount = ("service", "create", "-d", "--mount", "type=tmpfs,dst=/x", "busybox")
    assert "ContainerSpec.Mounts is not supported by this version of pyswarm" in await docker(rig, *mount, code=1)
    assert await docker(rig, "service", "rm", "web") == "web\n"
    assert await docker(rig, "network", "rm", "app") == "app\n"
    assert "Is Manager: true" in await docker(rig, "info")
    assert "pyswarm:" in await docker(rig, "version")
    await docker(rig, "node", "update", "--availability", "drain", "h2")
    assert "Rotated" in (await docker(rig, "swarm", "join-token", "--rotate", "worker")).replace(
        "rotated", "Rotated"
    )
    await docker(rig, "swarm", "update", "--task-history-limit", "3")
    assert rig.control.cluster.spec.task_history_limit == 3
    await docker(rig, "swarm", "leave", "--force")
    assert "not a swarm manager" in await docker(rig, "node", "ls", code=1)


async def test_an_answer_that_is_no_json_is_shown(tmp_path: Path) -> None:
    async def odd(_request: web.Request) -> web.Response:
        return web.Response(text="what?", status=502, headers={"Server": "pyswarm/1 (linux)"})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", odd)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(tmp_path / "s")).start()
        code, _, error = await run("pyswarm", "node", "ls", PYSWARM_HOST=f"unix://{tmp_path}/s")
    finally:
        await runner.cleanup()
    assert (code, error) == (1, "Error response from daemon: what?\n")
