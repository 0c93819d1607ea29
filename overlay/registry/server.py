"""How an etcd member is started: the command line for Debian's etcd 3.4. Pure.

What was tried with 3.4.23 and decides the TLS options:

- A member dials its peers at ``https://IP:2380`` and checks the answering certificate against that IP: every
  manager's certificate needs its advertise address as an IP SAN. There is no option to expect another name.
- ``--peer-cert-allowed-hostname`` then also demands the manager's DNS name, of whoever dials and whoever answers:
  any other certificate of the CA is refused on the peer port.
- Without ``--experimental-peer-skip-client-san-verification`` a member refuses peers whose source address is not
  in their certificate; a host with several addresses dials from whichever its routes choose.
- etcd's HTTP gateway calls gRPC with the *server's* certificate; it is switched off, lest a worker's request
  travel under a manager's name.
"""

import msgspec

CLIENT_PORT = 2379
PEER_PORT = 2380
BINARY = "etcd"
#: How large etcd lets its data become before it refuses writes.
QUOTA_BYTES = 512 * 1024 * 1024


class EtcdTLSFiles(msgspec.Struct, frozen=True):
    """The node's certificate files. etcd reads them again at each handshake, so a renewal needs no restart."""

    ca: str
    cert: str
    key: str


class EtcdServerConfig(msgspec.Struct, frozen=True):
    """One member of the cluster's own etcd."""

    node_id: str
    ip: str
    data_dir: str
    tls: EtcdTLSFiles
    manager_name: str
    """The DNS SAN that only managers' certificates carry."""
    initial_cluster: str
    state: str
    """``new`` or ``existing``; like ``initial_cluster`` and ``token`` only read while the data folder is empty."""
    token: str
    sealed: bool = False
    """Let only managers' certificates in, until authentication is on."""
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT


def host_port(ip: str, port: int) -> str:
    """``IP:PORT``, with brackets where the address needs them."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def url_of(ip: str, port: int) -> str:
    """``https://IP:PORT``."""
    return f"https://{host_port(ip, port)}"


def etcd_argv(config: EtcdServerConfig) -> list[str]:
    """The command line, in which the kernel kills etcd when the process that started it is gone.

    ``--unsafe-no-fsync`` is not used although the data could be filled in again: after a power cut a member could
    come back without entries that it had acknowledged, outvote the one that has them, and the leader, which writes
    only differences, would never know. A *lost* etcd is noticed and refilled; a forgetful one is not.
    """
    client_url = url_of(config.ip, config.client_port)
    peer_url = url_of(config.ip, config.peer_port)
    tls = config.tls
    argv = [
        *("setpriv", "--pdeathsig", "KILL", "--", BINARY),
        f"--name={config.node_id}",
        f"--data-dir={config.data_dir}",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster={config.initial_cluster}",
        f"--initial-cluster-state={config.state}",
        f"--initial-cluster-token={config.token}",
        "--client-cert-auth=true",
        f"--trusted-ca-file={tls.ca}",
        f"--cert-file={tls.cert}",
        f"--key-file={tls.key}",
        "--peer-client-cert-auth=true",
        f"--peer-trusted-ca-file={tls.ca}",
        f"--peer-cert-file={tls.cert}",
        f"--peer-key-file={tls.key}",
        f"--peer-cert-allowed-hostname={config.manager_name}",
        "--experimental-peer-skip-client-san-verification=true",
        "--enable-v2=false",
        "--enable-grpc-gateway=false",
        # A lone member waits up to twice the election timeout at each start, so it is not made longer for the
        # sake of busy machines; there, pre-vote keeps a member that was stalled from deposing a good leader.
        "--heartbeat-interval=100",
        "--election-timeout=1000",
        "--pre-vote=true",
        # History only serves watchers that resume; one that is further behind lists. The default number of raft
        # entries kept in memory (100,000 transactions of up to 100 entries) would be hundreds of megabytes.
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=5000",
        "--snapshot-count=2000",
        "--max-snapshots=2",
        "--max-wals=2",
        f"--quota-backend-bytes={QUOTA_BYTES}",
        "--max-txn-ops=128",
        "--grpc-keepalive-min-time=3s",
        "--grpc-keepalive-interval=10s",
        "--grpc-keepalive-timeout=5s",
        "--metrics=basic",
        "--logger=zap",
        "--log-outputs=stderr",
        "--log-level=warn",
    ]
    if config.sealed:
        argv.append(f"--client-cert-allowed-hostname={config.manager_name}")
    return argv
