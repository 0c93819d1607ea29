"""What the overlay says when it cannot do what was asked."""

from typing import ClassVar

from pyswarm.common.errors import PyswarmError


class OverlayError(PyswarmError):
    """The kernel refused, or something the data plane stands on is missing. Trying again later may work."""

    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "overlay"
    retryable: ClassVar[bool] = True
