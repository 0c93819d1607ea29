"""``pyswarm stack rm``."""

import time
from typing import Any

import click

from pyswarm.cli.base import command, pass_client
from pyswarm.cli.client import Client
from pyswarm.cli.output import fail_with
from pyswarm.cli.stacks import check_filled, listed, remove, remove_services
from pyswarm.common.text import escaped

_POLL_S = 0.25
_SECOND_NS = 10**9
_DEFAULT_GRACE_NS = 10 * _SECOND_NS
#: For hosts to hear of it and to report, beyond the time that containers are given to end.
_REPORT_S = 15.0
_ENDED = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})


@command("rm", "pyswarm stack rm app\npyswarm stack rm --detach=false app")
@click.argument("stacks", metavar="STACK [STACK...]", nargs=-1, required=True)
@click.option("-d", "--detach", is_flag=True, default=None, help="Do not wait for stack removal [true]")
@pass_client
def rm(client: Client, stacks: tuple[str, ...], detach: bool | None) -> None:
    """Remove one or more stacks."""
    for stack in stacks:
        check_filled(stack)
    errors: list[str] = []
    for stack in stacks:
        found = {kind: listed(client, kind, stack) for kind in ("services", "secrets", "configs", "networks")}
        if not any(found.values()):
            click.echo(escaped(f"Nothing found in stack: {stack}"), err=True)
            continue
        failed = _remove(client, stack, found)
        if failed:
            errors += [*failed, f"failed to remove some resources from stack: {stack}"]
        elif detach is False:
            _wait_for_tasks(client, stack, None)
    fail_with(errors)


def _remove(client: Client, stack: str, found: dict[str, list[Any]]) -> list[str]:
    failed = remove_services(client, found["services"])
    for kind in ("secrets", "configs"):
        failed += remove(client, kind.removesuffix("s"), [(obj["ID"], obj["Spec"]["Name"]) for obj in found[kind]])
    networks = [(network["Id"], network["Name"]) for network in found["networks"]]
    if networks and not failed:
        # A network can go once no task has an address in it. The manager waits for that too, but not as long as
        # a service may have asked for.
        _wait_for_tasks(client, stack, _patience_s(found["services"]))
    return failed + remove(client, "network", networks)


def _patience_s(services: list[Any]) -> float:
    graces = [s["Spec"]["TaskTemplate"]["ContainerSpec"].get("StopGracePeriod") for s in services]
    longest = max((_DEFAULT_GRACE_NS if grace is None else grace for grace in graces), default=0)
    return longest / _SECOND_NS + _REPORT_S


def _wait_for_tasks(client: Client, stack: str, patience_s: float | None) -> None:
    """Return when the stack's tasks have ended, but for those on hosts that cannot say so; or after a while."""
    until = None if patience_s is None else time.monotonic() + patience_s
    while until is None or time.monotonic() < until:
        up = {node["ID"] for node in client.listed("nodes") if node["Status"]["State"] == "ready"}
        tasks = listed(client, "tasks", stack)
        if not any(t.get("NodeID") in up and t["Status"]["State"] not in _ENDED for t in tasks):
            return
        time.sleep(_POLL_S)
