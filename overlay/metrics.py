"""What the overlay tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


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
        self.reconcile_seconds = Histogram(
            "pyswarm_overlay_reconcile_seconds",
            "Time to compare the kernel with the desired state and to close the gap.",
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=registry,
        )
