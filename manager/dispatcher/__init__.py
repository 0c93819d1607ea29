"""The leader's side of the contract with agents: sessions, liveness, assignments, status reports."""

from pyswarm.manager.dispatcher.dispatcher import Dispatcher
from pyswarm.manager.dispatcher.servicer import DispatcherServicer

__all__ = ["Dispatcher", "DispatcherServicer"]
