"""Where secrets and configs lie on the host, and what the container sees."""

import msgspec
from support.agents import a_config, a_secret, a_task, using

from pyswarm.agent.engine import FileMount
from pyswarm.agent.engine.config import container_config
from pyswarm.agent.placement import Bind, PlacedFile, placement
from pyswarm.agent.tmpfs import FileInMemory
from pyswarm.common.types import ContainerSpec, FileTarget


def spec(*files: object) -> ContainerSpec:
    return ContainerSpec(**using(*files))  # type: ignore[arg-type]


def test_nothing_needs_nothing() -> None:
    planned = placement(ContainerSpec())
    assert (planned.files, planned.binds) == ((), ())


def test_a_folder_for_secrets_and_single_files_elsewhere() -> None:
    tok, key, conf = a_secret("tok"), a_secret("key"), a_config("conf")
    planned = placement(
        spec(
            (tok, FileTarget(name="tok", uid="1000", gid="50", mode=0o400)),
            (key, FileTarget(name="tls/key.pem")),
            (key, FileTarget(name="/etc/app/key.pem")),
            (conf, FileTarget(name="app.conf", mode=0o640)),
            (conf, FileTarget(name="/run/secrets/conf")),
        )
    )
    assert planned.binds == (
        Bind("secrets", "/run/secrets"),
        Bind("single/2", "/etc/app/key.pem"),
        Bind("single/3", "/app.conf"),
    )
    assert planned.files == (
        PlacedFile("secrets/tok", ("secret", tok.id), "tok", 1000, 50, 0o400),
        PlacedFile("secrets/tls/key.pem", ("secret", key.id), "key", 0, 0, 0o444),
        PlacedFile("single/2", ("secret", key.id), "key", 0, 0, 0o444),
        PlacedFile("single/3", ("config", conf.id), "conf", 0, 0, 0o640),
        PlacedFile("secrets/conf", ("config", conf.id), "conf", 0, 0, 0o444),
    )


def test_the_container_cannot_change_them_and_a_missing_source_is_an_error() -> None:
    config = container_config(a_task("n"), [], (1, 41), [FileMount("/run/x/secrets", "/run/secrets")])
    (mount,) = config["HostConfig"]["Mounts"]
    assert mount == {
        "Type": "bind",
        "Source": "/run/x/secrets",
        "Target": "/run/secrets",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }
    assert "Mounts" not in container_config(a_task("n"), [], (1, 41))["HostConfig"]


def test_no_text_of_the_agent_s_objects_holds_a_payload() -> None:
    secret = a_secret(data=b"hunter2")
    file = FileInMemory("secrets/tok", 0, 0, 0o444, b"hunter2")
    task = a_task("n", **using((secret, FileTarget(name="tok"))))
    assert "hunter2" not in f"{file!r} {secret!r} {task!r} {placement(task.spec.container_spec)!r}"
    assert b"hunter2" not in msgspec.msgpack.encode(task)
