"""What happens to the cluster's objects, as every manager sees it in its own store."""

from pyswarm.manager.events.feed import EventFeed
from pyswarm.manager.events.servicer import EventsServicer

__all__ = ["EventFeed", "EventsServicer"]
