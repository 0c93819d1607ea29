"""The table of roles names every method of the services on the cluster's port, and nothing else."""

import pytest

from pyswarm.proto.roles import ROLES
from pyswarm.proto.v1 import ca_pb2, control_pb2, dispatcher_pb2, events_pb2, logs_pb2, raft_pb2

FOR_AGENTS = ("pyswarm.v1.Dispatcher", "pyswarm.v1.LogBroker", "pyswarm.v1.CA")
FILES = (ca_pb2, control_pb2, dispatcher_pb2, events_pb2, logs_pb2, raft_pb2)


def methods() -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for module in FILES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_method_has_roles() -> None:
    assert methods() - ROLES.keys() == set()


def test_no_role_is_left_over() -> None:
    assert ROLES.keys() - methods() == set()


@pytest.mark.parametrize("method", sorted(ROLES))
def test_roles_exist_and_workers_reach_only_what_agents_need(method: str) -> None:
    assert ROLES[method]
    assert ROLES[method] <= {"manager", "worker"}
    service = method.split("/")[1]
    assert ("worker" in ROLES[method]) == (service in FOR_AGENTS)
