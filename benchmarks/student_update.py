"""The student's forward pass and update, ours against PyTorch eager, in alternating runs.

    pip install torch gymnasium ale-py opencv-python-headless    # only for this comparison
    python benchmarks/student_update.py [--network=dueling] [--batch=256] [--repeats=15]

Both sides hold the same dueling network, AdamW and gradient clipping, and learn the same masked KL
from a batch that already lies on the device. PyTorch gets its best setting here: channels-last, all
cores. The last column is our share of the arithmetic bound: what the multiplications alone would
take at the rate of one large float32 matrix product, timed in the same turns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from _reference import Dueling
from _timing import alternate
from absl import app, flags
from torch import nn
from torch.nn import functional

from jaxdistill import meshes, networks, terminal
from jaxdistill.learn import learner, losses

_NETWORK = flags.DEFINE_string("network", "dueling", "a dueling network of networks.NETWORKS")
_SIDE = 2048  # of the square matrices of the bound
_BATCH = flags.DEFINE_integer("batch", 256, "rows in one batch", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 15, "timed runs of each", lower_bound=3)


def _multiplications(network: networks.Network, params: networks.Params) -> dict[str, int]:
    """Multiply-adds of one row's forward pass and update, in convolutions and dense layers."""
    side, channels, convolved = 84, 4, []
    for layer in network.convs:
        side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        convolved.append(side**2 * layer.kernel**2 * channels * layer.features)
        channels = layer.features
    dense = sum(x["kernel"].size for x in params["params"].values() if x["kernel"].ndim == 2)
    forward = sum(convolved) + dense
    # Again as many for the gradients of the weights and of the inputs; of pixels there is none.
    return {"inference": forward, "update": 3 * forward - convolved[0]}


def main(_: list[str]) -> None:
    batch, repeats = _BATCH.value, _REPEATS.value
    network = networks.create(_NETWORK.value)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, 4, 84, 84)).astype(np.uint8)
    labels = generator.standard_normal((batch, 18)).astype(np.float32)
    mask = np.ones(18, bool)

    params = networks.init(network, jax.random.key(0), (4, 84, 84))
    transform = learner.optimiser("adamw", learning_rate=3e-4, updates=1000, weight_decay=1e-4)
    ours = {"state": learner.create_state(params, transform, meshes.create())}
    x, y = jnp.asarray(pixels), jnp.asarray(labels)
    forward = jax.jit(functools.partial(networks.forward, network))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: learner.TrainState, x: jax.Array, y: jax.Array) -> learner.TrainState:
        def loss(params):
            return losses.kl(networks.forward(network, params, x), y, mask).mean()

        return learner.apply_gradient(state, jax.grad(loss)(state.params), transform)

    def our_update() -> None:
        ours["state"] = update(ours["state"], x, y)
        jax.block_until_ready(ours["state"])

    layers = [(layer.features, layer.kernel, layer.stride) for layer in network.convs]
    theirs = Dueling(layers, *network.action_hidden).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=3e-4, weight_decay=1e-4)
    pixels_torch, labels_torch = torch.from_numpy(pixels), torch.from_numpy(labels)
    target = functional.softmax(labels_torch, 1)

    def their_update() -> None:
        optimiser.zero_grad(set_to_none=True)
        logits = functional.log_softmax(theirs(pixels_torch), 1)
        functional.kl_div(logits, target, reduction="batchmean").backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 10.0)
        optimiser.step()

    def their_forward() -> None:
        with torch.inference_mode():
            theirs(pixels_torch)

    def our_forward() -> None:
        jax.block_until_ready(forward(ours["state"].params, x))

    square = jnp.asarray(generator.standard_normal((_SIDE, _SIDE)), jnp.float32)
    multiply = jax.jit(jnp.matmul)

    def bound() -> None:
        jax.block_until_ready(multiply(square, square))

    rows = []
    counts = _multiplications(network, params)
    for name, sides in (
        ("inference", (our_forward, their_forward)),
        ("update", (our_update, their_update)),
    ):
        mine, other, large = alternate(*sides, bound, repeats=repeats)
        least = batch * counts[name] / _SIDE**3 * large
        numbers = (round(batch / seconds) for seconds in (mine, other, least))
        rows.append((name, *numbers, f"{other / mine:.2f}x", f"{least / mine:.0%}"))
    terminal.table(
        f"{_NETWORK.value}, batch {batch}, {jax.default_backend()}: rows/s, medians of {repeats}",
        ("", "jaxdistill", "PyTorch eager", "bound", "ratio", "share of the bound"),
        rows,
    )


if __name__ == "__main__":
    app.run(main)
