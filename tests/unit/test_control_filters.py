"""What a filtered list looks at."""

from collections.abc import Iterable

import pytest

from pyswarm.common.errors import InvalidArgument, NotFound
from pyswarm.common.ids import new_id
from pyswarm.common.types import Node, NodeDescription, Service, ServiceSpec, Task, TaskState
from pyswarm.manager.control.filters import select
from pyswarm.manager.state.tables import LiveTaskTable
from pyswarm.manager.state.view import LiveView


class _NotToBeScanned(LiveTaskTable):
    """A hundred thousand tasks, for all a list of one service's may know."""

    def values(self) -> Iterable[Task]:
        raise AssertionError("every task was looked at")


TASKS = [
    Task(id=new_id(), service_id="s1", slot=1, node_id="n1"),
    Task(id=new_id(), service_id="s1", slot=2, node_id="n2", desired_state=TaskState.SHUTDOWN),
    Task(id=new_id(), service_id="s2", slot=1, node_id="n3"),
]


def view_of(tasks: LiveTaskTable) -> LiveView:
    view = LiveView()
    view.tasks = tasks
    for number, hostname in enumerate(("here", "here", "there"), start=1):
        view.nodes.put(Node(id=f"n{number}", description=NodeDescription(hostname=hostname)))
    for number in (1, 2):
        view.services.put(Service(id=f"s{number}", spec=ServiceSpec(name=f"web{number}")))
    for task in TASKS:
        tasks.put(task)
    return view


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"service": ["web1"]}, [0, 1]),
        ({"service": ["web1", "s1", "s2"]}, [0, 1, 2]),
        ({"service": ["web1"], "desired-state": ["shutdown"]}, [1]),
        ({"service": ["web1"], "node": ["there"]}, []),
        ({"node": ["here"]}, [0, 1]),
        ({"node": ["here", "n3"]}, [0, 1, 2]),
        ({"id": [TASKS[1].id, TASKS[1].id]}, [1]),
        ({"id": [TASKS[1].id, new_id()], "service": ["web2"]}, []),
    ],
)
def test_tasks_of_a_service_a_node_or_an_id_are_listed_without_looking_at_all(
    filters: dict[str, list[str]], expected: list[int]
) -> None:
    found = select(view_of(_NotToBeScanned()), "task", filters)
    assert sorted(t.id for t in found) == sorted(TASKS[i].id for i in expected)


def test_the_beginning_of_an_id_and_no_filter_at_all_look_at_every_task() -> None:
    view = view_of(LiveTaskTable())
    assert [t.id for t in select(view, "task", {"id": [TASKS[2].id[:20]]})] == [TASKS[2].id]
    assert {t.id for t in select(view, "task", {"service": []})} == {t.id for t in TASKS}


def test_what_is_wrong_with_a_filter_is_said_as_before() -> None:
    view = view_of(_NotToBeScanned())
    with pytest.raises(InvalidArgument, match="invalid filter 'colour'"):
        select(view, "task", {"colour": ["red"], "service": ["gone"]})
    with pytest.raises(NotFound, match="service gone not found"):
        select(view, "task", {"service": ["gone"]})
