"""The swarm's certificate authority: the root, and the certificates of nodes."""

from pyswarm.manager.ca.authority import create_root, sign_node_certificate

__all__ = ["create_root", "sign_node_certificate"]
