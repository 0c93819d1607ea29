"""Each host's number in the routing mesh, from which its address and MAC there follow. Pure."""

from pyswarm.manager.state.view import View
from pyswarm.overlay.registry.model import MAX_MESH_INDEX


def free_mesh_index(view: View) -> int:
    """The smallest number no node has; 0, which is none, when all are given out."""
    used = {node.mesh_index for node in view.nodes.values()}
    return next((number for number in range(1, MAX_MESH_INDEX + 1) if number not in used), 0)
