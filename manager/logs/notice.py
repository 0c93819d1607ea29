"""What is said at the end of a log of which not everything could be had. Pure."""

from collections.abc import Iterable, Mapping

from pyswarm.manager.state import View

MAX_REASONS = 20


def incomplete(view: View, absent: Iterable[str], failures: Mapping[str, str], unplaced: Iterable[str]) -> str:
    """One line in Docker's words; empty when nothing is missing. ``failures`` are by task."""
    reasons = [f"node {_hostname(view, node_id)} is not available" for node_id in sorted(absent)]
    reasons += [f"task {_name(view, task_id)}: {text}" for task_id, text in sorted(failures.items())]
    reasons += [f"task {task_id} has not been scheduled" for task_id in sorted(unplaced)]
    if not reasons:
        return ""
    shown = reasons[:MAX_REASONS]
    if len(reasons) > MAX_REASONS:
        shown.append(f"and {len(reasons) - MAX_REASONS} more")
    return (
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
        + ", ".join(shown)
    )


def _hostname(view: View, node_id: str) -> str:
    node = view.nodes.get(node_id)
    return (node.description.hostname if node is not None else "") or node_id


def _name(view: View, task_id: str) -> str:
    task = view.tasks.get(task_id)
    return task.container_name if task is not None else task_id
