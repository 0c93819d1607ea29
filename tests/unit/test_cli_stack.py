"""The stack commands against a daemon that only remembers what it was told."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pyswarm.cli.client import Client
from pyswarm.cli.errors import DaemonError
from pyswarm.cli.main import root

STACK = """
version: "3.8"
services:
  web:
    image: web:1
    ports: ["8080:80"]
    secrets: [token, outside]
    configs: [conf]
  back:
    image: back:1
    deploy: {replicas: 2}
secrets: {token: {file: token.txt}, outside: {external: true}}
configs: {conf: {file: conf.txt}}
"""
LABEL = "com.docker.stack.namespace"


class Daemon:
    """Objects by kind and name; ``changes`` are the requests that changed something, ``refuse`` how some fail."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("services", "networks", "secrets", "configs", "tasks", "nodes")
        }
        self.changes: list[str] = []
        self.bodies: dict[str, Any] = {}
        self.refuse: dict[str, DaemonError] = {}
        self.queries: dict[str, dict[str, str]] = {}

    def request(self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None) -> Any:
        kind, *rest = path.strip("/").split("/")
        if method == "GET":
            return self._get(kind, rest[0] if rest else "", query or {})
        change = f"{method} {path}"
        self.changes.append(change)
        self.bodies[change] = json.loads(json.dumps(body))
        self.queries[change] = query or {}
        if change in self.refuse:
            raise self.refuse[change]
        return self._change(method, kind, rest, body)

    def _get(self, kind: str, ref: str, query: dict[str, str]) -> Any:
        objects = list(self.objects[kind].values())
        if ref:
            found = [obj for obj in objects if ref in (obj["ID"], _name(obj))]
            if not found:
                raise DaemonError(404, f"{kind} {ref} not found")
            return found[0]
        wanted = json.loads(query.get("filters", "{}")).get("label", {})
        return [obj for obj in objects if all(_has_label(obj, label) for label in wanted)]

    def _change(self, method: str, kind: str, rest: list[str], body: Any) -> Any:
        objects = self.objects[kind]
        if rest[0] == "create":
            return self.add(kind, body)
        name = next(name for name, obj in objects.items() if obj["ID"] == rest[0])
        if method == "DELETE":
            del objects[name]
            return None
        objects[name]["Spec"] = body
        return None

    def add(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        object_id = f"{kind}-{body['Name']}"
        obj = {"ID": object_id, "Id": object_id, "Version": {"Index": 7}, "Spec": body}
        if kind == "networks":
            obj |= {"Name": body["Name"], "Scope": "swarm", "Labels": body.get("Labels", {})}
        self.objects[kind][body["Name"]] = obj
        return obj


def _name(obj: dict[str, Any]) -> str:
    return str(obj["Spec"].get("Name", ""))


def _has_label(obj: dict[str, Any], label: str) -> bool:
    key, has_value, value = label.partition("=")
    labels = obj["Spec"].get("Labels", {})
    return key in labels and (not has_value or labels[key] == value)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.chdir(tmp_path)
    daemon = Daemon()
    monkeypatch.setattr(Client, "request", lambda _self, *args, **kwargs: daemon.request(*args, **kwargs))
    daemon.add("secrets", {"Name": "outside"})
    (tmp_path / "token.txt").write_bytes(b"secret")
    (tmp_path / "conf.txt").write_bytes(b"conf")
    (tmp_path / "s.yml").write_text(STACK)
    return daemon


def run(*argv: str, given: str | None = None) -> Result:
    return CliRunner().invoke(root, ["stack", *argv], input=given)


def done(*argv: str) -> str:
    result = run(*argv)
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_a_new_stack(daemon: Daemon) -> None:
    assert done("deploy", "-c", "s.yml", "app") == (
        "Creating network app_default\nCreating secret app_token\nCreating config app_conf\n"
        "Creating service app_web\nCreating service app_back\n"
    )
    labels = {LABEL: "app"}
    assert daemon.objects["networks"]["app_default"]["Spec"]["Labels"] == labels
    assert daemon.objects["secrets"]["app_token"]["Spec"] == {
        "Name": "app_token", "Labels": labels, "Data": base64.b64encode(b"secret").decode(),
    }  # fmt: skip
    container = daemon.objects["services"]["app_web"]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert [(s["SecretID"], s["SecretName"]) for s in container["Secrets"]] == [
        ("secrets-app_token", "app_token"),
        ("secrets-outside", "outside"),
    ]
    assert container["Configs"][0]["ConfigID"] == "configs-app_conf"
    assert "Secrets" not in daemon.objects["services"]["app_back"]["Spec"]["TaskTemplate"]["ContainerSpec"]


def test_deploying_again_updates_with_the_version_and_keeps_what_the_file_does_not_say(daemon: Daemon) -> None:
    done("deploy", "-c", "s.yml", "app")
    template = daemon.objects["services"]["app_web"]["Spec"]["TaskTemplate"]
    template["ForceUpdate"] = 3
    template["ContainerSpec"]["Image"] = "web:1@sha256:abc"
    before = json.dumps(daemon.objects)
    daemon.changes.clear()

    assert done("deploy", "-c", "s.yml", "app") == (
        "Updating service app_web (id: services-app_web)\nUpdating service app_back (id: services-app_back)\n"
    )

    assert daemon.changes == [
        "POST /secrets/secrets-app_token/update", "POST /configs/configs-app_conf/update",
        "POST /services/services-app_web/update", "POST /services/services-app_back/update",
    ]  # fmt: skip
    assert daemon.queries["POST /services/services-app_web/update"] == {"version": "7"}
    assert daemon.queries["POST /secrets/secrets-app_token/update"] == {"version": "7"}
    back = daemon.objects["services"]["app_back"]["Spec"]["TaskTemplate"]
    assert back.pop("ForceUpdate") == 0
    assert json.dumps(daemon.objects) == before

    Path("s.yml").write_text(STACK.replace("web:1", "web:2"))
    done("deploy", "-c", "s.yml", "app")
    assert template is not daemon.objects["services"]["app_web"]["Spec"]["TaskTemplate"]
    changed = daemon.objects["services"]["app_web"]["Spec"]["TaskTemplate"]
    assert (changed["ContainerSpec"]["Image"], changed["ForceUpdate"]) == ("web:2", 3)


def test_a_changed_secret_is_refused_before_anything_changes(daemon: Daemon) -> None:
    done("deploy", "-c", "s.yml", "app")
    text = "rpc error: code = InvalidArgument desc = only updates to Labels are allowed"
    daemon.refuse["POST /secrets/secrets-app_token/update"] = DaemonError(400, text)
    Path("s.yml").write_text(STACK + "networks: {new: }\n" + "")
    daemon.changes.clear()

    result = run("deploy", "-c", "s.yml", "app")

    assert str(result.exception) == f"failed to update secret app_token: Error response from daemon: {text}"
    assert daemon.changes == ["POST /secrets/secrets-app_token/update"]


def test_prune_removes_what_the_file_does_not_have_any_more(daemon: Daemon) -> None:
    done("deploy", "-c", "s.yml", "app")
    daemon.add("services", {"Name": "other_back", "Labels": {LABEL: "other"}})
    Path("s.yml").write_text("services: {web: {image: a}}\n")

    assert "Removing" not in done("deploy", "-c", "s.yml", "app")
    assert done("deploy", "--prune", "-c", "s.yml", "app").startswith("Removing service app_back\nUpdating")
    assert set(daemon.objects["services"]) == {"app_web", "other_back"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "services: {web: {image: a, networks: [n]}}\nnetworks: {n: {external: true}}\n",
            'network "n" is declared as external, but could not be found. You need',
        ),
        ("services: {web: {image: a, secrets: [s]}}\nsecrets: {s: {external: true}}\n", "secret not found: s"),
        ("services: {web: {image: a}}\nsecrets: {s: {file: none}}\n", "s.yml:2: secrets.s.file: cannot read "),
        (
            "services: {web: {image: a}}\nconfigs:\n  c:\n    file: s.d\n",
            "s.yml:4: configs.c.file: cannot read ",
        ),
        (
            "services: {web: {image: a, volumes: [a:/b]}}\nvolumes: {a: }\n",
            "s.yml:1: services.web.volumes: volumes is not",
        ),
        (
            "services: {web: {image: a, networks: [n]}}\n",
            's.yml:1: services.web.networks.0: undefined network "n"',
        ),
        ("services: {web: {tty: true}}\n", "s.yml:1: services.web: invalid image reference for service web"),
        ("", "s.yml: the file is empty"),
    ],
)
def test_nothing_is_changed_for_a_stack_that_cannot_be(daemon: Daemon, text: str, message: str) -> None:
    Path("s.yml").write_text(text)
    result = run("deploy", "-c", "s.yml", "app")
    assert result.exit_code == 1
    assert str(result.exception).startswith(message)
    assert daemon.changes == []


