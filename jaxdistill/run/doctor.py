"""Whether everything that a run needs works on this machine; what a report of a bug should say."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import meshes, networks, tasks
from jaxdistill.learn import checkpoints, learner
from jaxdistill.text import one_line

LIBRARIES = (
    "jaxdistill",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorstore",
    "envpool",
    "numpy",
)
EXTRAS = {
    "gymnasium": ("gymnasium", "pygame"),
    "lander": ("gymnasium", "Box2D"),
    "video": ("av",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx",),
    "stablehlo": ("flatbuffers",),
    "wandb": ("wandb",),
    "parity": ("torch",),
    "cuda": ("jax_cuda12_plugin",),
    "tpu": ("libtpu",),
}
"""Optional dependencies, and the modules that they bring."""

_STEPS = 64


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
      what: a few words.
      found: what was seen, or the error.
      works: None where there is nothing to work.
    """

    what: str
    found: str
    works: bool | None = None


def installed() -> Iterator[Finding]:
    """Looks at the machine and at what is installed there."""
    yield Finding("system", f"{platform.platform()}, Python {platform.python_version()}")
    yield Finding("cores", str(meshes.cores()))
    for name in LIBRARIES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", False)
    for name, modules in EXTRAS.items():
        there = all(importlib.util.find_spec(module) for module in modules)
        yield Finding(f"extra {name}", "there" if there else "not installed")


def tried() -> Iterator[Finding]:
    """Asks for devices, then steps a pool, updates a network and writes a checkpoint."""
    yield _tried("devices", lambda: ", ".join(str(device) for device in jax.devices()))
    yield _tried("steps a pool", _steps)
    yield _tried("updates a network", _updates)
    yield _tried("writes a checkpoint", _writes)


def _tried(what: str, check: Callable[[], str]) -> Finding:
    """What `check` says; whatever it raises is what was looked for."""
    try:
        return Finding(what, check(), True)
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 300)
        return Finding(what, reason, False)


def _steps() -> str:
    pool = tasks.get("pong").pool(4, seed=0)
    generator = np.random.default_rng(0)
    begun = time.perf_counter()
    for _ in range(_STEPS):
        pool.step(generator.choice(pool.task.actions, pool.num_envs))
    rate = _STEPS * pool.num_envs / (time.perf_counter() - begun)
    return f"Pong, {rate:,.0f} steps/s in {pool.num_envs} environments"


def _state() -> tuple[networks.Network, learner.TrainState]:
    network = networks.create("net3")
    params = networks.init(network, jax.random.key(0), (4, 84, 84))
    transform = learner.optimiser("adamw", learning_rate=1e-3, updates=1)
    return network, learner.create_state(params, transform, meshes.create())


def _updates() -> str:
    network, state = _state()
    transform = learner.optimiser("adamw", learning_rate=1e-3, updates=1)
    shown = jnp.zeros((32, 4, 84, 84), jnp.uint8)

    @jax.jit
    def update(state: learner.TrainState) -> learner.TrainState:
        def loss(params: networks.Params) -> jax.Array:
            return jnp.square(networks.forward(network, params, shown) - 1).mean()

        return learner.apply_gradient(state, jax.grad(loss)(state.params), transform, 0.0)

    begun = time.perf_counter()
    after = jax.block_until_ready(update(state))
    seconds = time.perf_counter() - begun
    if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(after.params)):
        raise ValueError("its parameters are not finite afterwards")
    return f"compiled and done in {seconds:.1f} s"


def _writes() -> str:
    _, state = _state()
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "checkpoints")
        with checkpoints.Checkpoints(path) as saved:
            saved.save(1, state, value=0.0)
        best = checkpoints.read_best(path, state)
        if best is None:
            raise ValueError("nothing could be read back")
        same = jax.tree.map(np.array_equal, best.state.params, state.params)
        if not all(jax.tree.leaves(same)):
            raise ValueError("other numbers were read back")
    return "and reads it back"
