"""``secret`` and ``config`` of the pyswarm command and of the stock client, as programs, against the gateway."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.env import require_binary
from support.gateway_fakes import Rig, run, running_gateway

PAYLOAD = bytes(range(256)) + b"hunter2"
COLUMNS = "ID                          NAME"

Client = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_gateway(tmp_path) as rig:
        rig.node.become("manager")
        (tmp_path / "payload").write_bytes(PAYLOAD)
        (tmp_path / "empty").touch()
        (tmp_path / "large").write_bytes(b"x" * 1_100_000)
        yield rig


@pytest.fixture(params=["pyswarm", "docker"])
def client(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path) -> Client:
    """Runs a command line of one of the clients, in a shell, in the folder with the files."""
    require_binary("docker")

    async def command(line: str) -> tuple[int, str, str]:
        line = line.replace("CLIENT", request.param).replace("@", f"{tmp_path}/")
        code, out, err = await run(
            "sh", "-c", line, PYSWARM_HOST=rig.host, DOCKER_HOST=rig.host, DOCKER_CONFIG="/nonexistent"
        )
        assert "Traceback" not in err
        assert "hunter2" not in err
        return code, out, err.strip()

    return command


@pytest.mark.parametrize("kind", ["secret", "config"])
async def test_create_list_inspect_and_remove(client: Client, rig: Rig, kind: str) -> None:
    code, out, _ = await client(f"CLIENT {kind} create -l a=b --label c=d tok @payload")
    found = getattr(rig.control, f"{kind}s")
    (stored,) = found.values()
    assert (code, out) == (0, f"{stored.id}\n")
    assert (stored.spec.data, stored.spec.labels) == (PAYLOAD, {"a": "b", "c": "d"})
    assert (await client(f"CLIENT {kind} create piped - < @payload"))[0] == 0
    assert [f.spec.data for f in found.values()] == [PAYLOAD, PAYLOAD]

    _, out, _ = await client(f"CLIENT {kind} ls")
    assert out.startswith(COLUMNS)
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["piped", "tok"]
    _, out, _ = await client(f"CLIENT {kind} ls --format '{{{{.Name}}}} {{{{.ID}}}}' --filter name=to")
    assert out == f"tok {stored.id}\n"
    assert (await client(f"CLIENT {kind} ls -q -f id={stored.id[:9]}"))[1] == f"{stored.id}\n"
    _, out, _ = await client(f"CLIENT {kind} inspect tok")
    spec = json.loads(out)[0]["Spec"]
    assert (spec["Name"], spec["Labels"], "Data" in spec) == ("tok", {"a": "b", "c": "d"}, kind == "config")
    code, out, err = await client(f"CLIENT {kind} inspect -f '{{{{.Spec.Name}}}}' tok nope")
    assert (code, out, err) == (1, "tok\n", f"Error response from daemon: {kind} nope not found")
    # The stock client prints a config as it is.
    _, out, _ = await client(f"CLIENT {kind} inspect --pretty tok | LC_ALL=C tr -d '\\200-\\377'")
    assert f"Name:{'			' if kind == 'config' else ' ' * 14}tok\nLabels:\n - a=b\n - c=d\n" in out
    assert "Created at:" in out
    assert ("Data:\n" in out) == (kind == "config")
    code, out, err = await client(f"CLIENT {kind} rm tok nope piped")
    assert (code, out, err) == (1, "tok\npiped\n", f"Error response from daemon: {kind} nope not found")
    assert not found


@pytest.mark.parametrize("kind", ["secret", "config"])
async def test_what_cannot_be_created(client: Client, rig: Rig, kind: str) -> None:
    limit = 512_000 if kind == "secret" else 1_024_000
    for line, text in (
        (f"CLIENT {kind} create x @empty", "data is empty"),
        (f"CLIENT {kind} create x - < /dev/null", "data is empty"),
        (f"CLIENT {kind} create x @large", f"{kind} data must be larger than 0 and less than {limit} bytes"),
        (f"CLIENT {kind} create x @nowhere", "o such file or directory"),
        (f"CLIENT {kind} create 'a b' @payload", "invalid name, only 64"),
        (f"CLIENT {kind} create --template-driver golang x @payload", "not supported by this version of pyswarm"),
    ):
        code, out, err = await client(line)
        assert (code, out, text in err, len(err.splitlines())) == (1, "", True, 1), (line, err)
    assert not getattr(rig.control, f"{kind}s")


async def test_services_are_given_secrets_and_configs(client: Client, rig: Rig) -> None:
    for line in ("secret create tok @payload", "secret create token @payload", "config create conf @payload"):
        assert (await client(f"CLIENT {line}"))[0] == 0
    files = "--secret tok --secret source=token,target=t2,uid=5,gid=6,mode=0400 --config source=conf,target=/etc/c"
    create = "CLIENT service create -d --no-resolve-image --name"
    code, _, err = await client(f"{create} web {files} busybox:latest")
    assert (code, err) == (0, "")
    (service,) = rig.control.services.values()
    container = service.spec.task_template.container_spec
    assert [(r.secret_name, r.file.name, r.file.uid, r.file.gid, r.file.mode) for r in container.secrets] == [
        ("tok", "tok", "0", "0", 0o444),
        ("token", "t2", "5", "6", 0o400),
    ]
    ids = {s.spec.name: s.id for s in rig.control.secrets.values()}
    assert [r.secret_id for r in container.secrets] == [ids["tok"], ids["token"]]
    assert [(r.config_name, r.file.name) for r in container.configs] == [("conf", "/etc/c")]
    assert (await client("CLIENT secret rm tok"))[2] == (
        "Error response from daemon: secret 'tok' is in use by the following service: web"
    )
    _, out, _ = await client("CLIENT service inspect --pretty web")
    assert "Secrets:\n Target:\ttok\n  Source:\ttok\n Target:\tt2\n  Source:\ttoken\n" in out
    assert "Configs:\n Target:\t/etc/c\n  Source:\tconf\n" in out

    change = "--secret-rm tok --secret-add source=token,target=tok --config-rm conf"
    assert (await client(f"CLIENT service update -d {change} web"))[0] == 0
    (service,) = rig.control.services.values()
    container = service.spec.task_template.container_spec
    assert [(r.secret_name, r.file.name) for r in container.secrets] == [("token", "t2"), ("token", "tok")]
    assert container.configs == ()
    before = service.spec

    for line, text in (
        (f"{create} x --secret nope busybox:latest", "secret not found: nope"),
        (f"{create} x --secret to busybox:latest", "secret not found: to"),
        (f"{create} x --config tok busybox:latest", "config not found: tok"),
        (f"{create} x --secret tok --secret tok busybox:latest", "duplicate secret target for tok not allowed"),
        (f"{create} x --secret source=tok,target=../x busybox:latest", '".." is not allowed in it'),
        (f"{create} x --secret source=tok,uid=root busybox:latest", "it must be a number"),
        ("CLIENT service update -d --secret-add source=tok,target=t2 web", "have a conflicting target"),
        ("CLIENT service update -d --config-add nope web", "config not found: nope"),
    ):
        code, _, err = await client(line)
        assert (code, text in err, len(err.splitlines())) == (1, True, 1), (line, err)
    for text in ("source=tok,mode=rw", "target=x", "source=tok,colour=red"):
        code, _, err = await client(f"{create} x --secret {text} busybox:latest")
        assert code in (2, 125)
        assert f'invalid argument "{text}" for "--secret" flag' in err
    assert [s.spec for s in rig.control.services.values()] == [before]
