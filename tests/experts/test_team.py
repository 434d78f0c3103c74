"""Experts of keys and angles, and several that play a task together: by hand."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.experts.expert import Expert, Team, expert_outputs
from jaxdistill.networks import Network
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import views
from jaxdistill.tasks.views import Vector, View


def expert_of(skill, scale=1.0, **changes):
    """Output i is `scale` times (i + 1) times the first number it sees, and i / 8 besides."""
    task = tasks.get(f"combat/{skill}")
    count = len(changes.get("actions", task.actions))
    view = changes.get("view", task.view)
    kernel = np.zeros((view.size if isinstance(view, Vector) else 7056, count), np.float32)
    kernel[0] = scale * (1 + np.arange(count))
    action = {"kernel": kernel, "bias": (np.arange(count) / 8).astype(np.float32)}
    fields = {
        "name": skill,
        "network": Network(convs=(), num_outputs=count),
        "params": {"params": {"action": action}},
        "outputs": "logits",
        "actions": task.actions,
        "view": task.view,
        "game": task.name,
    }
    return Expert(**(fields | changes))


def together(*skills, game="combat/duel", **changes):
    experts = [expert_of(skill, **changes.get(skill, {})) for skill in skills]
    return Team(tuple(experts), game)


SKILLS = ("movement", "aiming", "clicking")


@pytest.fixture(scope="module")
def shown():
    """What a pool shows of three states: the first number of each view is its own."""
    rows = np.full((3, 1, 74), 7.0, np.float32)
    for name, numbers in {
        "duel": [9, 9, 9],
        "movement": [1, 0.5, -1],
        "aiming": [0.25, -0.1, 0.4],
        "clicking": [2, -2, 0],
    }.items():
        rows[:, 0, views.part(name).start] = numbers
    return jnp.asarray(rows)


# --- One of keys and angles.


def test_an_expert_of_a_skill_looks_through_its_own_view(shown):
    """At what any task of combat shows; its outputs stand where its keys are."""
    expert = expert_of("clicking")
    said = expert.judge(expert.params, shown)
    np.testing.assert_allclose(said[:, 6], [2, -2, 0])
    assert not np.delete(np.asarray(said), 6, axis=1).any()
    np.testing.assert_array_equal(expert.mask, np.arange(9) == 6)
    doubled = jax.tree.map(lambda x: 2 * x, expert.params)
    np.testing.assert_allclose(expert.judge(doubled, shown)[:, 6], [4, -4, 0])
    seen = expert.view.see(np.asarray(shown))
    np.testing.assert_allclose(expert.greedy(seen)[:, 6], [1, 0, 0])


def test_an_experts_angles_are_cut_to_what_its_task_allows(shown):
    expert = expert_of("aiming")
    said = np.asarray(expert.judge(expert.params, shown))
    widest = math.radians(36)
    # 0.25, -0.1, 0.4 and twice of them and an eighth.
    wanted = [[0.25, 0.625], [-0.1, -0.075], [0.4, widest]]
    np.testing.assert_allclose(said[:, 7:], wanted, rtol=1e-6)
    assert not said[:, :7].any()
    alone = expert.suite_outputs(expert.view.see(np.asarray(shown)))
    np.testing.assert_allclose(alone, said, rtol=1e-6)


@pytest.mark.parametrize("log_std", [None, (-1.5, 0.25)])
def test_an_experts_deviations_are_saved_with_it(tmp_path, log_std):
    expert = expert_of("aiming", log_std=log_std, actions=(8, 7))
    expert.save(tmp_path / "it")
    assert ("log_std" in json.loads((tmp_path / "it" / "expert.json").read_text())) == bool(log_std)
    again = Expert.load(tmp_path / "it")
    assert (again.log_std, again.view, again.actions) == (log_std, views.part("aiming"), (8, 7))
    if log_std is None:
        assert again.suite_log_std is None
    else:  # the first output is the pitch
        np.testing.assert_array_equal(again.suite_log_std, [0] * 7 + [0.25, -1.5])


@pytest.mark.parametrize(
    "log_std",
    [
        [-1.5],
        [-1.5, None],
        [-1.5, "0"],
        [math.nan, 0.0],
        [0.0, math.inf],
        3,
        [-1.5, True],
        [-1.5, 2],
    ],
    ids=str,
)
def test_deviations_that_cannot_be_are_refused(tmp_path, log_std):
    expert_of("aiming", log_std=(-1.5, 0.25)).save(tmp_path / "it")
    path = tmp_path / "it" / "expert.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"log_std": log_std}))
    with pytest.raises(ValueError, match=r"it is damaged \(.*\); convert it again") as error:
        Expert.load(tmp_path / "it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": "q"}, "outputs is 'q', and combat/clicking is played with keys and angles; e"),
        ({"view": View()}, "it sees a screen, and combat/clicking shows a vector of 74 numbers"),
        (
            {"view": Vector(9)},
            "it sees a vector of 9 numbers, and combat/clicking shows a vector of",
        ),
        ({"view": Vector(9, start=0, of=73)}, "it sees a vector of 9 numbers, and combat/clicking"),
        ({"actions": (9,)}, r"actions \[9\] are not all actions 0\.\.8, so it does not play comb"),
        ({"actions": (7,)}, r"none of its actions \[7\] is valid in combat/clicking, whose valid"),
        ({"log_std": (1.0, 2.0)}, "log_std has 2 numbers for 1 outputs"),
    ],
)
def test_an_expert_that_does_not_fit_its_skill_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^clicking: {message}") as error:
        expert_of("clicking", **changes)
    assert "\n" not in str(error.value)


def test_an_expert_may_see_any_part_of_what_is_shown(shown):
    expert = expert_of("clicking", view=views.part("duel"))
    np.testing.assert_allclose(expert.judge(expert.params, shown)[:, 6], [9, 9, 9])


# --- Several together.


def test_everyone_of_a_team_looks_and_answers_for_itself(shown):
    team = together(*SKILLS)
    said = np.asarray(team.judge(team.params, shown))
    np.testing.assert_allclose(said[0, :6], 1 + np.arange(6) + np.arange(6) / 8)
    np.testing.assert_allclose(said[2, :6], -1 - np.arange(6) + np.arange(6) / 8)
    np.testing.assert_allclose(said[:, 6], [2, -2, 0])
    # The duel allows 27 degrees, where the expert has learnt with 36.
    widest = math.radians(27)
    np.testing.assert_allclose(
        said[:, 7:], [[0.25, widest], [-0.1, -0.075], [0.4, widest]], rtol=1e-6
    )
    # The order of the experts is nobody's business, and their parameters are theirs.
    other = together("clicking", "movement", "aiming")
    np.testing.assert_array_equal(other.judge(other.params, shown), said)
    params = [jax.tree.map(jnp.zeros_like, team.params[0]), *team.params[1:]]
    still = np.asarray(team.judge(params, shown))
    assert not still[:, :6].any()
    np.testing.assert_array_equal(still[:, 6:], said[:, 6:])


def test_a_team_is_a_teacher_of_its_task():
    team = together(*SKILLS)
    assert (team.name, team.outputs) == ("movement + aiming + clicking", "logits")
    assert team.task is combat.DUEL and team.actions == tuple(range(9)) and team.mask.all()
    assert team.view == Vector(74) == team.view.whole and team.advertised_score is None
    assert [expert.name for expert in team.experts] == list(SKILLS)
    assert team.network == tuple(expert.network for expert in team.experts)
    assert together(*SKILLS, game="combat/duel_10hp").task == combat.duel(10)


def test_teams_are_asked_beside_others(shown):
    team, alone = together(*SKILLS), expert_of("clicking")
    experts = [alone, team, alone]
    params = [expert.params for expert in experts]
    said = expert_outputs(experts, params, [shown[:2], shown], [1, 0])
    np.testing.assert_array_equal(said[0], team.judge(team.params, shown[:2]))
    np.testing.assert_array_equal(said[1], alone.judge(alone.params, shown))


def test_experts_of_one_shape_stacked_as_on_an_accelerator_look_for_themselves(shown, monkeypatch):
    """Two networks of one shape that see different parts are still one product."""
    click = {"view": Vector(9, start=0, of=74)}
    experts = [expert_of("clicking"), expert_of("clicking", 3.0, **click), together(*SKILLS)]
    params = [expert.params for expert in experts]
    wanted = [expert.judge(own, shown) for expert, own in zip(experts, params, strict=True)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    stacked = jax.jit(lambda params, shown: expert_outputs(experts, params, [shown] * 3, range(3)))
    for said, own in zip(stacked(params, shown), wanted, strict=True):
        np.testing.assert_allclose(said, own, rtol=1e-5, atol=1e-6)
    assert np.abs(wanted[0] - wanted[1]).max() > 1


def test_a_teams_deviations_are_its_experts_own():
    known = {"aiming": {"log_std": (-1.5, 0.25)}}
    np.testing.assert_array_equal(together(*SKILLS, **known).suite_log_std[7:], [-1.5, 0.25])
    assert together(*SKILLS).suite_log_std is None
    # Outputs that it does not play with ask for none: movement has keys alone.
    others = {"movement": {"actions": tuple(range(9))}}
    whole = together(*SKILLS, **known, **others)
    np.testing.assert_array_equal(whole.suite_log_std[7:], [-1.5, 0.25])
    # What stands beside keys is nobody's angle.
    keyed = known | {"movement": {"log_std": (9.0,) * 6}}
    np.testing.assert_array_equal(together(*SKILLS, **keyed).suite_log_std[7:], [-1.5, 0.25])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: together("movement", "aiming", "clicking", "clicking"),
            "two experts press click, so they cannot play combat/duel together",
        ),
        (
            lambda: together("movement", "clicking"),
            "no expert presses yaw, pitch, so they cannot play combat/duel together",
        ),
        (
            lambda: Team((expert_of("movement", actions=(0, 2, 3, 4, 5)),), "combat/movement"),
            "no expert presses a, so they cannot play combat/movement together",
        ),
        (lambda: together(*SKILLS, game="combat/duel_0hp"), "combat/duel_0hp: health is 0"),
        (lambda: together(*SKILLS, game="combat/dual"), "unknown task 'combat/dual'"),
    ],
)
def test_a_team_that_cannot_play_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_what_an_expert_has_besides_its_skill_is_no_part_of_a_team():
    """An expert of clicking that has outputs for all nine answers for the click alone."""
    whole = expert_of("clicking", actions=tuple(range(9)), view=views.part("clicking"))
    team = Team((expert_of("movement"), expert_of("aiming"), whole), "combat/duel")
    shown = jnp.ones((1, 1, 74))
    said = np.asarray(team.judge(team.params, shown))[0]
    np.testing.assert_allclose(said[6], 7 + 6 / 8)  # its own seventh output
    np.testing.assert_allclose(said[:6], 1 + np.arange(6) + np.arange(6) / 8)


def test_atari_is_played_by_one():
    game = tasks.get("pong")
    expert = Expert("x", Network(convs=(), num_outputs=18), {}, "q", tuple(range(18)), game="pong")
    with pytest.raises(ValueError, match="two experts press NOOP, so they cannot play pong toget"):
        Team((expert, dataclasses.replace(expert, name="y")), game.name)
