"""What the tests of networks share: small networks of every kind, and what they are asked by."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import networks, tasks
from jaxdistill.networks import ConvLayer, Network, Stream

TINY = Network(convs=(ConvLayer(4, 8, 4), ConvLayer(4, 4, 2)), hidden=(16,), num_outputs=5)
TINY_INPUT = (3, 20, 20)
# Two games, of which the second has fewer actions; every way to know them.
ACTIONS = ((0, 1, 4), (3, 2))
CONTROLLERS = TINY.clone(controllers=True, action_hidden=(8,), game_actions=ACTIONS)
EMBEDDING = TINY.clone(
    head="dueling", hidden=(), value_hidden=(7,), task_embedding=2, game_actions=ACTIONS
)
BOTH = CONTROLLERS.clone(hidden=(), layer_norm=True, task_embedding=2)
ONE_HOT = TINY.clone(one_hot=True, game_actions=ACTIONS)
RESIDUAL = TINY.clone(convs=(), residual=(4,))
# Two streams whose outputs lie among each other's.
STREAMS = TINY.clone(streams=(Stream(8, (4, 0)), Stream(6, (2, 1, 3), bounded=True)))
KNOWING = {
    "controllers": CONTROLLERS,
    "embedding": EMBEDDING,
    "both": BOTH,
    "one_hot": ONE_HOT,
    "streams": STREAMS.clone(
        hidden=(), head="actor_critic", value_hidden=(7,), one_hot=True, game_actions=ACTIONS
    ),
}

LANDERS = [tasks.get(f"lander/{name}") for name in ("standard", "windy", "heavy")]


def fresh_params(network, shape):
    return jax.jit(lambda key: networks.init(network, key, shape))(jax.random.key(0))


def applied(network, params, x, method=None):
    return jax.jit(lambda p, x: network.apply(p, x, method=method))(params, x)


def values_of(network, params, x):
    features = applied(network, params, x, "features")
    return applied(network, params, features, "outputs_and_values")[1]


forward = jax.jit(networks.forward, static_argnums=0)


def random_params(network, shape):
    """Parameters that are all different, and large enough that every layer counts."""
    generator = np.random.default_rng(3)
    return jax.tree.map(
        lambda x: jnp.asarray(generator.normal(size=x.shape) * 0.2, jnp.float32),
        shapes_of(network, shape),
    )


def some_pixels(*shape):
    return jnp.asarray(np.random.default_rng(1).integers(0, 256, shape), jnp.uint8)


def shapes_of(network, observation_shape):
    key = jax.random.key(0)
    return jax.eval_shape(lambda: networks.init(network, key, observation_shape))
