"""Tests for who drives which environment while states are collected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import collection, games, mesh, networks
from jaxdistill.experts.expert import Expert
from jaxdistill.views import View

UP, DOWN, ENVS = 2, 5, 4
NETWORK = networks.Network(convs=(networks.ConvLayer(1, 8, 8),), hidden=())


def _always(action):
    """Parameters that prefer one of ALE's actions, whatever is seen."""
    params = networks.init(NETWORK, jax.random.key(0), View().shape)

    def only_bias(path, leaf):
        outputs = leaf.shape == (games.NUM_ACTIONS,)
        return jax.nn.one_hot(action, len(leaf)) if outputs else jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(only_bias, params)


def _drivers(*, change_drivers, share, calls=6):
    """Whether the expert drove, `(calls, ENVS)`."""
    game = games.get("freeway")
    expert = Expert(
        name="up",
        network=NETWORK,
        params=_always(UP),
        outputs="q",
        actions=tuple(range(games.NUM_ACTIONS)),
        game=game.name,
    )
    collector = collection.Collector(
        collection.Seating(
            games=[game],
            experts=[expert],
            views=[View()],
            seeds=[3],
            network=NETWORK,
            masks=jnp.asarray(game.mask)[None],
            num_envs=ENVS,
            expert_epsilon=0.0,
            student_epsilon=0.0,
            change_drivers=change_drivers,
            key=jax.random.key(0),
            mesh=mesh.create(jax.devices()[:1]),
        )
    )
    student = _always(DOWN)
    drove = []
    for _ in range(calls):
        chunk = collector.collect(3, student, share)
        assert set(np.unique(chunk.actions)) <= {UP, DOWN}
        assert (chunk.labels.argmax(-1) == UP).all(), "the expert labels whoever drives"
        assert (chunk.actions == chunk.actions[:, :1]).all(), "nobody changes within a call"
        drove.append(chunk.actions[0, 0] == UP)
    return np.stack(drove)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_the_experts_drive_the_first_environments(share, count):
    drove = _drivers(change_drivers=False, share=share, calls=2)
    np.testing.assert_array_equal(drove, [np.arange(ENVS) < count] * 2)


def test_drivers_change_between_calls_and_are_as_many():
    drove = _drivers(change_drivers=True, share=0.5, calls=12)
    assert (drove.sum(axis=1) == 2).all()
    assert drove.any(axis=0).all() and not drove.all(axis=0).any(), "each environment has had both"
    np.testing.assert_array_equal(drove, _drivers(change_drivers=True, share=0.5, calls=12))
