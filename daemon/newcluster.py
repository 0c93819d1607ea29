"""A cluster that does not exist yet: its ids, its CA, its tokens, its first node."""

import socket

import msgspec

from pyswarm.common.csr import new_key_and_request
from pyswarm.common.errors import InvalidArgument
from pyswarm.common.ids import new_id
from pyswarm.common.jointoken import new_join_token
from pyswarm.common.nodecontrol import InitOptions
from pyswarm.common.tls import TLSIdentity
from pyswarm.common.types import (
    Cluster,
    JoinTokens,
    ManagerStatus,
    Node,
    NodeAvailability,
    NodeDescription,
    NodeRole,
    NodeSpec,
    NodeStatus,
)
from pyswarm.daemon.addresses import check_listen_addr, choose_advertise_addr, host_addresses
from pyswarm.daemon.preflight import check_local_address
from pyswarm.daemon.state import Membership
from pyswarm.manager.bootstrap import Bootstrap
from pyswarm.manager.ca import create_root, sign_node_certificate

#: The stock client sends its defaults whether or not anybody gave them.
DOCKERS_SUBNET_SIZE = 24


def rescued_membership(membership: Membership, options: InitOptions) -> Membership:
    """What a manager is after ``--force-new-cluster``; raises InvalidArgument for a new swarm's options."""
    for name, given in (
        ("--default-addr-pool", options.default_addr_pool),
        ("--default-addr-pool-mask-length", options.subnet_size not in (0, DOCKERS_SUBNET_SIZE)),
        ("--availability", options.availability not in ("", NodeAvailability.ACTIVE.value)),
        ("--data-path-port", options.data_path_port),
        ("--etcd-endpoints", options.etcd_endpoints),
    ):
        if given:
            raise InvalidArgument(f"{name} cannot be given with --force-new-cluster: the swarm keeps its own")
    addr, listen = membership.advertise_addr, membership.listen_addr
    if options.advertise_addr:
        addr = choose_advertise_addr(options.advertise_addr, host_addresses())
        check_local_address(addr, "--advertise-addr")
    if options.listen_addr != InitOptions().listen_addr:
        listen = check_listen_addr(options.listen_addr)
        check_local_address(listen.rpartition(":")[0], "--listen-addr")
    moved = msgspec.structs.replace(membership, advertise_addr=addr, listen_addr=listen)
    return msgspec.structs.replace(moved, managers=(moved.manager_addr,))


def new_cluster(
    addr: str,
    listen: str,
    availability: NodeAvailability,
    pools: tuple[str, ...],
    subnet_size: int,
    data_path_port: int,
    options: InitOptions,
) -> tuple[Membership, TLSIdentity, Bootstrap]:
    """The first node's membership and certificate, and what its manager puts into the store; writes nothing."""
    cluster_id, node_id = new_id(), new_id()
    root_pem, root_key = create_root(cluster_id)
    key_pem, csr_pem = new_key_and_request()
    certificate = sign_node_certificate(
        root_cert_pem=root_pem,
        root_key_pem=root_key,
        csr_pem=csr_pem,
        node_id=node_id,
        role="manager",
        cluster_id=cluster_id,
        life_s=options.spec.node_cert_expiry_ns / 1e9,
        addr=addr,
    )
    membership = Membership(
        node_id=node_id,
        cluster_id=cluster_id,
        role="manager",
        advertise_addr=addr,
        listen_addr=listen,
        managers=(f"{addr}:2377",),
        data_path_port=data_path_port,
    )
    cluster = Cluster(
        id=cluster_id,
        spec=options.spec,
        join_tokens=JoinTokens(worker=new_join_token(root_pem), manager=new_join_token(root_pem)),
        root_ca_cert=root_pem,
        root_ca_key=root_key,
        default_addr_pool=pools,
        subnet_size=subnet_size,
        data_path_port=data_path_port,
        etcd_endpoints=options.etcd_endpoints,
    )
    node = Node(
        id=node_id,
        spec=NodeSpec(role=NodeRole.MANAGER, availability=availability),
        description=NodeDescription(hostname=socket.gethostname()),
        status=NodeStatus(addr=addr),
        manager_status=ManagerStatus(addr=f"{addr}:2377"),
        underlay_addr=addr,
    )
    return membership, TLSIdentity(root_pem, certificate, key_pem), Bootstrap(cluster=cluster, node=node)
