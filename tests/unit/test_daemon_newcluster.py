"""What may be given with --force-new-cluster: the stock client's defaults, and nothing of a new swarm."""

import pytest

from pyswarm.common.errors import InvalidArgument
from pyswarm.common.nodecontrol import InitOptions
from pyswarm.daemon.newcluster import rescued_membership
from pyswarm.daemon.state import Membership

BEFORE = Membership(
    node_id="n1",
    cluster_id="c1",
    role="manager",
    advertise_addr="192.0.2.1",
    listen_addr="0.0.0.0:2377",
    managers=("192.0.2.2:2377", "192.0.2.3:2377"),
)


def test_the_stock_clients_defaults_are_no_options() -> None:
    given = InitOptions(force_new_cluster=True, subnet_size=24, availability="active")
    assert rescued_membership(BEFORE, given).managers == ("192.0.2.1:2377",)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (InitOptions(subnet_size=26), "--default-addr-pool-mask-length"),
        (InitOptions(default_addr_pool=("10.9.0.0/16",)), "--default-addr-pool"),
        (InitOptions(availability="drain"), "--availability"),
        (InitOptions(data_path_port=4790), "--data-path-port"),
    ],
)
def test_options_of_a_new_swarm_are_refused_by_name(given: InitOptions, option: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{option} cannot be given with --force-new-cluster"):
        rescued_membership(BEFORE, given)
