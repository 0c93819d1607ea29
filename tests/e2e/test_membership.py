"""Managers that are lost for good and replaced, and certificates that run out."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.env import wait_until

from pyswarm.common.csr import new_key_and_request
from pyswarm.common.tls import TLSIdentity
from pyswarm.manager.ca import sign_node_certificate

pytestmark = pytest.mark.e2e


@pytest.fixture
def three() -> Iterator[Cluster]:
    """Three managers."""
    with Cluster.on_a_new_lab("e2emem", hosts=3, managers=3) as cluster:
        yield cluster


def data_dir(cluster: Cluster, host: str) -> Path:
    """Where a host's daemon keeps its state."""
    return cluster.lab.datadir / host / "pyswarm"


def ca_key(cluster: Cluster, host: str) -> bytes:
    """The CA's key, as it stands in a manager's log."""
    log = b"".join(
        p.read_bytes() for p in (data_dir(cluster, host) / "manager" / "raft").rglob("*") if p.is_file()
    )
    found = re.search(rb"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n", log, re.DOTALL)
    assert found is not None
    return found.group()


def served_until(cluster: Cluster, host: str) -> str:
    """The end of the certificate that a manager's listener shows."""
    shown = subprocess.run(
        [
            *("nsenter", f"--net=/run/netns/{cluster.lab.netns(host)}"),
            *("openssl", "s_client", "-connect", f"{cluster.lab.ip(host)}:2378"),
        ],
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    ).stdout
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", shown, re.DOTALL)
    if pem is None:
        return ""
    return subprocess.run(
        ["openssl", "x509", "-noout", "-enddate"], input=pem.group(), capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_manager_lost_for_good_is_removed_and_replaced(three: Cluster) -> None:
    lab = three.lab
    three.ask = "h1"
    lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "net")
    lab.kill("h3", "daemon", "KILL")
    wait_until(lambda: three.node_state("h3") == "down", 30, "h3 is down")
    refused = lab.sh("h1", "pyswarm", "node", "rm", "h3", check=False)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    lab.sh("h1", "pyswarm", "node", "rm", "--force", "h3")
    # The host is set up again: nothing of the former membership is left on it.
    shutil.rmtree(data_dir(three, "h3"))
    lab.start("h3", "daemon")
    token = lab.sh("h1", "pyswarm", "swarm", "join-token", "-q", "manager").stdout.strip()
    lab.sh("h3", "pyswarm", "swarm", "join", "--token", token, f"{lab.ip('h1')}:2377")
    wait_until(lambda: [n["Status"]["State"] for n in three.nodes()] == ["ready"] * 3, 30, "three ready nodes")
    server = ("busybox:latest", "httpd", "-f", "-p", "80", "-h", "/www")
    create = ("pyswarm", "service", "create", "-d", "--name", "web", "--replicas", "3", "--network", "net")
    lab.sh("h1", *create, "--stop-grace-period", "1s", *server)
    tasks = three.wait_running("web", 3)
    assert {t.node for t in tasks} == {"h1", "h2", "h3"}
    client = next(t for t in tasks if t.node == "h3")
    for task in tasks:
        wait_until(lambda t=task: three.fetch("h3", client.container, t.addr), 20, f"h3 reaches {task.node}")  # type: ignore[misc]
    # Three voters again, not four: with any one of them lost, the others decide.
    lab.kill("h2", "daemon", "KILL")
    wait_until(lambda: three.leader() in ("h1", "h3"), 20, "a leader among the two that are left")
    lab.sh("h1", "pyswarm", "network", "create", "-d", "overlay", "afterwards")


def test_a_manager_serves_with_its_renewed_certificate(three: Cluster) -> None:
    lab, host = three.lab, "h2"
    lab.kill(host, "daemon", "TERM")
    certs = data_dir(three, host) / "certs"
    old = TLSIdentity.load(certs)
    key_pem, csr_pem = new_key_and_request()
    short = sign_node_certificate(
        root_cert_pem=old.ca_pem,
        root_key_pem=ca_key(three, "h1"),
        csr_pem=csr_pem,
        node_id=old.node_id,
        role="manager",
        cluster_id=old.cluster_id,
        # Back-dated by an hour: more than four fifths of it have passed, so that renewal is due at once.
        life_s=60.0,
        addr=lab.ip(host),
    )
    TLSIdentity(old.ca_pem, short, key_pem).save(certs)
    lab.start(host, "daemon")
    wait_until(lambda: TLSIdentity.load(certs).cert_pem != short, 30, "the certificate is renewed")
    year = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", str(certs / "node.crt")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wait_until(lambda: served_until(three, host) == year, 30, "the listener shows the renewed certificate")
    wait_until(lambda: three.node_state(host) == "ready", 30, "the node is ready")
    lab.sh(host, "pyswarm", "network", "create", "-d", "overlay", "renewed")
