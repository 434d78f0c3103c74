"""What every stage of a run stands on."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from jaxdistill import clocks, meshes, networks
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.run import common, data, distill_settings
from jaxdistill.tasks.views import View

ONE = meshes.create(jax.devices()[:1])
LINEAR = networks.Network(convs=(), num_outputs=18)
RECURRENT = dataclasses.replace(LINEAR, core=networks.Core("gru", 2))


def _save(root, game, network, seed=0):
    params = jax.device_get(networks.init(network, jax.random.key(seed), View().shape))
    Expert(game, network, params, "q", tuple(range(18)), View(), game).save(root / game)


def _settings(root, games):
    for game, network in games.items():
        _save(root, game, network)
    return distill_settings.Settings(
        experts=tuple(ExpertSource(str(root / game)) for game in games), network="net3"
    )


def test_experts_are_compiled_once_and_begin_with_nothing_carried(tmp_path):
    settings = _settings(tmp_path, {"pong": LINEAR, "breakout": RECURRENT})
    run = common.Run(settings, ONE)
    first, second = run.expert_policy(), run.expert_policy()
    assert first._act is second._act and first._memory is not second._memory
    # One that is followed has become another.
    shutil.rmtree(tmp_path / "pong")
    _save(tmp_path, "pong", LINEAR, seed=1)
    assert run.follow()
    for own, expert in zip(run.expert_policy()._params, run.experts, strict=True):
        jax.tree.map(np.testing.assert_array_equal, own, expert.params)


def test_a_followed_expert_draws_by_the_deviations_that_it_has_by_then(skilled, tmp_path):
    """Once it is read again, and in a run that goes on."""
    expert = skilled("aiming", log_std=(-2.0, -2.0))
    expert.save(tmp_path / "aiming")
    settings = distill_settings.Settings(
        experts=(ExpertSource(str(tmp_path / "aiming")),),
        network="skills",
        collect=distill_settings.Collect(
            num_envs=64,
            initial_steps=64,
            steps_per_round=64,
            window_steps=128,
            expert_epsilon=0.0,
            follow=True,
        ),
    )

    def begun():
        run = common.Run(settings, ONE)
        return run, data.resume(run, tmp_path / "run", None, clocks.Timer())[1]

    def spread(collector):
        chunk = collector.collect(1)
        return (chunk.actions - chunk.labels)[..., 7:].std()

    run, collector = begun()
    assert spread(collector) == pytest.approx(np.exp(-2), rel=0.2)
    narrow = dataclasses.replace(expert, log_std=(-4.0, -4.0))
    narrow.save(tmp_path / "aiming", replace=True)
    assert run.follow() and not run.follow()
    collector.replace_experts(run.experts)
    for collecting in (collector, begun()[1]):
        assert spread(collecting) == pytest.approx(np.exp(-4), rel=0.2)


def test_experts_that_carry_nothing_are_one_policy(tmp_path):
    run = common.Run(_settings(tmp_path, {"pong": LINEAR}), ONE)
    assert run.expert_policy() is run.expert_policy()
