"""What the resolver tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class DnsMetrics:
    """The resolver's metrics on one registry; on a private one if none is given."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self.queries = Counter(
            "pyswarm_dns_queries_total", "Packets that asked something.", ["transport"], registry=registry
        )
        self.answers = Counter("pyswarm_dns_answers_total", "Answers given.", ["rcode"], registry=registry)
        self.forwarded = Counter(
            "pyswarm_dns_forwarded_total", "Questions passed on to the host's name servers.", registry=registry
        )
        self.unanswered = Counter(
            "pyswarm_dns_unanswered_total", "Questions no name server of the host answered.", registry=registry
        )
        self.held = Counter(
            "pyswarm_dns_held_total", "Questions that waited until it was known who asks.", registry=registry
        )
        self.refused = Counter(
            "pyswarm_dns_refused_total", "Questions turned down since too many were open.", registry=registry
        )
        self.malformed = Counter(
            "pyswarm_dns_malformed_total", "Packets that were no question.", registry=registry
        )
        self.up = Gauge("pyswarm_dns_up", "Whether the resolver listens.", registry=registry)
