"""Tests for what players are known by: whatever decides their actions, and nothing else."""

import dataclasses

import numpy as np

from jaxdistill import networks
from jaxdistill.play import players
from jaxdistill.tasks.views import View


def test_an_experts_mark_is_of_all_that_decides_its_actions(watcher):
    expert = watcher("carnival", 2, "logits")

    def mark(expert=expert, epsilon=0.05, sample_logits=False):
        return players.expert_mark(expert, epsilon=epsilon, sample_logits=sample_logits)

    named = dataclasses.replace(expert, name="another", source="elsewhere", advertised_score=1.0)
    assert mark(named) == mark()
    assert mark().startswith("344318538961344b"), "games that were measured before are known"
    narrow = dataclasses.replace(expert.network, activation="elu")
    rough = dataclasses.replace(expert.network, dtype=networks.COMPUTE_DTYPES["bfloat16"])
    others = [
        mark(watcher("carnival", 3, "logits")),
        mark(epsilon=0.1),
        mark(sample_logits=True),
        mark(dataclasses.replace(expert, network=narrow)),
        mark(dataclasses.replace(expert, network=rough)),
        mark(dataclasses.replace(expert, actions=expert.actions[::-1])),
        mark(dataclasses.replace(expert, view=dataclasses.replace(expert.view, resize="linear"))),
    ]
    assert len({mark(), *others}) == 1 + len(others)
    values = dataclasses.replace(expert, outputs="q")
    assert mark(values, sample_logits=True) == mark(values), "Q-values are not sampled"


def test_how_an_expert_in_training_is_read_is_told_without_its_deviations(skilled):
    one, other, still = (skilled("aiming", log_std=x) for x in ((-2.0, -2.0), (-3.0, -2.0), None))
    assert len({players.read_as(x) for x in (one, other, still)}) == 3
    assert {players.read_as(x, in_training=True) for x in (one, other, still)} == {
        players.read_as(still)
    }
    turned = dataclasses.replace(one, actions=one.actions[::-1])
    assert players.read_as(turned, in_training=True) != players.read_as(still)


def test_a_student_has_a_mark_in_each_of_its_tasks():
    def mark(scale=1.0, index=0, epsilon=0.0, resize="area", **network):
        params = {"a": np.full(3, scale, np.float32)}
        return players.student_mark(
            networks.Network(convs=(), **network),
            params,
            View(resize=resize),
            index=index,
            epsilon=epsilon,
        )

    others = [
        mark(scale=2.0),
        mark(index=1),
        mark(epsilon=0.1),
        mark(resize="linear"),
        mark(activation="elu"),
        mark(dtype=networks.COMPUTE_DTYPES["bfloat16"]),
    ]
    assert mark().startswith("82497fccc68f97f6"), (
        "games of students that were measured before are known"
    )
    assert mark() == mark() and len({mark(), *others}) == 1 + len(others)
