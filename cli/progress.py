"""Watching a service converge, in docker's words.

On a terminal the lines stand still and change; otherwise each change is a line of its own.
"""

import math
import sys
import time
from typing import Any

from pyswarm.cli.client import Client
from pyswarm.cli.errors import CliError, DaemonError
from pyswarm.common.text import escaped

_POLL_S = 0.2
_MONITOR_S = 5.0
#: Beyond this many tasks only the sum is shown.
_MAX_TASK_LINES = 20
_ERROR_CHARS = 100
_ORDER = (
    "new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running", "complete",
    "shutdown", "failed", "rejected",
)  # fmt: skip
_RUNNING = _ORDER.index("running")
_BAR_CHARS = 50


class Display:
    """Named lines, in the order in which they first appeared."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self.is_terminal = sys.stdout.isatty()
        self._lines: dict[str, str] = {}

    def set(self, key: str, text: str) -> None:
        """Show ``key: text`` in place of what ``key`` said before."""
        text = escaped(text)
        if self._quiet or self._lines.get(key) == text:
            return
        new = key not in self._lines
        self._lines[key] = text
        if not self.is_terminal:
            if text.strip():
                print(f"{key}: {text}", flush=True)
        elif new:
            print(f"{key}: {text}", flush=True)
        else:
            up = len(self._lines) - list(self._lines).index(key)
            # Up to the line, erase it, write, and back down.
            print(f"\x1b[{up}A\r\x1b[2K{key}: {text}\x1b[{up}B\r", end="", flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            print(escaped(text, keep="\n"), flush=True)


def wait_converged(client: Client, service_id: str, quiet: bool = False) -> bool:
    """Return once every wanted task of the current spec has run for the monitor period.

    An interrupt leaves the service converging by itself and ends the wait, as docker does; False then.
    """
    display = Display(quiet)
    try:
        _watch(client, service_id, display)
    except KeyboardInterrupt:
        display.say("Operation continuing in background.")
        display.say(f"Use `pyswarm service ps {service_id}` to check progress.")
        return False
    return True


def _watch(client: Client, service_id: str, display: Display) -> None:
    slots: dict[int, int] = {}
    since = 0.0
    done = False
    while True:
        try:
            service = client.one("services", service_id)
        except DaemonError as exc:
            if exc.status == 404:
                raise CliError("the service was removed while it was being waited for") from exc
            raise
        if _update_ended(service, done):
            return
        monitor_s = ((service["Spec"].get("UpdateConfig") or {}).get("Monitor") or 0) / 10**9 or _MONITOR_S
        now = time.monotonic()
        if done and now - since >= monitor_s:
            display.set("verify", "Service converged")
            return
        tasks = client.listed("tasks", {"service": [service_id], "_up-to-date": ["true"]})
        active = {n["ID"] for n in client.listed("nodes") if n["Status"]["State"] != "down"}
        if _show(service, tasks, active, slots, display):
            if not done:
                done, since = True, now
            wait_s = math.ceil(monitor_s - (now - since))
            display.set("verify", f"Waiting {wait_s} seconds to verify that tasks are stable...")
        elif done:
            done = False
            display.set("verify", "Detected task failure")
        time.sleep(_POLL_S)


def _update_ended(service: Any, converged: bool) -> bool:
    """Whether a rolling update is over; a paused one is an error."""
    status = service.get("UpdateStatus") or {}
    state, message = status.get("State", ""), status.get("Message", "")
    if state == "paused":
        raise CliError(f"service update paused: {message}")
    if state == "rollback_paused":
        raise CliError(f"service rollback paused: {message}")
    return state == "completed" and not converged


def _show(service: Any, tasks: list[Any], active: set[str], slots: dict[int, int], display: Display) -> bool:
    """Show how far the tasks are; True when all that are wanted run."""
    wanted = service["Spec"]["Mode"]["Replicated"]["Replicas"]
    current = _by_slot(tasks, active)
    errors = _last_errors(tasks)
    running = sum(
        1 for t in current.values() if t["Status"]["State"] == "running" and _rank(t["DesiredState"]) <= _RUNNING
    )
    display.set("overall progress", f"{running} out of {wanted} tasks")
    if wanted > _MAX_TASK_LINES:
        _show_commonest_error(current, errors, display)
    else:
        for number in range(1, wanted + 1):
            if number not in slots.values() and not slots:
                display.set(f"{number}/{wanted}", " ")
        for slot in sorted(current):
            number = slots.setdefault(slot, len(slots) + 1)
            if number <= wanted:
                text = _task_text(current[slot], errors.get(slot, ""), display)
                if text:
                    display.set(f"{number}/{wanted}", text)
    return running == int(wanted)


def _show_commonest_error(current: dict[int, Any], errors: dict[int, str], display: Display) -> None:
    """One line for what keeps most tasks of a large service from running."""
    waiting = [
        task["Status"].get("Err") or errors.get(slot, "")
        for slot, task in current.items()
        if task["Status"]["State"] != "running"
    ]
    reasons = [_one_line(error) for error in waiting if error]
    if reasons:
        reason = max(sorted(set(reasons)), key=reasons.count)
        display.set("waiting", f"{reasons.count(reason)} tasks: {reason}")


def _one_line(error: str) -> str:
    text = error.replace("\n", " ")
    return text if len(text) <= _ERROR_CHARS else text[: _ERROR_CHARS - 1] + "…"


def _by_slot(tasks: list[Any], active: set[str]) -> dict[int, Any]:
    """The task that counts in each slot: the one wanted to run, and of two such the one further behind."""
    chosen: dict[int, Any] = {}
    for task in tasks:
        desired, state = _rank(task["DesiredState"]), _rank(task["Status"]["State"])
        if desired < 0 or state < 0:
            continue
        known = chosen.get(task.get("Slot", 0))
        if known is not None:
            other = (_rank(known["DesiredState"]), _rank(known["Status"]["State"]))
            if other[0] < desired or (other[0] == desired and other[1] <= state):
                continue
        if task.get("NodeID") and task["NodeID"] not in active:
            continue
        chosen[task.get("Slot", 0)] = task
    return chosen


def _last_errors(tasks: list[Any]) -> dict[int, str]:
    """By slot, why the newest of its tasks that ended did so."""
    ended = [t for t in tasks if t["Status"]["State"] in ("failed", "rejected")]
    ended.sort(key=lambda t: (t.get("CreatedAt", ""), t["ID"]))
    return {t.get("Slot", 0): str(t["Status"].get("Err", "")) for t in ended}


def _rank(state: str) -> int:
    return _ORDER.index(state) if state in _ORDER else -1


def _task_text(task: Any, last_error: str, display: Display) -> str:
    """The task's state, or what keeps it from running: its own error, else that of the attempt before it."""
    status = task["Status"]
    error = status.get("Err") or (last_error if status["State"] != "running" else "")
    if error:
        return _one_line(str(error))
    if _rank(task["DesiredState"]) > _RUNNING or _rank(status["State"]) > _RUNNING:
        return ""
    if not display.is_terminal:
        return str(status["State"])
    filled = (_rank(status["State"]) + 1) * _BAR_CHARS // (_RUNNING + 1)
    head = ">" if filled < _BAR_CHARS else ""
    bar = ("=" * filled + head).ljust(_BAR_CHARS)[:_BAR_CHARS]
    return f"{status['State']:<9} [{bar}]"
