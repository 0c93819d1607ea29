"""Gives networks their subnets and VNIs, and tasks their addresses."""

from pyswarm.manager.allocator.allocator import Allocator

__all__ = ["Allocator"]
