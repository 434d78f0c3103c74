"""Tests for how play is measured: which starts are whose, and what is drawn for whom."""

import jax
import numpy as np
import pytest

from jaxdistill import networks
from jaxdistill.experts.expert import Expert
from jaxdistill.play import lessons, measuring, protocols
from jaxdistill.tasks.views import View


def _still(observations, key, indices, seats):
    """Always action 0."""
    return tuple(np.zeros(x.shape[0], int) for x in observations), None


def test_which_states_belong_to_which_seat_by_hand():
    choosing, reporting = (
        protocols.Opening(_still, 10, _still, side)
        for side in (protocols.CHOOSING, protocols.REPORTING)
    )
    for start in range(32):
        lane = start % 8
        assert [choosing.begins(seat, start) for seat in range(8)] == [
            seat % 4 == lane for seat in range(8)
        ]
        assert [reporting.begins(seat, start) for seat in range(8)] == [
            seat % 4 + 4 == lane for seat in range(8)
        ]
    assert protocols.Opening(_still, 0, _still, protocols.CHOOSING).begins(3, 4)


def test_games_of_every_purpose_and_seed_draw_their_own():
    opening = protocols.Opening(_still, 0, _still, protocols.REPORTING)
    draws = [
        float(jax.random.uniform(protocols.Protocol(purpose, seed, opening).key))
        for purpose in (lessons.SELECT, lessons.REPORT)
        for seed in (0, 1)
    ]
    assert len(set(draws)) == len(draws)


def test_an_opening_as_long_as_a_game_is_refused_before_anything_is_played():
    network = networks.Network(convs=())
    expert = Expert("mine", network, {}, "q", tuple(range(18)), View(), "pong")
    with pytest.raises(ValueError, match="opening_steps is 30, expected less than the 30 steps"):
        measuring.measure_alone(
            expert, protocols.Terms(1, epsilon=0.0, seed=0, opening_steps=30, max_steps=30)
        )
