"""Finding tasks by name, and what all of them share."""

import dataclasses
import sys
import time
import types
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


@pytest.fixture
def own(own_tasks):
    """None of one's own, and afterwards none again."""


def test_a_task_of_one_s_own_may_be_added_again_and_one_of_ours_may_not(own):
    for length in (5, 7):
        tasks.add(Corridor("corridor/short", (0, 1), max_steps=length))
        assert tasks.get("corridor/short").max_steps == length
    assert tasks.names().count("corridor/short") == 1
    with pytest.raises(ValueError, match="'Pong' is the name of pong already"):
        tasks.add(Corridor("Pong", (0, 1), 5))
    with pytest.raises(ValueError, match="'corridor_short' is the name of corridor/short"):
        tasks.add(Corridor("corridor_short", (0, 1), 5))


def test_short_names_are_those_of_ours_or_of_one_task_of_one_s_own(own):
    for name in ("corridor/standard", "corridor/duel", "corridor/pong", "corridor/short"):
        tasks.add(Corridor(name, (0, 1), 5))
        assert tasks.get(name).name == name
    for name, wanted in (
        *(("standard", "lander/standard"), ("duel", "combat/duel"), ("pong", "pong")),
        *(("ALE/Pong-v5", "pong"), ("short", "corridor/short"), ("lunarlander", "lander/standard")),
    ):
        assert tasks.get(name).name == wanted
    tasks.add(Corridor("maze/short", (0, 1), 5))
    with pytest.raises(tasks.UnknownTask, match=r"did you mean corridor/short or maze/short"):
        tasks.get("short")
    tasks.add(Corridor("short", (0, 1), 5))
    assert [tasks.get(x).name for x in ("short", "maze/short")] == ["short", "maze/short"]


def test_a_game_of_one_s_own_brings_no_rules(own):
    """Whoever plays it would have replaced them by theirs without a word."""
    rules = atari.Rules(repeat_action_probability=0.25, end_at_life=True)
    sticky = dataclasses.replace(tasks.get("pong"), name="pong/sticky", rules=rules)
    with pytest.raises(ValueError) as error:
        tasks.add(sticky)
    assert str(error.value) == (
        "pong/sticky has rules, which are not a task's but an expert's "
        "(GAME=FILE?repeat_action_probability=0.25&end_at_life=true) or a run's "
        "(--config.rules.repeat_action_probability=0.25); leave them out"
    )
    assert tasks.find("pong/sticky") is not sticky and not tasks._added
    tasks.add(dataclasses.replace(sticky, rules=atari.USUAL))
    assert tasks.under(tasks.get("pong/sticky"), rules).rules == rules


_FIELDS = """
import dataclasses, functools, jax
import numpy as np

def reward(x, scale=1):
    return x

class Other:
    pass

@dataclasses.dataclass(frozen=True)
class Physics:
    gravity: float
    pull: object = reward
"""


@dataclasses.dataclass(frozen=True)
class Holding(Corridor):
    held: object = None


@pytest.fixture
def of_file(own, tmp_path, monkeypatch):
    """`of_file(held, text)`: what tells a task that holds so, as a process does that begins."""

    def content(held, text=_FIELDS):
        module = types.ModuleType("fields")
        module.__file__ = str(tmp_path / "fields.py")
        (tmp_path / "fields.py").write_text(text)
        monkeypatch.setitem(sys.modules, "fields", module)
        exec(text, module.__dict__)
        kept.append(module)  # or another's functions could have its addresses
        task = Holding("corridor/held", (0, 1), 5, held=eval(held, module.__dict__))
        tasks.add(task)
        return tasks.content(task)

    kept = []
    return content


@pytest.mark.parametrize(
    ("held", "others"),
    [
        ("reward", ["Other", "lambda x: x", "len", "None"]),
        ("jax.jit(reward)", ["jax.jit(Physics)"]),
        ("functools.partial(reward, scale=2)", ["functools.partial(reward, scale=3)", "reward"]),
        ("Physics(1.0)", ["Physics(2.0)", "Physics(1.0, Other)"]),
        ("{'a': (reward, 1)}", ["{'a': (reward, 2)}", "{'b': (reward, 1)}"]),
        ("[Physics(1.0)]", ["[Physics(2.0)]", "(Physics(1.0),)"]),
        ("{'a', 'b'}", ["{'a'}", "frozenset({'a', 'b'})"]),
        ("'a thing at 0x7f00'", ["'a thing at 0x7f01'"]),
        ("np.zeros(5000)", ["np.eye(1, 5000, 2500)[0]", "np.zeros((2, 2500))", "[0] * 5000"]),
        ("np.zeros(3)", ["np.zeros(3, int)", "np.zeros(3, np.float32)"]),
        ("jax.numpy.zeros(5000)", ["jax.numpy.zeros(5000).at[2500].set(1)"]),
        ("np.array([reward, 1], object)", ["np.array([reward, 2], object)"]),
    ],
)
def test_a_field_of_any_kind_tells_a_task_from_others_in_every_process(of_file, held, others):
    known = of_file(held)
    assert of_file(held) == known
    for other in others:
        assert of_file(other) != known, other


def test_a_function_is_another_where_its_file_is(of_file):
    for held in ("reward", "Physics(1.0)", "functools.partial(reward)", "Other"):
        assert of_file(held) != of_file(held, f"{_FIELDS}# where something was changed")
    # As the file was when the task was added.
    known = of_file("reward")
    with open(sys.modules["fields"].__file__, "a") as file:
        file.write("# since")
    assert tasks.content(tasks.get("corridor/held")) == known


@pytest.mark.parametrize("held", ["Other()", "[Other()]", "(lambda y: lambda x: x + y)(1)"])
def test_a_field_that_nothing_tells_from_others_is_refused(of_file, held):
    with pytest.raises(
        ValueError, match=r"corridor/held: held is .* at 0x.*, which the next run"
    ) as error:
        of_file(held)
    assert "\n" not in str(error.value) and not tasks._added


def test_a_task_of_ours_may_be_held_in_one_of_one_s_own(own):
    tasks.add(mine := dataclasses.replace(tasks.get("combat/duel"), name="combat/mine"))
    assert " at 0x" not in str(tasks.content(mine))


def test_of_sets_the_order_tells_nothing(own):
    """It is another in every process."""
    names = [f"name {i}" for i in range(20)]
    tasks.add(task := Holding("corridor/held", (0, 1), 5, held=frozenset(names)))
    listed = ", ".join(map(repr, sorted(names)))
    assert tasks.content(task)["fields"]["held"] == f"frozenset({listed})"


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
