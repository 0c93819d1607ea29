"""The cluster's state: a replicated store of immutable objects."""

from pyswarm.manager.state.entry import Stored
from pyswarm.manager.state.event import Event
from pyswarm.manager.state.loop import StoreLoop
from pyswarm.manager.state.machine import StateDamaged
from pyswarm.manager.state.store import ChangeTooLarge, Store
from pyswarm.manager.state.tables import Table, TaskTable
from pyswarm.manager.state.transaction import MAX_CHANGES, Transaction
from pyswarm.manager.state.view import View
from pyswarm.manager.state.watch import ResyncRequired, Watch

__all__ = [
    "MAX_CHANGES", "ChangeTooLarge", "Event", "ResyncRequired", "StateDamaged", "Store",
    "StoreLoop", "Stored", "Table", "TaskTable", "Transaction", "View", "Watch",
]  # fmt: skip
