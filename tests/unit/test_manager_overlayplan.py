"""What the overlay's registry is told of tasks."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.agents import a_network, a_task

from pyswarm.common.types import Node, TaskState, TaskStatus
from pyswarm.manager.overlayplan import overlay_state


@pytest.mark.parametrize(
    ("state", "desired", "ready"),
    [
        (TaskState.STARTING, TaskState.RUNNING, False),
        (TaskState.RUNNING, TaskState.RUNNING, True),
        (TaskState.RUNNING, TaskState.SHUTDOWN, False),
        (TaskState.RUNNING, TaskState.REMOVE, False),
    ],
)
def test_a_task_has_its_address_while_it_may_run_and_its_name_while_it_shall(
    state: TaskState, desired: TaskState, ready: bool
) -> None:
    network = a_network()
    task = a_task("n1", networks=[(network, 5)], desired=desired)
    task = msgspec.structs.replace(task, status=TaskStatus(state=state))
    view: Any = SimpleNamespace(
        nodes={"n1": Node(id="n1", underlay_addr="192.0.2.1")},
        networks={network.id: network},
        services={},
        tasks=SimpleNamespace(by_node=lambda _: [task]),
    )
    (endpoint,) = overlay_state(view).endpoints.values()
    assert (endpoint.addr, endpoint.ready) == ("10.77.1.5", ready)
