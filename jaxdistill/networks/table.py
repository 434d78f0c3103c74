"""The one table that names networks."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdistill.networks.convolutions import ConvLayer
from jaxdistill.networks.network import NATURE_CONVS, Network, Stream

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _dueling(
    convs: tuple[ConvLayer, ...], width: int, *, layer_norm: bool = False, task_embedding: int = 0
) -> Network:
    return Network(
        convs=convs,
        head="dueling",
        action_hidden=(width,),
        value_hidden=(width,),
        layer_norm=layer_norm,
        task_embedding=task_embedding,
    )


def _multi_task(convs: tuple[ConvLayer, ...], width: int, *, layer_norm: bool = False) -> Network:
    return Network(
        convs=convs, hidden=(width,), action_hidden=(128,), controllers=True, layer_norm=layer_norm
    )


def _skills(*, bounded: bool, **fields: Any) -> Network:
    """Six keys (walking, jumping, sprinting), two angles (yaw, pitch) and a click."""
    keys, click = Stream(64, (0, 1, 2, 3, 4, 5)), Stream(16, (6,))
    look = Stream(32, (7, 8), bounded)
    return Network(
        convs=(), hidden=(256, 256, 128), streams=(keys, look, click), num_outputs=9, **fields
    )


def _apart(*widths: int) -> Network:
    """Policy and value without a layer in common."""
    return Network(
        convs=(),
        head="actor_critic",
        action_hidden=widths,
        value_hidden=widths,
        activation="tanh",
    )


_CONVS_2013 = (ConvLayer(16, 8, 4), ConvLayer(32, 4, 2))
_SMALL_CONVS = (ConvLayer(16, 8, 4), ConvLayer(32, 4, 2), ConvLayer(32, 3, 1))
_TINY_CONVS = (ConvLayer(16, 8, 4), ConvLayer(16, 4, 2), ConvLayer(16, 3, 1))
_WIDE_CONVS = (ConvLayer(64, 8, 4), ConvLayer(64, 4, 2), ConvLayer(64, 3, 1))

NETWORKS: dict[str, Network] = {
    # The default student and the reference experts: 3,300,019 parameters with 18 outputs.
    "dueling": _dueling(NATURE_CONVS, 512),
    "dueling_layer_norm": _dueling(NATURE_CONVS, 512, layer_norm=True),
    "dueling_small": _dueling(_SMALL_CONVS, 128),
    "dueling_small_layer_norm": _dueling(_SMALL_CONVS, 128, layer_norm=True),
    # The default student, told which game it sees.
    "dueling_task": _dueling(NATURE_CONVS, 512, task_embedding=32),
    # Mnih et al. 2015, also the teacher of Policy Distillation; Mnih et al. 2013.
    "nature": Network(convs=NATURE_CONVS, hidden=(512,)),
    "dqn2013": Network(convs=_CONVS_2013, hidden=(256,)),
    "nature_actor_critic": Network(convs=NATURE_CONVS, hidden=(512,), head="actor_critic"),
    # Rusu et al. 2015, compressed students.
    "net1": Network(convs=_SMALL_CONVS, hidden=(256,)),
    "net2": Network(convs=_TINY_CONVS, hidden=(128,)),
    "net3": Network(convs=_TINY_CONVS, hidden=(64,)),
    # Rusu et al. 2015, students of 3 and of 10 games.
    "multi_task": _multi_task(NATURE_CONVS, 512),
    "multi_task_layer_norm": _multi_task(NATURE_CONVS, 512, layer_norm=True),
    "multi_task_large": _multi_task(_WIDE_CONVS, 1500),
    # For a few numbers instead of a screen: a DQN that is told nothing of its task, one that learns
    # a vector for each, and one that is told a one-hot vector.
    "mlp": Network(convs=(), hidden=(256, 128)),
    "mlp_layer_norm": Network(convs=(), hidden=(256, 128), layer_norm=True),
    "mlp_task_embedding": Network(convs=(), hidden=(256, 128), task_embedding=8),
    "mlp_task_embedding_layer_norm": Network(
        convs=(), hidden=(256, 128), task_embedding=8, layer_norm=True
    ),
    "mlp_one_hot": Network(convs=(), hidden=(256, 128), one_hot=True),
    "mlp_one_hot_layer_norm": Network(convs=(), hidden=(256, 128), one_hot=True, layer_norm=True),
    # For keys and angles: the student of three skills, and one that goes on learning by PPO, whose
    # angles need no bound. Their experts: policies and values apart, as in Stable-Baselines3.
    "skills": _skills(bounded=True),
    "skills_actor_critic": _skills(bounded=False, head="actor_critic", value_hidden=(128, 64)),
    "mlp_actor_critic": _apart(128, 128),
    "mlp_actor_critic_small": _apart(64, 64),
    # Espeholt et al. 2018, the deep network, with a dueling head.
    "impala": Network(convs=(), residual=(16, 32, 32), hidden=(256,), head="dueling"),
}


def create(name: str, compute_dtype: str = "float32", **changes: Any) -> Network:
    """The network called `name` in `NETWORKS`, with fields replaced by `changes`.

    Args:
      compute_dtype: a key of `COMPUTE_DTYPES`, what its torso computes in.

    Raises:
      ValueError: no network or no dtype has that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    if compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(
            f"compute_dtype {compute_dtype!r} is not one of {', '.join(COMPUTE_DTYPES)}"
        )
    return NETWORKS[name].clone(dtype=COMPUTE_DTYPES[compute_dtype], **changes)
