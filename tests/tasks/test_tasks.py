"""Finding tasks by name, and what all of them share."""

import dataclasses
import time
from typing import ClassVar

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.tasks import atari, combat, lander
from jaxdistill.tasks.task import Suite, Task, seed_for


@pytest.mark.parametrize("name", atari.games())
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
        ("lander/standard", "lander/standard"),
        ("standard", "lander/standard"),
        ("LunarLander-v3", "lander/standard"),
        ("LunarLander", "lander/standard"),
        ("lunar_lander_v2", "lander/standard"),
        ("lander/windy", "lander/windy"),
        ("lander_windy", "lander/windy"),
        ("Lander/Windy", "lander/windy"),
        ("windy", "lander/windy"),
        ("lander/windy-air", "lander/windy_air"),
        ("lander windy air", "lander/windy_air"),
        ("lander/heavy", "lander/heavy"),
        ("Heavy-v0", "lander/heavy"),
        ("combat/movement", "combat/movement"),
        ("Combat/Aiming", "combat/aiming"),
        ("combat_clicking", "combat/clicking"),
        ("clicking", "combat/clicking"),
        ("combat/duel", "combat/duel"),
        ("duel", "combat/duel"),
        ("combat duel-level", "combat/duel_level"),
        ("combat/duel_10hp", "combat/duel_10hp"),
        ("Combat/Duel_10HP", "combat/duel_10hp"),
        ("duel_10hp", "combat/duel_10hp"),
        ("duel_level_10hp", "combat/duel_level_10hp"),
        ("combat/duel_level_2.5hp", "combat/duel_level_2.5hp"),
        ("combat/duel_100hp", "combat/duel"),  # as long as all of them
    ],
)
def test_aliases(spelling, name):
    assert tasks.get(spelling).name == name


@pytest.mark.parametrize(
    ("spelling", "suggestion"),
    [
        ("pnog", "did you mean pong"),
        ("Brekout-v5", "did you mean breakout"),
        ("space_invader", "did you mean space_invaders"),
        ("lander/wimdy", "did you mean lander/windy"),
        ("lander/haevy", "did you mean lander/heavy"),
        ("LunarLandr-v3", "did you mean lander/standard"),
        ("combat/clickign", "did you mean combat/clicking"),
        ("combat/dule", "did you mean combat/duel"),
    ],
)
def test_an_unknown_task_names_the_closest(spelling, suggestion):
    with pytest.raises(ValueError, match=suggestion) as error:
        tasks.get(spelling)
    assert repr(spelling) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spelling",
    [
        *("", "-v5", "ALE/", "lander/", "lander/pong", "combat/", "combat/pong", "combat/windy"),
        *("combat/duel_hp", "combat/duel_tenhp", "combat/aiming_10hp", "lander/duel_10hp"),
        *("qqqqqqqq", "two\nlines", None, 3),
    ],
)
def test_nonsense_is_a_value_error_in_one_line(spelling):
    with pytest.raises(ValueError, match="unknown task") as error:
        tasks.get(spelling)
    assert "\n" not in str(error.value)


def test_the_message_for_an_unknown_task_says_where_all_are_listed():
    with pytest.raises(ValueError, match=rf"tasks.names\(\) lists all {len(tasks.names())};"):
        tasks.get("qqqqqqqq")


def test_an_unknown_task_may_be_one_s_own():
    with pytest.raises(tasks.UnknownTask) as error:
        tasks.get("corridor/short" * 1000)
    message = str(error.value)
    assert message.endswith("a task of your own: give --import=FILE (in Python, import it first)")
    assert len(message) < 300


@pytest.mark.parametrize("part", ["a", "a-", "x/"])
def test_a_name_as_long_as_a_file_is_refused_at_once(part):
    name = part * (2**24 // len(part))
    begun = time.process_time()
    with pytest.raises(ValueError, match="unknown task") as error:
        tasks.get(name)
    assert time.process_time() - begun < 1.0 and tasks.find(name) is None
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"unknown task .*expected a name") as error:
        tasks.get([part] * 1000)
    assert len(str(error.value)) < 300


@dataclasses.dataclass(frozen=True)
class Corridor(Task):
    """As a cell of a notebook makes it, which defines its class anew each time."""

    suite: ClassVar[Suite] = lander.LANDER

    def pool(self, num_envs, **options):
        raise NotImplementedError

    def camera(self, **options):
        raise NotImplementedError


