"""Tests for the table of games."""

import dataclasses

import envpool
import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.tasks import atari


def test_there_are_104_sorted_unique_games():
    names = tuple(atari.games())
    assert len(names) == 104
    assert list(names) == sorted(set(names))
    assert len({tasks.get(name).env_id for name in names}) == 104


def test_there_are_18_action_names():
    assert atari.NUM_ACTIONS == len(atari.ACTION_NAMES) == len(set(atari.ACTION_NAMES)) == 18
    # Spot checks against ALE's `enum Action`.
    assert atari.ACTION_NAMES[0] == "NOOP"
    assert atari.ACTION_NAMES[3] == "RIGHT"
    assert atari.ACTION_NAMES[11] == "RIGHTFIRE"
    assert atari.ACTION_NAMES[17] == "DOWNLEFTFIRE"


@pytest.mark.parametrize("name", tuple(atari.games()))
def test_get_round_trips(name):
    game = tasks.get(name)
    stem = game.env_id.removesuffix("-v5")
    assert game.name == name
    for spelling in (
        game.env_id,
        stem,
        f"ALE/{game.env_id}",
        f"{stem}NoFrameskip-v4",
        f"{stem}Deterministic-v0",
        f"{stem}-ramNoFrameskip-v4",
        f"{stem}-ram-v4",
        name.replace("_", "-"),
        name.replace("_", " "),
        name.replace("_", "").upper(),
    ):
        assert tasks.get(spelling) is game, spelling


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("pong", "pong"),
        ("PongNoFrameskip-v4", "pong"),
        (" Pong-v5 ", "pong"),
        ("pong_v5", "pong"),
        ("SpaceInvaders", "space_invaders"),
        ("Q*bert", "qbert"),
        ("Ms. Pac-Man", "ms_pacman"),
        ("RiverRaid", "riverraid"),
        ("James Bond", "jamesbond"),
        ("Atlantis", "atlantis"),
        ("Atlantis2", "atlantis2"),
        ("TicTacToe3D", "tic_tac_toe_3d"),
    ],
)
def test_aliases(spelling, name):
    assert tasks.get(spelling).name == name


@pytest.mark.parametrize(
    ("spelling", "suggestion"),
    [("pnog", "pong"), ("Brekout-v5", "breakout"), ("space_invader", "space_invaders")],
)
def test_unknown_game_names_the_closest(spelling, suggestion):
    with pytest.raises(ValueError, match=suggestion) as error:
        tasks.get(spelling)
    assert repr(spelling) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spelling", ["", "-v5", "ALE/", "qqqqqqqq", "two\nlines", None, 3])
def test_nonsense_is_a_value_error_in_one_line(spelling):
    with pytest.raises(ValueError, match="unknown game") as error:
        tasks.get(spelling)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", tuple(atari.games()))
def test_actions_are_sorted_ale_ids_and_the_mask_holds_them(name):
    game = tasks.get(name)
    assert list(game.actions) == sorted(set(game.actions))
    assert all(0 <= action < atari.NUM_ACTIONS for action in game.actions)
    assert game.mask.shape == (18,)
    assert game.mask.dtype == bool
    assert tuple(np.flatnonzero(game.mask)) == game.actions


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("pong", "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
        ("breakout", "NOOP FIRE RIGHT LEFT"),
        ("freeway", "NOOP UP DOWN"),
        ("skiing", "NOOP RIGHT LEFT"),
        ("lost_luggage", "NOOP UP RIGHT LEFT DOWN UPRIGHT UPLEFT DOWNRIGHT DOWNLEFT"),
        ("space_invaders", "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
        ("backgammon", "FIRE RIGHT LEFT"),
        ("seaquest", " ".join(atari.ACTION_NAMES)),
    ],
)
def test_known_actions(name, actions):
    assert [atari.ACTION_NAMES[a] for a in tasks.get(name).actions] == actions.split()


def test_the_mask_is_the_callers_own():
    game = tasks.get("pong")
    game.mask[:] = False
    assert game.mask.sum() == 6
    assert hash(game) == hash(dataclasses.replace(game))


@pytest.mark.parametrize("name", tuple(atari.games()))
def test_envpool_agrees_on_the_action_count(name):
    game = tasks.get(name)
    assert envpool.make_spec(game.env_id).action_space.n == len(game.actions)


def test_57_games_have_both_scores():
    table = [tasks.get(name) for name in tuple(atari.games())]
    assert all((g.random_score is None) == (g.human_score is None) for g in table)
    scored = [g for g in table if g.human_score is not None]
    assert len(scored) == 57
    assert all(g.random_score < g.human_score for g in scored)
    assert all(g.screen_height == 210 for g in scored)
    assert {g.screen_height for g in table} == {210, 214, 220, 230, 250}


@pytest.mark.parametrize(
    ("name", "random", "human"),
    [
        ("alien", 227.8, 7127.7),
        ("breakout", 1.7, 30.5),
        ("double_dunk", -18.6, -16.4),
        ("freeway", 0.0, 29.6),
        ("pong", -20.7, 14.6),
        ("skiing", -17098.1, -4336.9),
        ("video_pinball", 16256.9, 17667.9),
        ("zaxxon", 32.5, 9173.3),
    ],
)
def test_published_scores(name, random, human):
    game = tasks.get(name)
    assert (game.random_score, game.human_score) == (random, human)
    assert game.human_normalised(random) == 0.0
    assert game.human_normalised(human) == 1.0


def test_human_normalised_by_hand():
    # (145.7 - 1.7) / (30.5 - 1.7) = 144 / 28.8
    assert tasks.get("breakout").human_normalised(145.7) == pytest.approx(5.0)
    assert tasks.get("adventure").human_normalised(1.0) is None
