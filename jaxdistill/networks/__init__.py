"""The Flax network of every expert and student, and the one table that names them."""

from jaxdistill.networks.applying import count, forward, forward_with_values, init
from jaxdistill.networks.cells import CELLS, Carry, Core
from jaxdistill.networks.convolutions import (
    ACTIVATIONS,
    ConvLayer,
    Convolutions,
    describe_convolutions,
    grid,
    parse_convolutions,
    plain_convolutions,
)
from jaxdistill.networks.derived import (
    first_dense,
    for_one_game,
    for_some_games,
    for_tasks,
    may_take_torso,
    side_by_side,
    task_vectors,
    torso,
    with_outputs,
    with_torso,
)
from jaxdistill.networks.descriptions import from_dict, same_architecture, to_dict
from jaxdistill.networks.network import (
    HEADS,
    NATURE_CONVS,
    Atoms,
    Network,
    Params,
    Stream,
    initial_carry,
    only_of_experts,
)
from jaxdistill.networks.recurrent import advance, forget, unroll
from jaxdistill.networks.table import COMPUTE_DTYPES, NETWORKS, create

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "COMPUTE_DTYPES",
    "HEADS",
    "NATURE_CONVS",
    "NETWORKS",
    "Atoms",
    "Carry",
    "ConvLayer",
    "Convolutions",
    "Core",
    "Network",
    "Params",
    "Stream",
    "advance",
    "count",
    "create",
    "describe_convolutions",
    "first_dense",
    "for_one_game",
    "for_some_games",
    "for_tasks",
    "forget",
    "forward",
    "forward_with_values",
    "from_dict",
    "grid",
    "init",
    "initial_carry",
    "may_take_torso",
    "only_of_experts",
    "parse_convolutions",
    "plain_convolutions",
    "same_architecture",
    "side_by_side",
    "task_vectors",
    "to_dict",
    "torso",
    "unroll",
    "with_outputs",
    "with_torso",
]
