"""Our policies -> StableHLO, as `jax.export` writes it: run by JAX alone, on any of its devices."""

from __future__ import annotations

import importlib.util
import os

import jax
import jax.numpy as jnp
from jax import export

from jaxdistill import networks
from jaxdistill.experts import portable
from jaxdistill.experts.portable import Portable

PLATFORMS = ("cpu", "cuda", "tpu")


def write(policy: Portable, path: str | os.PathLike[str]) -> None:
    """Writes a policy as a program that holds its parameters, and `FILE.json` beside it.

    It runs on CPU, CUDA and TPU, for any number of rows, where JAX and flatbuffers are installed:

        program = jax.export.deserialize(bytearray(open(path, "rb").read()))
        outputs, action = program.call(observations)          # of one task
        outputs, action = program.call(observations, tasks)   # of several

    Products are float32 throughout, also where a device would take less by itself.

    Raises:
      ValueError: the package `flatbuffers` is not installed, or as `portable.write`.
    """

    def made() -> bytes:
        if importlib.util.find_spec("flatbuffers") is None:
            raise ValueError(
                "--format=stablehlo is written with the package flatbuffers: pip install "
                "'jaxdistill[stablehlo]'"
            )
        (batch,) = export.symbolic_shape("batch")
        inputs = [jax.ShapeDtypeStruct((batch, *policy.shape), policy.dtype)]
        if policy.several:
            inputs.append(jax.ShapeDtypeStruct((batch,), jnp.int32))
        with networks.plain_convolutions(), jax.default_matmul_precision("highest"):
            program = export.export(jax.jit(policy.__call__), platforms=PLATFORMS)(*inputs)
        return bytes(program.serialize())

    portable.write(policy, path, made)