def test_a_task_of_one_s_own_may_be_added_again_and_one_of_ours_may_not(monkeypatch):
    monkeypatch.setattr(tasks, "_added", {})
    try:
        for length in (5, 7):
            tasks.add(Corridor("corridor/short", (0, 1), max_steps=length))
            assert tasks.get("corridor/short").max_steps == length
        assert tasks.names().count("corridor/short") == 1
        with pytest.raises(ValueError, match="'Pong' is the name of pong already"):
            tasks.add(Corridor("Pong", (0, 1), 5))
        with pytest.raises(ValueError, match="'corridor_short' is the name of corridor/short"):
            tasks.add(Corridor("corridor_short", (0, 1), 5))
    finally:
        tasks._added.clear()
        tasks.names.cache_clear()
        tasks._by_key.cache_clear()


def test_names_are_those_of_all_suites_and_each_finds_its_task():
    suites = (atari.games(), combat.COMBATS, lander.LANDERS)
    assert tasks.names() == tuple(name for suite in suites for name in sorted(suite))
    assert len(set(tasks.names())) == len(tasks.names()) == 104 + 5 + 4
    assert [tasks.get(name).name for name in tasks.names()] == list(tasks.names())
    assert {tasks.get(name).suite.name for name in tasks.names()} == {"atari", "combat", "lander"}


@pytest.mark.parametrize("variant", lander.LANDERS.values(), ids=lambda task: task.name)
def test_landers_have_four_actions_and_no_reference_scores(variant):
    np.testing.assert_array_equal(variant.mask, [True] * 4)
    assert variant.suite.num_actions == len(variant.suite.action_names) == 4
    assert variant.human_normalised(200.0) is None
    variant.mask[:] = False
    assert variant.mask.all(), "the mask is the caller's own"


def test_skills_have_the_keys_and_angles_that_they_press():
    names = ("w", "a", "s", "d", "space", "sprint", "click", "yaw", "pitch")
    assert combat.COMBAT.action_names == names
    assert combat.COMBAT.kinds == ("key",) * 7 + ("angle",) * 2
    own = {"movement": names[:6], "aiming": names[7:], "clicking": ("click",), "duel": names}
    for name, wanted in own.items():
        task = tasks.get(f"combat/{name}")
        assert tuple(np.array(names)[task.mask]) == wanted
        assert tuple(names[i] for i in task.actions) == wanted
        assert task.human_normalised(1.0) is None
        assert task.suite.form is not None and task.suite.form == task.suite.factored
    assert tasks.get("combat/duel_10hp").actions == tasks.get("combat/duel").actions
    assert tasks.get("pong").suite.factored is None is tasks.get("windy").suite.factored


def test_a_duel_of_another_health_is_a_task_as_any_other():
    short, level = tasks.get("combat/duel_10hp"), tasks.get("duel_level_10hp")
    assert (short.environment.health, level.environment.health) == (10, 10)
    assert short.environment.reward is combat.DUEL.environment.reward
    assert level.environment.reward is combat.DUEL_LEVEL.environment.reward
    assert short.suite is combat.COMBAT and short.name not in tasks.names()
    assert tasks.get(short.name) == short and hash(tasks.get(short.name)) == hash(short)


@pytest.mark.parametrize(
    ("name", "health"),
    [("combat/duel_0hp", "0"), ("duel_level_0hp", "0"), ("combat/duel_-5hp", "-5")],
)
def test_a_duel_without_health_is_refused_in_one_line(name, health):
    with pytest.raises(ValueError) as error:
        tasks.get(name)
    message = str(error.value)
    assert f"health is {health}, expected at least 1" in message and "\n" not in message
    assert message.startswith("combat/duel")


def test_seeds_are_reproducible_and_far_apart():
    words = [(s, p, g) for s in range(4) for p in range(3) for g in range(10)]
    seeds = np.array([seed_for(*w) for w in words])
    assert seeds.tolist() == [seed_for(*w) for w in words]
    # Environment i of a pool has its seed plus i: pools of up to 1024 do not overlap here.
    assert np.diff(np.sort(seeds)).min() > 1024
    assert seeds.min() >= 0 and seeds.max() + 1024 < 2**31


def test_fewer_words_are_another_seed():
    assert len({seed_for(1), seed_for(1, 0), seed_for(1, 0, 0), seed_for(0, 1)}) == 4
