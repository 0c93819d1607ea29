"""Decides on which node each task runs."""

from pyswarm.manager.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
