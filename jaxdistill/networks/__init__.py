"""The Flax network of every expert and student, and the one table that names them."""

from jaxdistill.networks.convolutions import ACTIVATIONS, ConvLayer
from jaxdistill.networks.network import (
    COMPUTE_DTYPES,
    HEADS,
    NATURE_CONVS,
    NETWORKS,
    Network,
    Params,
    count,
    create,
    first_dense,
    for_one_game,
    for_tasks,
    forward,
    forward_with_values,
    from_dict,
    init,
    task_vectors,
    to_dict,
)

__all__ = [
    "ACTIVATIONS",
    "COMPUTE_DTYPES",
    "HEADS",
    "NATURE_CONVS",
    "NETWORKS",
    "ConvLayer",
    "Network",
    "Params",
    "count",
    "create",
    "first_dense",
    "for_one_game",
    "for_tasks",
    "forward",
    "forward_with_values",
    "from_dict",
    "init",
    "task_vectors",
    "to_dict",
]