def test_an_external_network_must_be_of_the_swarm(daemon: Daemon) -> None:
    daemon.add("networks", {"Name": "n"})["Scope"] = "local"
    Path("s.yml").write_text("services: {web: {image: a, networks: [n]}}\nnetworks: {n: {external: true}}\n")
    result = run("deploy", "-c", "s.yml", "app")
    assert "not in the right scope" in str(result.exception)
    daemon.objects["networks"]["n"]["Scope"] = "swarm"
    assert done("deploy", "-c", "s.yml", "app") == "Creating service app_web\n"


def test_a_stack_from_standard_input_with_warnings(daemon: Daemon) -> None:
    text = "services: {web: {image: a, build: ., container_name: x}}\n"
    result = run("deploy", "-c", "-", "app", given=text)
    assert result.exit_code == 0
    assert result.stderr == (
        "Ignoring unsupported options: build\n\nIgnoring deprecated options:\n\n"
        "container_name: Setting the container name is not supported.\n\n"
    )


def test_removal(daemon: Daemon) -> None:
    done("deploy", "-c", "s.yml", "app")
    assert done("rm", "app") == (
        "Removing service app_back\nRemoving service app_web\nRemoving secret app_token\n"
        "Removing config app_conf\nRemoving network app_default\n"
    )
    assert [kind for kind, objects in daemon.objects.items() if objects] == ["secrets"]
    assert set(daemon.objects["secrets"]) == {"outside"}
    result = run("rm", "app")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nothing found in stack: app\n")


