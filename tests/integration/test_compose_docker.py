"""Stack files are read as the stock CLI reads them: both print the same configuration."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.env import require_binary

from pyswarm.cli.compose.dump import dump
from pyswarm.cli.compose.load import load
from pyswarm.cli.errors import CliError

ENVIRONMENT = {"TAG": "1.2", "EMPTY": "", "N": "3", "ON": "true", "HOME": "/home/me"}

SERVICE_KEYS = (
    "image: 'a:${TAG}-${NONE:-x}'",
    "command: 'sh -c \"echo a b # c\" d#e # comment'",
    "entrypoint: ['a b', c]",
    "environment: [A, B=, TAG, EMPTY=, N=4, 'C=d=e']",
    "environment: {A: , B: '', C: 1.50, D: 1e3, E: 0x10, F: 010, G: yes, H: '12', TAG: , I: 12:30}",
    "labels: [a, b=c, 'd=e=f']",
    "labels: {a: 685230.15, b: on, c: , d: 1_000, e: 1e21, f: .5}",
    "ports: ['8080:80', 9000, '53:53/udp', '3000-3002:4000-4002', '1-2', '90-92:80', '0:81']",
    "ports: [{target: 80, published: $N, protocol: udp, mode: host}, {target: 81}]",
    "networks: [b, a]",
    "networks: {a: {aliases: [x, y]}, b: , c: {}}",
    "secrets: [a, {source: b, target: c, uid: '1', gid: '2', mode: 0440}]",
    "configs: [{source: b, mode: 0}]",
    "deploy: {mode: global, labels: {a: 1}, endpoint_mode: dnsrr}",
    "deploy: {replicas: $N, update_config: {parallelism: 0, delay: 1m30s, order: start-first, "
    "max_failure_ratio: 0.25}}",
    "deploy: {replicas: 0, update_config: {}, rollback_config: {monitor: 100ms}, restart_policy: {}}",
    "deploy: {restart_policy: {condition: on-failure, delay: 0s, max_attempts: 0, window: 1h}}",
    "deploy: {resources: {limits: {cpus: '0.50', memory: 50M, pids: 5}, reservations: {cpus: '1', memory: 20k}}}",
    "deploy: {placement: {constraints: [node.role == manager], "
    "preferences: [{spread: node.labels.a}], max_replicas_per_node: 2}}",
    "healthcheck: {test: curl x, interval: 1.5h, timeout: 10s, retries: 0, start_period: 5s}",
    "healthcheck: {disable: true}",
    "stop_grace_period: 0s\n    stop_signal: INT\n    tty: $ON\n    stdin_open: false\n"
    "    init: false\n    read_only: true",
    "user: '1:2'\n    working_dir: /x\n    hostname: h\n    domainname: d\n    isolation: default",
    "volumes: ['./a:/b:ro', named:/c, /d, '~/e:/f:rw', '/g:/h:rshared,ro', 'nn:/i:nocopy']",
    "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 100}}, {type: bind, source: rel, target: /z, "
    "bind: {propagation: slave}}]",
    "dns: 1.1.1.1\n    dns_search: [a, b]\n    extra_hosts: [c:1.2.3.4, 'd=::1']\n    tmpfs: /x",
    "extra_hosts: {b: 1.2.3.4, a: '[::1]'}\n    sysctls: [a=1]\n    ulimits: {nofile: 5, "
    "nproc: {soft: 1, hard: 2}}",
    "logging: {driver: x, options: {a: 1, b: null, c: d}}\n    expose: [80, '90']\n    shm_size: 64m",
    "build: {context: ., args: [A], target: x, labels: {b: 1}}\n    cap_add: [ALL]\n"
    "    depends_on: [b, a]\n    links: [c]",
    "build: ./x\n    container_name: n\n    privileged: true\n    restart: always\n"
    "    pid: host\n    security_opt: [a]",
    "credential_spec: {file: x}\n    env_file: v.env\n    x-own: {a: [1, {b: c}]}",
    "<<: &base {user: u}\n    labels: &l [a]\n    networks: *l",
)  # fmt: skip

FILES = (
    "version: '3'\n",
    "version: '3.8'\nservices: {}\nnetworks: {a: , b: {}, c: {driver: x, driver_opts: {a: 1}, "
    "internal: true, labels: [x]}}\n",
    "networks: {a: {external: true}, b: {external: {name: c}}, d: {external: false, "
    "ipam: {driver: x, config: [{subnet: s}]}}}\n",
    "secrets: {a: {external: true}, b: {file: ./x}, c: {file: /y, name: n, labels: {l: 1}}, "
    "d: {driver: x, driver_opts: {a: 1}}}\n",
    "configs: {a: {external: {name: b}}, c: {file: ../z, template_driver: golang}}\nx-top: [1, {a: b}]\n",
    "volumes: {a: , b: {driver: x, name: n}, c: {external: true}}\n",
)  # fmt: skip

WRONG = (
    "", "[]\n", "version: 3.8\n", "version: '2'\n", "version: '3.14'\n", "name: x\n", "services:\n",
    "services: {web: }\n",
    "a: b: c\n", "services:\n\tweb: {}\n", "services: {web: {image: a}, web: {image: b}}\n",
    "services: {web: {imge: a}}\n",
    "services: {web: {image: 5}}\n", "services: {web: {tty: yes}}\n", "services: {web: {ports: ['1-3:5-6']}}\n",
    "services: {web: {ports: ['80:65536']}}\n", "services: {web: {environment: {A: true}}}\n",
    "services: {web: {environment: }}\n", "services: {web: {deploy: {replicas: two}}}\n",
    "services: {web: {image: a$}}\n",
    "services: {web: {image: '${NONE:?no}'}}\n", "services: {web: {stop_grace_period: '5'}}\n",
    "services: {web: {command: \"a 'b\"}}\n", "services: {web: {extends: {service: x}}}\n",
    "services: {web: {mem_limit: 1g}}\n",
    "services: {web: {depends_on: {a: {condition: b}}}}\n", "version: '3.2'\nservices: {web: {init: true}}\n",
    "version: '3.0'\nsecrets: {}\n", "services: {web: {cap_add: [A, A]}}\n", "services: {web: {env_file: none}}\n",
    "networks: {n: {external: {name: a}, name: b}}\n", "networks: {n: {ipam: {config: [{gateway: x}]}}}\n",
)  # fmt: skip

#: A file and one that overrides it.
PAIRS = (
    ("services: {web: {image: a, tty: true, command: [a], dns: [x]}, one: {image: o}}\n",
     "services: {web: {image: b, tty: false, command: c d, dns: [y]}, two: {image: t}}\n"),
    ("services: {web: {environment: [A=1, B=2], labels: {x: 1}, ports: ['80:80', '443:443']}}\n",
     "services: {web: {environment: {B: 3, C: }, labels: [y], ports: ['80:81', '90:90']}}\n"),
    ("services: {web: {deploy: {replicas: 3, labels: {a: b}, update_config: {parallelism: 2, delay: 10s}}}}\n",
     "services: {web: {deploy: {replicas: 0, labels: {a: c}, update_config: {delay: 1s, order: start-first}}}}\n"),
    ("services: {web: {networks: {a: {aliases: [x]}, b: }, secrets: [s, {source: t, target: u}]}}\n",
     "services: {web: {networks: {a: {aliases: [y]}, c: }, secrets: [r, {source: t, mode: 0400}]}}\n"),
    ("services: {web: {logging: {driver: a, options: {x: y}}, volumes: ['/a:/x', '/b:/y'], depends_on: [a]}}\n",
     "services: {web: {logging: {driver: b}, volumes: ['/c:/x'], ulimits: {nofile: 3}, depends_on: [b]}}\n"),
    ("networks: {a: {driver: x, attachable: true}, b: }\nsecrets: {s: {file: x}}\nx-a: {b: 1}\n",
     "networks: {a: {driver: y}, c: }\nsecrets: {s: {external: true}}\nx-c: {d: 1}\n"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require_binary("docker")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.env").write_text("# c\nA=1\nTAG\nNOT_THERE\nE=\n")
    return tmp_path


def docker(*names: str) -> Any:
    """What ``docker stack config`` prints, or None if it refuses. It asks no daemon."""
    binary = shutil.which("docker")
    assert binary is not None
    files = [argument for name in names for argument in ("-c", name)]
    done = subprocess.run(
        [binary, "stack", "config", *files],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return yaml.safe_load(done.stdout) if done.returncode == 0 else None


def same(*texts: str) -> None:
    names = tuple(f"{number}.yml" for number in range(len(texts)))
    for name, text in zip(names, texts, strict=True):
        Path(name).write_text(text)
    theirs = docker(*names)
    assert theirs is not None, "docker refuses it"
    assert yaml.safe_load(dump(load(names, ENVIRONMENT).config)) == theirs


@pytest.mark.parametrize("keys", SERVICE_KEYS)
def test_keys_of_services(keys: str) -> None:
    same(f"services:\n  web:\n    {keys}\n  other: {{image: x}}\n")


@pytest.mark.parametrize("text", FILES)
def test_whole_files(text: str) -> None:
    same(text)


@pytest.mark.parametrize("texts", PAIRS)
def test_two_files(texts: tuple[str, str]) -> None:
    same(*texts)


@pytest.mark.parametrize("text", WRONG)
def test_what_docker_refuses_is_refused(text: str) -> None:
    Path("0.yml").write_text(text)
    assert docker("0.yml") is None
    with pytest.raises(CliError):
        load(("0.yml",), ENVIRONMENT)
