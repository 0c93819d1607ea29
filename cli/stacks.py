"""The objects of a stack: all that carry its label."""

from typing import Any

from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError
from pyswarm.cli.output import emit

NAMESPACE_LABEL = "com.docker.stack.namespace"


class StepFailed(CliError):
    """One step of a larger command failed; the text says which and why."""

    prefix = ""


def failed(step: str, exc: CliError) -> StepFailed:
    """``step`` failed because of ``exc``, in docker's form."""
    return StepFailed(f"{step}: {exc.prefix}{exc}")


def check_filled(stack: str) -> None:
    """Raise CliError for a stack's name that is none."""
    if not stack.strip(" \t\r\n\"'"):
        raise CliError(f'invalid stack name: "{stack}"')


def filters_of(stack: str, filters: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    """``filters`` and the stack's label."""
    given = filters or {}
    return {**given, "label": [*given.get("label", []), f"{NAMESPACE_LABEL}={stack}"]}


def listed(client: Client, kind: str, stack: str) -> list[Any]:
    """The stack's objects of ``kind`` (``services``, ``networks``, ``secrets``, ``configs``, ``tasks``)."""
    return client.listed(kind, filters_of(stack))


def remove_services(client: Client, services: list[Any]) -> list[str]:
    """Remove services, one line each; returns what failed."""
    services = sorted(services, key=lambda service: service["Spec"]["Name"])
    return remove(client, "service", [(service["ID"], service["Spec"]["Name"]) for service in services])


def remove(client: Client, kind: str, objects: list[tuple[str, str]]) -> list[str]:
    """Remove the objects, each an id and a name, one line each; returns what failed."""
    errors = []
    for object_id, name in objects:
        emit(f"Removing {kind} {name}")
        try:
            client.delete(f"/{kind}s/{object_id}")
        except CliError as exc:
            errors.append(f"Failed to remove {kind} {name}: {exc.prefix}{exc}")
    return errors
