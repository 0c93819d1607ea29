"""Whose logs are read: the tasks of a service, or one task, as the store has them, and the nodes to ask."""

from collections.abc import Callable
from datetime import timedelta

from pyswarm.common.errors import InvalidArgument, NotFound
from pyswarm.common.logframes import Cursor
from pyswarm.common.types import EPOCH, Node, NodeState, Task, TaskState
from pyswarm.manager.logs.nodefeed import NodeFeed, OrderedTask, State
from pyswarm.manager.logs.notice import incomplete
from pyswarm.manager.state import View
from pyswarm.proto.logs import cursor_of
from pyswarm.proto.v1 import logs_pb2 as pb


class LogTarget:
    """``sync`` it with the store as it changes. Each node that has, or had, a task has a feed.

    ``began_ns`` is when the reader began; tasks made later, before or after its stream broke, are read as a whole.
    ``changed`` is called when a feed may have something for the reader, ``notify`` with the id of a node for which
    there is an order. Raises NotFound when the store has no such service or task.
    """

    def __init__(
        self,
        request: pb.ReadLogsRequest,
        view: View,
        *,
        began_ns: int,
        changed: Callable[[], None],
        notify: Callable[[str], None],
    ) -> None:
        self.feeds: dict[str, NodeFeed] = {}
        #: Nothing can come any more but what the feeds still have to give.
        self.is_gone = False
        self._service_id = request.service_id
        self._task_id = request.task_id
        self._options = request.options
        self._began = EPOCH + timedelta(microseconds=began_ns / 1000)
        self._changed = changed
        self._notify = notify
        self._positions = {position.task_id: cursor_of(position) for position in request.positions}
        self._node_of: dict[str, str] = {}
        self._unplaced: set[str] = set()
        self._resumed = request.began_ns > 0
        self._synced = False
        self._require(view)
        self._sync_tasks(view)
        self._sync_nodes(view)
        self._synced = True

    def _require(self, view: View) -> None:
        if bool(self._service_id) == bool(self._task_id):
            raise InvalidArgument("logs are those of a service or of a task")
        if self._service_id and self._service_id not in view.services:
            raise NotFound(f"service {self._service_id} not found")
        if self._task_id and self._task_id not in view.tasks:
            raise NotFound(f"task {self._task_id} not found")

    def concerns(self, obj: object) -> bool:
        """Whether a change of the object may change what is read."""
        if isinstance(obj, Task):
            return obj.id == self._task_id or (bool(self._service_id) and obj.service_id == self._service_id)
        if isinstance(obj, Node):
            return obj.id in self.feeds
        return getattr(obj, "id", "") == self._service_id

    def sync(self, view: View) -> None:
        """Compare with the store: new tasks are asked for, ended ones need not be waited for."""
        if self._options.follow:
            self._sync_tasks(view)
        self._sync_nodes(view)

    def _sync_tasks(self, view: View) -> None:
        task = view.tasks.get(self._task_id)
        found = view.tasks.by_service(self._service_id) if self._service_id else [task] if task else []
        for task in found:
            if task.id not in self._node_of:
                self._place(task, view)
            elif task.status.state.ended:
                self.feeds[self._node_of[task.id]].end(task.id, gone=False)
        ids = {task.id for task in found}
        self._unplaced &= ids
        for task_id in self._node_of.keys() - ids:
            self.feeds[self._node_of[task_id]].end(task_id, gone=True)
        ended = all(task.status.state.ended for task in found)
        self.is_gone = ended and (self._service_id == "" or self._service_id not in view.services)

    def _place(self, task: Task, view: View) -> None:
        if not task.node_id or task.status.state.rank < TaskState.ASSIGNED.rank:
            self._unplaced.add(task.id)
            return
        self._unplaced.discard(task.id)
        if task.node_id not in view.nodes:
            return  # with its node, everything that it said left the cluster
        feed = self.feeds.get(task.node_id)
        if feed is None:
            feed = self.feeds[task.node_id] = NodeFeed(
                task.node_id, self._options, changed=self._changed, notify=self._notify
            )
        self._node_of[task.id] = task.node_id
        cursor = self._positions.pop(task.id, None) or Cursor()
        whole = self._synced or (self._resumed and task.created_at > self._began)
        feed.order(OrderedTask(task, whole, cursor, ended=task.status.state.ended))

    def _sync_nodes(self, view: View) -> None:
        for feed in self.feeds.values():
            node = view.nodes.get(feed.node_id)
            if node is None:
                feed.close()
            elif node.status.state is NodeState.DOWN:
                feed.give_up()

    def node_of(self, task_id: str) -> str:
        """Where the task is."""
        return self._node_of[task_id]

    def service_of(self, task_id: str) -> str:
        """The service it belongs to."""
        return self.feeds[self._node_of[task_id]].tasks[task_id].task.service_id

    def forget_gone(self) -> list[str]:
        """Drop the tasks that the store has forgotten and that have nothing more to say."""
        gone = [task_id for feed in self.feeds.values() for task_id in feed.forget_gone()]
        for task_id in gone:
            del self._node_of[task_id]
        return gone

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing more comes."""
        feeds = self.feeds.values()
        if not self._options.follow:
            return all(feed.is_exhausted for feed in feeds)
        return self.is_gone and all(feed.is_exhausted or feed.has_given_all for feed in feeds)

    def notice(self, view: View) -> str:
        """What is missing, and why; empty when nothing is."""
        absent = [feed.node_id for feed in self.feeds.values() if feed.state is State.ABSENT]
        failures = {task_id: text for feed in self.feeds.values() for task_id, text in feed.failures.items()}
        return incomplete(view, absent, failures, self._unplaced if self._task_id else ())
