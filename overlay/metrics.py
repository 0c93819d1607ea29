"""What the overlay tells Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pyswarm.overlay.mesh.objects import Publication

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class OverlayMetrics:
    """The overlay's metrics on one registry; on a private one if none is given."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self.networks = Gauge(
            "pyswarm_overlay_networks", "Cluster networks this host takes part in.", registry=registry
        )
        self.fdb_entries = Gauge(
            "pyswarm_overlay_fdb_entries", "MACs of containers on other hosts, in place.", registry=registry
        )
        self.neighbours = Gauge(
            "pyswarm_overlay_neighbours", "Addresses of containers on other hosts, in place.", registry=registry
        )
        self.repairs = Counter(
            "pyswarm_overlay_repairs_total", "Changes by another hand that were undone.", registry=registry
        )
        self.failures = Counter(
            "pyswarm_overlay_failures_total", "Reconciles of a network that did not succeed.", registry=registry
        )
        self._published = Gauge(
            "pyswarm_mesh_published_ports", "Published ports, in place on this host.", registry=registry
        )
        self._backends = Gauge(
            "pyswarm_mesh_backends",
            "Tasks that published ports lead to, once per port.",
            registry=registry,
        )
        self._mesh_seconds = Histogram(
            "pyswarm_mesh_reconcile_seconds",
            "Time to compare published ports with the desired state and to close the gap.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.reconcile_seconds = Histogram(
            "pyswarm_overlay_reconcile_seconds",
            "Time to compare the kernel with the desired state and to close the gap.",
            buckets=_SECONDS,
            registry=registry,
        )

    def mesh(self, publications: Sequence[Publication], took_s: float) -> None:
        """A pass over published ports is done."""
        self._published.set(len(publications))
        self._backends.set(sum(len(p.ready) for p in publications))
        self._mesh_seconds.observe(took_s)
