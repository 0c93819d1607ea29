"""What the command says when the daemon's socket refuses it."""

import socket

import pytest

from pyswarm.cli.client import Client, chosen_host
from pyswarm.cli.errors import CliError, NoDaemon


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (
            PermissionError(13, "Permission denied"),
            "permission denied while trying to connect to the pyswarm daemon",
        ),
        (FileNotFoundError(2, "No such file"), "Is it running? Start it with: systemctl start pyswarmd"),
        (
            ConnectionRefusedError(111, "Connection refused"),
            "Is it running? Start it with: systemctl start pyswarmd",
        ),
        (TimeoutError(), "did not answer within"),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, refusal: OSError, says: str) -> None:
    def connect(_self: object, _path: str) -> None:
        raise refusal

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(NoDaemon, match=r"x\.sock") as caught:
        Client("unix:///x.sock").get("/nodes")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_which_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSWARM_HOST", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert chosen_host(None) == "unix:///run/pyswarm/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///d")
    assert chosen_host(None) == "unix:///d"
    monkeypatch.setenv("PYSWARM_HOST", "unix:///p")
    assert chosen_host(None) == "unix:///p"
    assert chosen_host("unix:///o") == "unix:///o"
    with pytest.raises(CliError, match="must be a unix socket"):
        Client("tcp://1.2.3.4:5")
