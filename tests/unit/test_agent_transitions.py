"""The task's next step and status, decided purely."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm.agent.engine import ContainerInfo
from pyswarm.agent.transitions import (
    Action,
    Situation,
    entered,
    failed,
    finished,
    next_step,
    observed,
    stopped,
)
from pyswarm.common.types import TaskState, TaskStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S = TaskState
ENDED = [state for state in S if state.ended]
OBSERVABLE = [state for state in S if state is not S.REMOVE]


def situation(state: S, desired: S = S.RUNNING, **more: bool) -> Situation:
    return Situation(state=state, desired=desired, **{"allowed": True, **more})


def container(**state: object) -> ContainerInfo:
    return ContainerInfo(id="c" * 64, name="web.1.x", task_id="x", **state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "action", "to"),
    [
        (S.ASSIGNED, Action.MARK, S.ACCEPTED),
        (S.ACCEPTED, Action.MARK, S.PREPARING),
        (S.PREPARING, Action.PREPARE, None),
        (S.READY, Action.MARK, S.STARTING),
        (S.STARTING, Action.START, None),
        (S.RUNNING, Action.WAIT, None),
        (S.COMPLETE, Action.WAIT, None),
        (S.FAILED, Action.WAIT, None),
    ],
)
def test_a_wanted_task_goes_one_step_on(state: S, action: Action, to: S | None) -> None:
    step = next_step(situation(state))
    assert step.action is action
    assert to is None or step.state is to


def test_a_task_held_ready_is_prepared_but_not_started() -> None:
    assert next_step(situation(S.PREPARING, S.READY)).action is Action.PREPARE
    assert next_step(situation(S.READY, S.READY)).action is Action.WAIT


@pytest.mark.parametrize("state", [S.ASSIGNED, S.ACCEPTED, S.PREPARING, S.READY])
def test_an_unstarted_task_is_shut_down_without_the_engine(state: S) -> None:
    step = next_step(situation(state, S.SHUTDOWN))
    assert (step.action, step.state) == (Action.MARK, S.SHUTDOWN)


@pytest.mark.parametrize("state", [S.STARTING, S.RUNNING])
@pytest.mark.parametrize(("desired", "dropped"), [(S.SHUTDOWN, False), (S.REMOVE, False), (S.RUNNING, True)])
def test_a_started_task_is_stopped(state: S, desired: S, dropped: bool) -> None:
    assert next_step(situation(state, desired, dropped=dropped)).action is Action.STOP


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_tasks_container_stays_until_the_task_goes(state: S) -> None:
    assert next_step(situation(state, S.SHUTDOWN)).action is Action.WAIT
    assert next_step(situation(state, S.REMOVE)).action is Action.REMOVE
    assert next_step(situation(state, S.REMOVE, removed=True)).action is Action.WAIT
    assert next_step(situation(state, S.RUNNING, dropped=True)).action is Action.REMOVE
    assert next_step(situation(state, S.RUNNING, dropped=True, removed=True)).action is Action.FORGET


@given(st.sampled_from(S), st.sampled_from(S), st.booleans(), st.booleans())
def test_nothing_is_done_before_the_leader_has_spoken(state: S, desired: S, dropped: bool, removed: bool) -> None:
    blind = situation(state, desired, allowed=False, dropped=dropped, removed=removed)
    assert next_step(blind).action is Action.WAIT


def test_exit_codes_become_states() -> None:
    running = TaskStatus(state=S.RUNNING)
    done = finished(running, container(started=True), NOW)
    assert (done.state, done.err) == (S.COMPLETE, "")
    broken = finished(running, container(started=True, exit_code=3), NOW)
    assert (broken.state, broken.err) == (S.FAILED, "task: non-zero exit (3)")
    assert broken.container_status is not None
    assert broken.container_status.exit_code == 3
    starved = finished(running, container(started=True, exit_code=137, oom_killed=True), NOW)
    assert "memory" in starved.message


def test_a_failure_before_the_start_is_a_rejection() -> None:
    for state in S:
        status = failed(TaskStatus(state=state), "why", NOW)
        if state.ended:
            assert status.state is state
        else:
            assert status.state is (S.FAILED if state.rank >= S.STARTING.rank else S.REJECTED)
            assert status.err == "why"


def test_a_look_at_a_container() -> None:
    starting, running = TaskStatus(state=S.STARTING), TaskStatus(state=S.RUNNING)
    assert observed(starting, container(running=True, started=True), "n", NOW).state is S.RUNNING
    assert observed(starting, container(), "n", NOW) is starting
    assert observed(running, container(running=True, started=True), "n", NOW) is running
    assert observed(running, container(started=True, exit_code=1), "n", NOW).state is S.FAILED
    assert observed(running, None, "web.1.x", NOW).err == "No such container: web.1.x"
    ready = TaskStatus(state=S.READY)
    assert observed(ready, None, "n", NOW) is ready


_CONTAINERS = st.one_of(
    st.none(),
    st.builds(
        lambda running, started, code: container(running=running, started=started or running, exit_code=code),
        st.booleans(),
        st.booleans(),
        st.integers(0, 255),
    ),
)


@given(st.sampled_from(OBSERVABLE), _CONTAINERS, st.sampled_from(OBSERVABLE))
def test_no_status_ever_goes_back(state: S, found: ContainerInfo | None, target: S) -> None:
    status = TaskStatus(state=state)
    for after in (
        observed(status, found, "n", NOW),
        failed(status, "why", NOW),
        stopped(status, found, NOW),
        entered(status, target, NOW),
    ):
        assert after.state.rank >= state.rank
        assert not state.ended or after.state.rank >= state.rank


@given(
    st.sampled_from([state for state in S if not state.ended]),
    st.sampled_from([S.READY, S.RUNNING, S.SHUTDOWN, S.REMOVE]),
    st.booleans(),
)
def test_every_task_comes_to_rest(state: S, desired: S, dropped: bool) -> None:
    """Playing an engine that always succeeds, the steps reach one after which there is nothing to do."""
    status, removed = TaskStatus(state=state), False
    for _ in itertools.repeat(None, 10):
        step = next_step(situation(status.state, desired, dropped=dropped, removed=removed))
        match step.action:
            case Action.WAIT | Action.FORGET:
                assert (step.action is Action.FORGET) == dropped
                return
            case Action.MARK:
                status = entered(status, step.state, NOW)
            case Action.PREPARE:
                status = entered(status, S.READY, NOW)
            case Action.START:
                status = entered(status, S.RUNNING, NOW)
            case Action.STOP:
                status = stopped(status, None, NOW)
            case Action.REMOVE:
                removed = True
    pytest.fail("no rest after ten steps")
