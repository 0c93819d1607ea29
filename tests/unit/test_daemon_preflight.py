"""What is missing on a host is named, with what to do about it, before anything is changed."""

import socket
from collections.abc import Iterator

import pytest

from pyswarm.common.errors import FailedPrecondition
from pyswarm.daemon import preflight


@pytest.mark.parametrize(
    ("program", "package"), [("nft", "nftables"), ("etcd", "etcd-server"), ("ip", "iproute2")]
)
def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None if name == program else f"/bin/{name}")
    with pytest.raises(FailedPrecondition, match=f"{program} is not installed: run 'apt-get install {package}'"):
        preflight.check_programs(manager=True)


def test_a_worker_and_an_etcd_of_the_user_s_need_no_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None if name == "etcd" else f"/bin/{name}")
    preflight.check_programs(manager=False)
    preflight.check_programs(manager=True, own_etcd=False)


def test_only_root_may_run_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 1000)
    with pytest.raises(FailedPrecondition, match="must run as root"):
        preflight.check_root()


@pytest.fixture
def taken() -> Iterator[int]:
    """A TCP port something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_of_the_overlay_is_checked_by_itself() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(FailedPrecondition, match="needs for VXLAN, is in use"):
            preflight.check_data_path_port(holder.getsockname()[1])


def test_a_port_in_use_is_named_with_its_purpose(taken: int) -> None:
    with pytest.raises(FailedPrecondition, match=f"port {taken}/tcp, which pyswarm needs for tests, is in use"):
        preflight._check_free(socket.SOCK_STREAM, taken, "tcp", "tests")
