"""One host's overlay in a process of its own, which the tests start inside a network namespace.

Reads one JSON command a line and answers each with one line: ``{"ok": value}`` or ``{"error": text}``.
"""

import asyncio
import json
import sys
from typing import Any

import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from pyswarm.common.clock import SystemClock
from pyswarm.common.errors import PyswarmError
from pyswarm.common.log import configure_logging
from pyswarm.overlay.api import LocalNetwork, Overlay, remove_leftover_devices
from pyswarm.overlay.registry.model import EndpointEntry, NetworkEntry, NodeEntry, OverlayState, ServiceEntry


def _state(raw: dict[str, list[dict[str, Any]]]) -> OverlayState:
    endpoints = msgspec.convert(raw["endpoints"], list[EndpointEntry])
    return OverlayState(
        nodes={n.node_id: n for n in msgspec.convert(raw["nodes"], list[NodeEntry])},
        networks={n.network_id: n for n in msgspec.convert(raw["networks"], list[NetworkEntry])},
        endpoints={(e.network_id, e.endpoint_id): e for e in endpoints},
        services={s.service_id: s for s in msgspec.convert(raw.get("services", []), list[ServiceEntry])},
    )


async def _obey(overlay: Overlay, registry: CollectorRegistry, command: str, value: Any) -> Any:
    match command:
        case "update":
            overlay.update(_state(value))
        case "attach":
            await overlay.attach(msgspec.convert(value, LocalNetwork))
        case "detach":
            await overlay.detach(value)
        case "introduce":
            task_id, addr, egress_addr = value
            overlay.set_client(task_id, [addr], ["net1"], egress_addr=egress_addr)
        case "forget":
            overlay.forget_client(value)
        case "leave mesh":
            await overlay.leave_mesh()
        case "prune":
            await overlay.prune(value)
        case "leftovers":
            return await remove_leftover_devices()
        case "reconcile":
            await overlay.reconcile()
        case "mtu":
            return await overlay.underlay_mtu()
        case "metric":
            return registry.get_sample_value(value)
    return None


async def main(node_id: str, underlay_addr: str) -> None:
    """Serve until standard input ends."""
    registry = CollectorRegistry()
    # A resync far beyond the test's patience: repairs come from the kernel's own word.
    overlay = Overlay(
        node_id=node_id, underlay_addr=underlay_addr, clock=SystemClock(), registry=registry, resync_s=3600
    )
    await overlay.start()
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command, value = json.loads(line)
        try:
            answer = {"ok": await _obey(overlay, registry, command, value)}
        except PyswarmError as exc:
            answer = {"error": str(exc)}
        print(json.dumps(answer), flush=True)
    await overlay.stop()


if __name__ == "__main__":
    configure_logging("overlay-test")
    uvloop.run(main(sys.argv[1], sys.argv[2]))