def test_a_network_goes_only_after_the_tasks_that_can_say_so_have_ended(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("deploy", "-c", "s.yml", "app")
    daemon.objects["nodes"] = {
        name: {"ID": name, "Spec": {}, "Status": {"State": state}}
        for name, state in (("h1", "ready"), ("h2", "down"))
    }
    for name, node in (("t1", "h1"), ("t2", "h2")):
        status = {"State": "running"}
        daemon.objects["tasks"][name] = {
            "ID": name,
            "NodeID": node,
            "Spec": {"Labels": {LABEL: "app"}},
            "Status": status,
        }
    polls: list[int] = []

    def sleep(_seconds: float) -> None:
        assert "DELETE /networks/networks-app_default" not in daemon.changes
        polls.append(1)
        if len(polls) == 3:
            daemon.objects["tasks"]["t1"]["Status"]["State"] = "shutdown"

    monkeypatch.setattr("pyswarm.cli.stack_rm.time.sleep", sleep)
    assert done("rm", "app").endswith("Removing network app_default\n")
    assert len(polls) == 3


def test_what_cannot_be_removed_is_told_and_the_rest_goes(daemon: Daemon) -> None:
    done("deploy", "-c", "s.yml", "app")
    daemon.refuse["DELETE /secrets/secrets-app_token"] = DaemonError(400, "in use")
    result = run("rm", "app")
    assert result.exit_code == 1
    assert result.stderr == (
        "Failed to remove secret app_token: Error response from daemon: in use\n"
        "failed to remove some resources from stack: app\n"
    )
    assert daemon.objects["networks"] == {}


def test_listing_stacks(daemon: Daemon) -> None:
    done("deploy", "-c", "s.yml", "app10")
    done("deploy", "-c", "s.yml", "app9")
    daemon.add("services", {"Name": "alone", "Labels": {}})
    assert done("ls") == "NAME      SERVICES\napp9      2\napp10     2\n"
    assert done("ls", "--format", "{{.Name}}={{.Services}}") == "app9=2\napp10=2\n"
    assert json.loads(done("ls", "--format", "json").splitlines()[0]) == {"Name": "app9", "Services": "2"}


def test_a_stack_that_is_not_there(daemon: Daemon) -> None:
    assert str(run("ps", "app").exception) == "nothing found in stack: app"
    result = run("services", "app")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nothing found in stack: app\n")
    for command in ("ps", "rm", "services"):
        assert str(run(command, " ").exception) == 'invalid stack name: " "'


def test_config_prints_the_merged_file(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.yml").write_text("services: {web: {image: 'a:${TAG}'}}\n")
    Path("b.yml").write_text("services: {web: {tty: true}}\n")
    monkeypatch.setenv("TAG", "2")
    text = 'version: "3.13"\nservices:\n  web:\n    image: a:2\n    tty: true\n'
    assert done("config", "-c", "a.yml", "-c", "b.yml") == text
    assert "image: a:${TAG}\n" in done("config", "--skip-interpolation", "-c", "a.yml")
    monkeypatch.delenv("TAG")
    result = run("config", "-c", "a.yml")
    assert result.stderr == 'The "TAG" variable is not set. Defaulting to a blank string.\n'
    assert str(run("config").exception).startswith("specify a Compose file")
