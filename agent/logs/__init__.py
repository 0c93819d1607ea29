"""This node's part of ``service logs``: what the leader orders is read from the engine and sent to it."""

from pyswarm.agent.logs.feed import LogFeed

__all__ = ["LogFeed"]
