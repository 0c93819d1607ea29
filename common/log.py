"""Structured logs: for people on a terminal, JSON lines everywhere else."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, cast

import structlog


def configure_logging(component: str, level: str = "info") -> None:
    """Set up logging of this process. ``component`` stands in every line."""

    # Not a context variable: those do not reach other threads, nor callbacks that start there.
    def name_component(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["component"] = component
        return event

    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            name_component,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; only what may need a person's hand passes.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry ``source=name``."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(source=name))
