"""Logs of services and tasks: the leader orders them from the nodes and gives them to whoever asks."""

from pyswarm.manager.logs.broker import LogBroker
from pyswarm.manager.logs.servicer import LogBrokerServicer, LogsServicer

__all__ = ["LogBroker", "LogBrokerServicer", "LogsServicer"]
