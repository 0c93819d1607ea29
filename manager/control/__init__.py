"""What users do to the cluster: the service on every manager, and the client the gateway uses.

``ControlServicer`` is loaded when first asked for: the gateway imports ``control.client`` from this package and
must not carry the manager's store with it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyswarm.manager.control.servicer import ControlServicer

__all__ = ["ControlServicer"]


def __getattr__(name: str) -> Any:
    if name == "ControlServicer":
        from pyswarm.manager.control.servicer import ControlServicer

        return ControlServicer
    raise AttributeError(name)
