"""No setting without effect: every one changes something that can be seen, or is refused."""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import clocks, meshes, metrics, networks, tasks
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.learn import (
    dataset,
    exploration,
    idle_settings,
    learner,
    loop,
    pqn,
    train_settings,
    weight_merging,
    windows,
)
from jaxdistill.learn import training as learning
from jaxdistill.learn.rollout import Passes, Rollout
from jaxdistill.play import collection, evaluation, lessons
from jaxdistill.run import (
    choosing,
    common,
    data,
    distill,
    distill_settings,
    finetuning,
    merge_settings,
    merge_weights,
    rounds,
    warm_start,
)
from jaxdistill.tasks.atari import USUAL, Rules


def changed(whole, changes):
    """`whole` with dotted fields replaced, all at once."""
    parts = {}
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = value
    return dataclasses.replace(
        whole,
        **{
            name: fields[""] if "" in fields else changed(getattr(whole, name), fields)
            for name, fields in parts.items()
        },
    )


def judges(*outputs, score=None, names=("pong", "breakout", "freeway"), rules=USUAL):
    played = [tasks.under(tasks.get(name), rules) for name in names]
    return [
        types.SimpleNamespace(outputs=o, game=game.name, task=game, advertised_score=score)
        for o, game in zip(outputs, played, strict=False)
    ]


pytestmark = pytest.mark.usefixtures("without_page")
PLAIN = distill_settings.Settings(experts=(ExpertSource("x"),))
Q, LOGITS, BOTH = judges("q"), judges("logits"), judges("q", "logits")
WALKS = judges("q", names=("freeway",))  # in a game without FIRE
CLAIMS = judges("q", score=20.0)
SKILLS = ("combat/movement", "combat/aiming", "combat/clicking", "combat/duel")
SKILLED = judges(*["logits"] * 4, names=SKILLS)
DATASET = {"collect.dataset": "d", "collect.steps_per_round": 0}
STUDENT_DRIVES = {"collect.expert_share_rounds": 0, "collect.final_expert_share": 0.0}


@pytest.mark.parametrize(
    ("experts", "beside", "idle"),
    [
        (Q, DATASET, {"collect.initial_steps": 64}),
        (Q, DATASET, {"collect.expert_epsilon": 0.5}),
        (Q, {"collect.steps_per_round": 0}, {"collect.final_expert_share": 0.5}),
        (Q, {"collect.steps_per_round": 0}, {"collect.expert_share_rounds": 5}),
        (Q, {"collect.steps_per_round": 0}, {"collect.change_drivers": True}),
        (Q, {"collect.steps_per_round": 0}, {"collect.student_epsilon": 0.5}),
        (Q, {"collect.final_expert_share": 1.0}, {"collect.expert_share_rounds": 5}),
        (Q, {"collect.final_expert_share": 1.0}, {"collect.change_drivers": True}),
        (Q, {"collect.final_expert_share": 1.0}, {"collect.student_epsilon": 0.5}),
        # In whole environments that is all of them.
        (
            Q,
            {"collect.num_envs": 4, "collect.final_expert_share": 0.9},
            {"collect.change_drivers": True},
        ),
        (
            Q,
            {"collect.num_envs": 4, "collect.final_expert_share": 0.9},
            {"collect.student_epsilon": 0.5},
        ),
        (Q, {"collect.num_envs": 1}, {"collect.change_drivers": True}),
        (Q, STUDENT_DRIVES, {"collect.change_drivers": True}),
        (Q, STUDENT_DRIVES | {"collect.initial_steps": 0}, {"collect.expert_epsilon": 0.5}),
        (Q, {"evaluate.report_episodes": 16}, {"evaluate.report_width": 0.0}),
        (Q, {"evaluate.report_episodes": 1}, {"evaluate.report_width": 0.1}),
        (Q, {"evaluate.select_episodes": 1}, {"learn.target_retention": 0.9}),
        (Q, {"evaluate.report_episodes": 1}, {"learn.target_retention": 0.9}),
        (Q, {}, {"learn.warm_layers": "convolutions"}),
        (Q, {"learn.loss": "kl"}, {"learn.first_loss": "kl", "learn.first_rounds": 2}),
        (
            Q,
            {"learn.loss": "kl", "learn.warm_start": "pong"},
            {"learn.first_loss": "nll", "learn.first_rounds": 2},
        ),
        (Q, {"learn.loss": "nll"}, {"learn.q_temperature": 0.1}),
        (Q, {"learn.loss": "nll", "learn.entropy_weight": 0.5}, {"learn.q_temperature": 0.1}),
        (LOGITS, {"learn.loss": "nll"}, {"learn.logits_temperature": 0.1}),
        (LOGITS, {}, {"learn.q_temperature": 0.1}),
        (Q, {}, {"learn.logits_temperature": 0.1}),
        (Q, {}, {"evaluate.sample_logits": True}),
        (Q, {"evaluate.opening_steps": 0}, {"evaluate.opening_by": "expert"}),
        (Q, {}, {"evaluate.lowest_expert_share": 0.5}),
        (CLAIMS, {"evaluate.max_steps": 500}, {"evaluate.lowest_expert_share": 0.5}),
        (
            judges("q", score=20.0, rules=Rules(end_at_life=True)),
            {"rules.end_at_life": True},
            {"evaluate.lowest_expert_share": 0.5},
        ),
        (WALKS, {}, {"rules.fire_after_life": True}),
        (BOTH, {}, {"learn.together": False}),
        (SKILLED, {}, {"learn.together": False}),
        (BOTH, {}, {"learn.resample_unseen": True}),
        (SKILLED[:1], {}, {"learn.resample_unseen": True}),
        (SKILLED[3:], {}, {"learn.resample_unseen": True}),
    ],
)
def test_a_setting_that_changes_nothing_in_a_run_is_refused(experts, beside, idle):
    with pytest.raises(ValueError) as error:
        distill_settings.refuse_idle(changed(PLAIN, beside | idle), experts)
    message = str(error.value)
    assert ": no effect where " in message and "\n" not in message
    for name, value in idle.items():
        assert f"{name} {value!r}" in message
    part, field = [*idle][-1].split(".")
    standard = getattr(getattr(PLAIN, part), field)
    assert message.endswith(f" {part}.{field} to {standard!r}") and "; set " in message
    distill_settings.refuse_idle(changed(PLAIN, beside), experts)


def test_the_same_settings_are_taken_where_they_mean_something():
    chosen = {
        "collect.initial_steps": 64,
        "collect.expert_epsilon": 0.5,
        "collect.final_expert_share": 0.5,
        "collect.expert_share_rounds": 5,
        "collect.change_drivers": True,
        "collect.student_epsilon": 0.5,
        "learn.loss": "kl",
        "learn.first_loss": "nll",
        "learn.first_rounds": 2,
        "learn.warm_start": "pong",
        "learn.q_temperature": 0.1,
        "learn.logits_temperature": 0.1,
        "evaluate.opening_steps": 10,
        "evaluate.opening_by": "expert",
        "evaluate.sample_logits": True,
        "evaluate.lowest_expert_share": 0.5,
    }
    distill_settings.refuse_idle(changed(PLAIN, chosen), judges("q", "logits", score=20.0))
    fires = Rules(fire_after_life=True)
    for names, rules in (
        (("freeway", "breakout"), fires),
        (("freeway",), dataclasses.replace(fires, full_actions=True)),
    ):
        playing = judges("q", "q", names=names, rules=rules)
        distill_settings.refuse_idle(changed(PLAIN, {"rules": rules}), playing)
    chosen = {"together": "combat/duel", "learn.together": False, "learn.resample_unseen": True}
    distill_settings.refuse_idle(changed(PLAIN, chosen), SKILLED)
    for chosen in (
        STUDENT_DRIVES | {"collect.expert_epsilon": 0.5},
        {"collect.initial_steps": 0, "collect.expert_epsilon": 0.5},
        *({name: STUDENT_DRIVES[name], "collect.change_drivers": True} for name in STUDENT_DRIVES),
        {"evaluate.report_episodes": 17, "evaluate.report_width": 0.0},
    ):
        distill_settings.refuse_idle(changed(PLAIN, chosen), Q)


def test_a_dataset_of_any_number_of_environments_is_learnt_from():
    """What is not collected need not be divisible, as 8,192 and 5,120 are not by 48."""
    chosen = changed(PLAIN, DATASET | {"collect.num_envs": 48, "collect.window_steps": 48 * 99})
    distill_settings.refuse_idle(chosen, Q)
    merged = changed(MERGED, {"collect.dataset": "d", "collect.num_envs": 48})
    merge_settings.refuse_idle(merged, judges("q", "q"))
    with pytest.raises(ValueError, match=r"^collect\.window_steps 81920 is not divisible by"):
        changed(PLAIN, DATASET | {"collect.num_envs": 48})
    for whole in (PLAIN, MERGED):
        with pytest.raises(ValueError, match=r"^collect\.initial_steps \d+ is not divisible by"):
            changed(whole, {"collect.num_envs": 48})


PPO = {"algorithm": "ppo", "network": "nature_actor_critic"}
MOVING = {"algorithm": "ppo", "network": "mlp_actor_critic", "games": ("combat/movement",)}


@pytest.mark.parametrize(
    ("beside", "idle"),
    [
        ({}, {"expert_weight": 0.5}),
        ({}, {"expert_fraction": 0.25}),
        ({}, {"q_temperature": 0.1}),
        ({}, {"logits_temperature": 0.1}),
        ({"experts": True}, {"logits_temperature": 0.1}),
        ({"experts": True, "warm_start": True, "expert_weight": 0.0}, {"expert_fraction": 0.25}),
        ({"experts": True, "warm_start": True, "expert_weight": 0.0}, {"q_temperature": 0.1}),
        ({}, {"core_width": 64}),
        ({"games": ("freeway",)}, {"rules.fire_after_life": True}),
        ({"discount": 0.0}, {"trace": 0.5}),
        ({"discount": 0.0}, {"double": True}),
        ({"discount": 0.0, "algorithm": "dqn"}, {"target_episodes": 5}),
        (
            PPO | {"experts": LOGITS, "warm_start": True, "expert_weight": 0.0},
            {"q_temperature": 0.1},
        ),
        ({"experts": True, "warm_start": True, "algorithm": "dqn"}, {"expert_weight": 0.5}),
        ({"experts": True, "warm_start": True, "algorithm": "dqn"}, {"expert_fraction": 0.25}),
        ({"experts": True, "warm_start": True, "algorithm": "dqn"}, {"q_temperature": 0.1}),
        ({}, {"average_rate": 0.5}),
        ({"rollout_steps": 1, "batch_per_game": 64}, {"trace": 0.5}),
        ({"epsilon_start": 0.1, "epsilon_end": 0.1}, {"epsilon_fraction": 0.5}),
        ({"epsilon_start": 0.0, "epsilon_end": 0.0}, {"hold_exponent": 2.0}),
        ({}, {"policy_clip": 0.1}),
        ({}, {"value_weight": 1.0}),
        ({}, {"entropy_weight": 0.1}),
        ({}, {"critic_iterations": 1}),
        ({"algorithm": "dqn"}, {"policy_clip": 0.1}),
        ({"algorithm": "dqn"}, {"angle_deviation": 3.0}),
        (PPO | {"epochs": 1, "batch_per_game": 2048}, {"policy_clip": 0.1}),
        (PPO, {"angle_deviation": 3.0}),
        (MOVING, {"angle_deviation": 3.0}),
        (PPO, {"double": True}),
        (PPO, {"average_rate": 0.5}),
        (PPO, {"epsilon_start": 0.5}),
        (PPO, {"epsilon_end": 0.5}),
        (PPO, {"epsilon_fraction": 0.5}),
        (PPO, {"epsilon_decay": 0.9}),
        ({"epsilon_start": 0.0, "epsilon_end": 0.2}, {"epsilon_decay": 0.9}),
        (PPO, {"hold_exponent": 2.0}),
        (PPO, {"updates_per_step": 0.5}),
        (PPO, {"replay_size": 5000}),
        (PPO, {"first_update": 100}),
        (PPO, {"target_episodes": 5}),
        (PPO | {"discount": 0.0}, {"trace": 0.5}),
        (PPO | {"rollout_steps": 1, "batch_per_game": 64}, {"trace": 0.5}),
        (PPO | {"experts": LOGITS}, {"q_temperature": 0.1}),
        (PPO | {"experts": True}, {"logits_temperature": 0.1}),
        (PPO, {"expert_weight": 0.5}),
    ],
)
def test_a_setting_that_changes_nothing_in_a_training_is_refused(beside, idle, monkeypatch):
    taught = beside.get("experts", [])
    monkeypatch.setattr(train_settings, "experts_of", lambda _: Q if taught is True else taught)
    if "experts" in beside:
        beside = beside | {"experts": (ExpertSource("x"),)}
    plain = train_settings.Settings(**({"games": ("pong",)} | beside))
    idle_settings.refuse_idle(plain)
    ((name, value),) = idle.items()
    *parts, last = name.split(".")
    standard = getattr(functools.reduce(getattr, parts, plain), last)
    expected = rf"^{name} {value!r}: no effect where .*; set {name} to {standard!r}$"
    with pytest.raises(ValueError, match=expected):
        idle_settings.refuse_idle(changed(plain, idle))


@pytest.mark.parametrize(
    ("student", "taught", "beside", "idle"),
    [
        ("q", "q", {}, {"network": "nature_actor_critic"}),
        ("q", "q", {}, {"compute_dtype": "bfloat16"}),
        ("q", "q", {}, {"logits_temperature": 0.5}),
        ("logits", "q", {"expert_weight": 0.0}, {"q_temperature": 0.5}),
        ("logits", "logits", {}, {"q_temperature": 0.5}),
        ("q", "logits", {"expert_weight": 0.0}, {"logits_temperature": 0.5}),
        ("q", "logits", {"expert_weight": 0.0}, {"expert_fraction": 0.25}),
    ],
)
def test_a_setting_that_changes_nothing_for_a_student_is_refused(student, taught, beside, idle):
    given = types.SimpleNamespace(
        outputs=student, teachers={"pong": types.SimpleNamespace(outputs=taught)}, rules=USUAL
    )
    plain = train_settings.Settings(games=("pong",), algorithm="ppo", student="run", **beside)
    idle_settings.refuse_idle(plain, given)
    ((name, value),) = idle.items()
    with pytest.raises(ValueError, match=rf"^{name} {value!r}: no effect where .*; set {name} to "):
        idle_settings.refuse_idle(dataclasses.replace(plain, **idle), given)


def test_the_same_settings_are_taken_where_they_mean_something_to_a_student():
    """A student's Q-values become logits, whether its experts still teach or not."""
    teachers = {"pong": types.SimpleNamespace(outputs="logits")}
    given = types.SimpleNamespace(outputs="q", teachers=teachers, rules=USUAL)
    chosen = train_settings.Settings(
        games=("pong",),
        algorithm="ppo",
        student="run",
        policy_clip=0.1,
        value_weight=1.0,
        entropy_weight=0.1,
        critic_iterations=2,
        logits_temperature=0.5,
        expert_fraction=0.25,
        q_temperature=0.1,
    )
    idle_settings.refuse_idle(chosen, given)
    idle_settings.refuse_idle(chosen)  # what is not known may be anything
    alone = dataclasses.replace(
        chosen, expert_weight=0.0, expert_fraction=0.5, logits_temperature=1.0
    )
    idle_settings.refuse_idle(alone, given)
    angles = train_settings.Settings(
        games=("combat/aiming",),
        algorithm="ppo",
        network="mlp_actor_critic",
        angle_deviation=3.0,
        trace=0.95,
    )
    idle_settings.refuse_idle(angles)


def test_fire_is_taken_where_some_game_has_it_or_the_student_was_taught_by_it():
    fires = Rules(fire_after_life=True)
    for games in (("breakout",), ("freeway", "breakout")):
        idle_settings.refuse_idle(train_settings.Settings(games=games, rules=fires))
    walks = train_settings.Settings(games=("freeway",), algorithm="ppo", student="run", rules=fires)
    taught = {"outputs": "q", "teachers": {}}
    idle_settings.refuse_idle(walks, types.SimpleNamespace(**taught, rules=fires))
    with pytest.raises(ValueError, match=r"^rules\.fire_after_life True: no effect where no game"):
        idle_settings.refuse_idle(walks, types.SimpleNamespace(**taught, rules=USUAL))


def test_independent_networks_are_judged_together(tmp_path, monkeypatch):
    """FIRE is Breakout's alone."""
    chosen = train_settings.Settings(
        games=("breakout", "freeway"), independent=True, rules=Rules(fire_after_life=True)
    )
    begun = []
    alone = types.SimpleNamespace
    monkeypatch.setattr(loop.beginning, "of", lambda one, *_: alone(settings=one, experts=()))
    monkeypatch.setattr(loop, "Training", lambda begin, *_, **__: contextlib.nullcontext(begin))
    monkeypatch.setattr(loop, "Expert", types.SimpleNamespace(load=lambda _: LOST))

    def trained(begin, *_):
        begun.extend(begin.settings.games)
        return {"step": 0, "value": 0.0, "scores": {}}

    monkeypatch.setattr(loop, "_train", trained)
    loop.train(chosen, tmp_path, mesh=ONE)
    assert begun == ["breakout", "freeway"]


def test_who_has_diverged_may_change_what_changes_something():
    def knobs(experts, **learn):
        chosen = changed(PLAIN, {f"learn.{name}": value for name, value in learn.items()})
        return set(
            rounds.changeable_after_divergence(
                types.SimpleNamespace(settings=chosen, experts=experts)
            )
        )

    tempered = {"learn.q_temperature", "learn.logits_temperature"}
    assert knobs(BOTH) & tempered == tempered
    assert knobs(Q) == knobs(BOTH) - {"learn.logits_temperature"}
    assert knobs(Q, loss="mse") == knobs(BOTH) - tempered

    plain = train_settings.Settings(games=("pong",), algorithm="pqn")
    idle = {"expert_weight", "q_temperature", "logits_temperature"}
    assert idle <= idle_settings.idle_fields(plain, ())
    taught = changed(plain, {"experts": (ExpertSource("x"),)})
    assert idle & idle_settings.idle_fields(taught, Q) == {"logits_temperature"}


LOST = types.SimpleNamespace(save=lambda *_, **__: None)


def test_a_copy_of_q_values_by_ppo_has_a_temperature(monkeypatch):
    monkeypatch.setattr(train_settings, "experts_of", lambda _: Q)
    copied = PPO | {"experts": (ExpertSource("x"),), "warm_start": True, "expert_weight": 0.0}
    idle_settings.refuse_idle(train_settings.Settings(games=("pong",), q_temperature=0.1, **copied))


def test_a_copy_begins_with_its_experts_deviations_where_they_are_known(monkeypatch):
    duel = {"algorithm": "ppo", "network": "mlp_actor_critic", "games": ("combat/duel",)}
    copied = {"experts": (ExpertSource("x"),), "warm_start": True, "expert_weight": 0.0}
    chosen = train_settings.Settings(angle_deviation=3.0, **duel, **copied)
    for known in (None, np.full(9, -2.0)):
        expert = types.SimpleNamespace(outputs="logits", suite_log_std=known)
        monkeypatch.setattr(train_settings, "experts_of", lambda _, expert=expert: [expert])
        if known is None:
            idle_settings.refuse_idle(chosen)
            continue
        with pytest.raises(
            ValueError, match=r"^angle_deviation 3\.0: no effect where warm_start .*"
        ):
            idle_settings.refuse_idle(chosen)


def test_experts_that_a_training_learns_nothing_from_are_refused(monkeypatch):
    monkeypatch.setattr(train_settings, "experts_of", lambda s: judges("q", "logits"))
    sources = (ExpertSource("x"), ExpertSource("y"))
    chosen = train_settings.Settings(
        games=("pong", "breakout"), experts=sources, logits_temperature=0.5
    )
    idle_settings.refuse_idle(chosen)
    with pytest.raises(ValueError, match="nothing is learnt from them"):
        idle_settings.refuse_idle(dataclasses.replace(chosen, expert_weight=0.0))


MERGED = merge_settings.Settings((ExpertSource("x"), ExpertSource("y")), "htcl")
ITERATED = {"method": "taylor_iterative"}


@pytest.mark.parametrize(
    ("beside", "idle"),
    [
        ({"method": "mean"}, {"merge.base": "pong"}),
        ({"method": "fisher"}, {"merge.base": "pong"}),
        ({}, {"merge.scale": 0.4}),
        ({"method": "aligned_mean"}, {"merge.loss": "kl"}),
        ({"method": "task_arithmetic"}, {"merge.batch_size": 8}),
        ({"method": "fisher"}, {"merge.damping": 1.0}),
        ({"method": "taylor_one_shot"}, {"merge.rate": 0.5}),
        (ITERATED, {"merge.clip_norm": 0.5}),
        (ITERATED, {"merge.catch_up_rounds": 2}),
        (ITERATED, {"merge.catch_up_rate": 0.5}),
        (ITERATED, {"merge.catch_up_damping": 0.5}),
        ({}, {"merge.rounds": 2}),
        ({}, {"merge.round_decay": 0.1}),
        ({"method": "fisher"}, {"merge.discount": 0.5}),
        ({"method": "mean"}, {"merge.reward_limit": 0.0}),
        ({"method": "mean"}, {"merge.reward_scale": 0.1}),
        ({"method": "mean"}, {"merge.q_temperature": 0.1}),
        ({"merge.loss": "mse"}, {"merge.discount": 0.5}),
        ({"merge.loss": "mse"}, {"merge.reward_limit": 0.0}),
        ({"merge.loss": "mse"}, {"merge.reward_scale": 0.1}),
        ({}, {"merge.q_temperature": 0.1}),
        ({"merge.loss": "mse"}, {"merge.q_temperature": 0.1}),
        ({"merge.catch_up_rounds": 0}, {"merge.catch_up_rate": 0.5}),
        ({"merge.catch_up_rounds": 0}, {"merge.catch_up_damping": 0.5}),
        (ITERATED | {"merge.rounds": 1}, {"merge.round_decay": 0.1}),
        ({"evaluate.report_episodes": 16}, {"evaluate.report_width": 0.0}),
        ({"collect.dataset": "d"}, {"collect.initial_steps": 64}),
        ({"collect.dataset": "d"}, {"collect.expert_epsilon": 0.5}),
        ({"evaluate.opening_steps": 0}, {"evaluate.opening_by": "expert"}),
        ({}, {"evaluate.lowest_expert_share": 0.5}),
        ({"evaluate.max_steps": 500}, {"evaluate.lowest_expert_share": 0.5}),
    ],
)
def test_a_setting_that_changes_nothing_in_a_merge_is_refused(beside, idle):
    ((name, value),) = idle.items()
    part, field = name.split(".")
    standard = getattr(getattr(MERGED, part), field)
    expected = rf"^{name} {value!r}: no effect where .*; set {name} to {standard!r}$"
    experts = judges("q", "q", score=20.0 if "evaluate.max_steps" in beside else None)
    with pytest.raises(ValueError, match=expected):
        merge_settings.refuse_idle(changed(MERGED, beside | idle), experts)
    merge_settings.refuse_idle(changed(MERGED, beside), experts)


def test_the_same_settings_are_taken_where_they_mean_something_to_a_merge():
    for chosen in (
        {"merge.base": "pong", "merge.damping": 1.0, "merge.rate": 0.5, "merge.clip_norm": 2.0},
        {"merge.discount": 0.5, "merge.reward_limit": 0.0, "merge.catch_up_rate": 0.1},
        {"merge.loss": "kl", "merge.q_temperature": 0.1, "merge.catch_up_damping": 2.0},
        {"method": "fisher", "merge.q_temperature": 0.1, "merge.batch_size": 8},
        {"method": "task_arithmetic", "merge.scale": 0.4, "evaluate.lowest_expert_share": 0.5},
        ITERATED | {"merge.rounds": 2, "merge.round_decay": 0.1},
        {"evaluate.opening_steps": 5, "evaluate.opening_by": "expert"},
        {"evaluate.report_episodes": 17, "evaluate.report_width": 0.0},
    ):
        merge_settings.refuse_idle(changed(MERGED, chosen), judges("q", "q", score=20.0))


@pytest.mark.parametrize(
    ("config", "argument"),
    [
        ("quickstart", None),
        ("quickstart", "pong=experts/pong.pth,freeway=experts/freeway.pth"),
        ("reference", None),
        ("reference", "breakout=experts/breakout.pth,pong=experts/pong.pth"),
        ("merge", "pong=experts/pong.pth,breakout=experts/breakout.zip"),
        ("plain_expert", "pong=runs/pong/experts/pong"),
        ("thirdparty", "weights"),
        ("lander_merge", "standard=runs/landers/experts/lander/standard"),
        *(("experiments.single", game) for game in ("pong", "breakout", "freeway")),
        *(("experiments.states", who) for who in ("fixed", "expert", "student", "half", "falling")),
        *(("skills", variant) for variant in (None, "merge", "offline", "document")),
    ],
)
def test_no_config_that_is_shipped_says_anything_idle(config, argument):
    made = importlib.import_module(f"configs.{config}").get_config(*filter(None, [argument]))
    chosen = settings_lib.build(distill_settings.Settings, made.to_dict())
    third = config == "thirdparty"
    experts = judges("q", "logits", score=20.0) if third else judges(*"q" * len(chosen.experts))
    distill_settings.refuse_idle(chosen, SKILLED if config == "skills" else experts)


def test_where_a_recipe_says_what_is_idle_the_line_says_what_to_set():
    """As of landers' experts that hold logits: the user has not given what he is told to leave."""
    lander_merge = importlib.import_module("configs.lander_merge")
    chosen = settings_lib.build(
        distill_settings.Settings, lander_merge.get_config("standard=a.zip,windy=b.zip").to_dict()
    )
    experts = judges("logits", "logits", names=("lander/standard", "lander/windy"))
    said = (
        r"^learn\.q_temperature 0\.05: no effect where no expert holds Q-values; set "
        r"learn\.q_temperature to 0\.01$"
    )
    with pytest.raises(ValueError, match=said):
        distill_settings.refuse_idle(chosen, experts)
    distill_settings.refuse_idle(changed(chosen, {"learn.q_temperature": 0.01}), experts)


@pytest.mark.parametrize("method", weight_merging.METHODS)
def test_no_merge_that_is_shipped_says_anything_idle(method):
    made = importlib.import_module("configs.merge_weights").get_config()
    chosen = settings_lib.build(merge_settings.Settings, made.to_dict() | {"method": method})
    merge_settings.refuse_idle(chosen, judges("q", "q", "q"))


@pytest.mark.parametrize(
    ("config", "argument"),
    [
        *(("skills", name) for name in ("movement", "aiming", "clicking", "scratch", "finetune")),
        ("finetune", None),
        ("train_expert", None),
        ("lander", None),
    ],
)
def test_no_training_that_is_shipped_says_anything_idle(config, argument):
    made = importlib.import_module(f"configs.{config}").get_config(*filter(None, [argument]))
    fields = made.to_dict()
    fields["games"] = fields["games"] or "pong,breakout"  # the run's
    chosen = settings_lib.build(train_settings.Settings, fields)
    teachers = dict.fromkeys(chosen.games, types.SimpleNamespace(outputs="logits"))
    student = types.SimpleNamespace(outputs="logits", teachers=teachers, rules=USUAL)
    idle_settings.refuse_idle(chosen, student if chosen.student else None)


# --- Every field of every settings dataclass has a row; the row shows two behaviours that differ.

LINEAR = networks.Network(convs=())
ONE = meshes.create(jax.devices()[:1])
ENVS, STEPS = 4, 12


@pytest.fixture(scope="module")
def world(watcher, skilled, tmp_path_factory):
    """Experts of fixed numbers, settings of a small run on them, and what they leave behind."""
    root = tmp_path_factory.mktemp("world")
    watcher("asterix", 1, "q").save(root / "asterix")
    watcher("asterix", 3, "q").save(root / "other")
    watcher("carnival", 2, "logits").save(root / "carnival")
    watcher("carnival", 2, "q").save(root / "valued")
    loud = dataclasses.replace(watcher("asterix", 1, "q"), advertised_score=1e6)
    loud.save(root / "loud")
    twin = dataclasses.replace(
        watcher("asterix", 1, "q"), network=LINEAR, params=networks.init(LINEAR, KEY, SHAPE)
    )
    twin.save(root / "twin")
    seeing = networks.create("net3")
    params = networks.init(seeing, KEY, SHAPE)
    dataclasses.replace(twin, network=seeing, params=params).save(root / "seeing")
    for name in SKILLS[:3]:
        skilled(name.partition("/")[2]).save(root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "linear", LINEAR)
        patch.setitem(networks.NETWORKS, "wide", networks.Network(convs=(), action_hidden=(4,)))
        patch.setitem(networks.NETWORKS, "critic", CRITIC)
        yield World(root)


KEY, SHAPE = jax.random.key(0), (4, 84, 84)
CRITIC = networks.Network(convs=(), head="actor_critic")


class World:
    """Where the experts are, and every way of looking at what settings of them do."""

    def __init__(self, root):
        self.root, self._count, self._seen = root, 0, {}
        self.settings = distill_settings.Settings(
            experts=(self.source("asterix"), self.source("carnival")),
            network="linear",
            collect=distill_settings.Collect(
                num_envs=ENVS,
                initial_steps=ENVS * STEPS,
                steps_per_round=ENVS * 4,
                window_steps=ENVS * STEPS,
            ),
            learn=distill_settings.Learn(
                rounds=2, updates_per_round=2, batch_per_game=8, loss="kl"
            ),
            evaluate=distill_settings.Evaluate(
                every_rounds=1,
                select_episodes=2,
                report_episodes=2,
                max_steps=24,
                opening_steps=4,
            ),
        )
        self.merge = merge_settings.Settings(
            experts=(self.source("asterix"), self.source("valued")),
            method="htcl",
            collect=merge_settings.Collect(num_envs=ENVS, initial_steps=ENVS * STEPS),
            merge=weight_merging.Merge(batch_size=16, catch_up_rounds=0),
        )
        self.training = train_settings.Settings(
            games=("asterix",),
            network="linear",
            num_envs=ENVS,
            rollout_steps=4,
            total_steps=ENVS * 4 * 2,
            epochs=1,
            batch_per_game=8,
            eval_every=ENVS * 4,
            eval_episodes=1,
            final_episodes=2,
            max_steps=12,
        )

    @functools.cached_property
    def student(self):
        """A run with a student of Q-values and logits."""
        workdir = self.fresh()
        once = changed(self.settings, {"learn.rounds": 1})
        distill.distill(once, workdir, mesh=ONE, stop_after="train")
        return workdir

    @functools.cached_property
    def data(self):
        """A dataset of other length."""
        longer = changed(self.settings, {"collect.initial_steps": ENVS * 15})
        data.collect(longer, self.root / "data", ONE)
        return self.root / "data"

    def source(self, name):
        return ExpertSource(str(self.root / name))

    def fresh(self):
        """A directory of its own."""
        self._count += 1
        (directory := self.root / f"fresh{self._count}").mkdir()
        return directory

    def look(self, how, settings):
        """What one of the ways below shows; once is enough."""
        if (how, settings) not in self._seen:
            self._seen[how, settings] = jax.device_get(getattr(self, how)(settings))
        return self._seen[how, settings]

    # A run.

    def loaded(self, settings):
        """The experts' labels of one stack, and their games."""
        made = common.Run(settings, ONE)
        stacks = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
        return made.names, [e.suite_outputs(stacks) for e in made.experts], np.asarray(made.masks)

    def gathered(self, settings):
        """What is played, labelled, learnt from and chosen by, and labels of one shown state."""
        made = common.Run(settings, ONE)
        shown = np.random.default_rng(0).uniform(-1, 1, (3, *made.stored.shape)).astype(np.float32)
        said = [lesson.teacher.judge(lesson.teacher.params, shown) for lesson in made.lessons]
        return said, np.asarray(made.masks), made.deciding, len(made.taught)

    def begun(self, settings):
        """The student's first parameters."""
        return warm_start.initial_params(common.Run(settings, ONE))

    def said(self, settings):
        """What the student says of one stack."""
        made = common.Run(settings, ONE)
        stacks = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
        return networks.forward(made.network, networks.init(LINEAR, KEY, SHAPE), stacks)

    def played(self, settings):
        """What is collected in two turns, half of it by the student."""
        made = common.Run(settings, ONE)
        collector = made.make_collector()
        return [collector.collect(3, networks.init(LINEAR, KEY, SHAPE), 0.5) for _ in range(2)]

    def ruled(self, settings):
        """What may be pressed in a run, and a play of Breakout by its rules, without FIRE."""
        made = common.Run(settings, ONE)
        return np.asarray(made.masks), _by_rules(made.lessons[0].task.rules)

    def trained_by(self, settings):
        """As `ruled`, of a training."""
        (task,) = settings.tasks
        return task.mask, _by_rules(task.rules)

    def shares(self, settings):
        """The experts' share of the environments in six rounds."""
        return [distill_settings.expert_share_at(settings, index) for index in range(6)]

    def window(self, settings):
        """The states that are learnt from, after 2 x `STEPS` steps."""
        made = common.Run(settings, ONE)
        log = types.SimpleNamespace(length=2 * STEPS, read=lambda a, b: self._chunk(made, b - a))
        return data.window_of(made, log).window

    def _chunk(self, made, steps):
        """Made-up states of every task that is learnt from."""
        rng = np.random.default_rng(0)
        shape = (len(made.taught), steps, made.settings.collect.num_envs)
        frames = rng.uniform(-1, 1, (*shape, *made.stored.shape[1:])).astype(np.float32)
        if made.suite.frame_dtype == "uint8":
            frames = (127.5 * (1 + frames)).astype(np.uint8)
        return collection.Chunk(
            frames=frames,
            labels=rng.normal(size=(*shape, made.suite.num_actions)).astype(np.float32),
            actions=np.zeros((*shape, *made.suite.form.action_shape), np.uint8),
            ages=np.full(shape, 9, np.uint8),
            usable=np.ones(shape, bool),
        )

    def learnt(self, settings):
        """The student that plays after one round of updates."""
        made = common.Run(settings, ONE)
        state = distill_settings.create_state(made.settings, warm_start.initial_params(made), ONE)
        buffer = windows.WindowBuffer(
            len(made.taught),
            ENVS,
            STEPS,
            made.stored.shape[1:],
            made.suite.num_actions,
            ONE,
            depth=made.stored.stack,
            frame_dtype=made.suite.frame_dtype,
        )
        buffer.append(self._chunk(made, STEPS))
        state, numbers = rounds.make_update(made)(state, buffer.window, KEY)
        return state.eval_params, numbers["loss"], state.step

    def stored(self, settings):
        """The steps that learning begins with, and whether more are collected."""
        made = common.Run(settings, ONE)
        log, collector = data.resume(made, self.fresh(), None, clocks.Timer())
        return log.length, collector is None

    def measured(self, settings):
        """Whole games of the experts."""
        made = common.Run(settings, ONE)
        scores = made.measure(made.expert_policy(), lessons.REPORT, 6)
        return [(s.scores, s.lengths) for s in scores]

    def reported(self, settings):
        """How many games of random play, expert and student a run reports."""
        made = common.Run(settings, ONE)
        scores = made.play_reported(warm_start.initial_params(made))
        return {who: len(x.scores) for who, x in scores[0]._asdict().items()}

    def accepted(self, settings):
        """Whether a run goes on with its experts' scores."""
        try:
            distill.distill(settings, self.fresh(), mesh=ONE, stop_after="baselines")
        except ValueError as error:
            if "of the 1e+06 it advertises" not in str(error):
                raise
            return False
        return True

    def ended(self, settings):
        """How many of two rounds are learnt by a student that keeps half from the first on."""
        workdir = self.fresh()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choosing, "_kept", lambda baselines, means: [0.5] * len(means))
            distill.distill(settings, workdir, mesh=ONE, stop_after="train")
        return sum("loss" in row for row in metrics.read(workdir))

    def trained(self, settings):
        """Counts of a whole run, without its report."""
        workdir = self.fresh()
        distill.distill(settings, workdir, mesh=ONE, stop_after="train")
        rows = metrics.read(workdir)
        return {
            "rounds": sum("loss" in row for row in rows),
            "evaluations": sum("score/asterix" in row for row in rows),
            "followed": sum("expert_score/asterix" in row for row in rows),
            "steps": dataset.open_log(workdir / "dataset").length,
            "select": max(row.get("select_games", 0) for row in rows),
        }

    # A merge of weights.

    def mergeable(self, settings):
        """Whether its experts are of the network that is named."""
        try:
            merge_settings.resolve_defaults(settings, load_experts(settings.experts))
        except ValueError as error:
            if not str(error).startswith("network is "):
                raise
            return False
        return True

    def merged(self, settings):
        """What weights become by made-up states."""
        experts = load_experts(settings.experts)
        settings = merge_settings.resolve_defaults(settings, experts)
        made = common.Run(settings.as_run(), ONE)
        chunk, rng = self._chunk(made, STEPS), np.random.default_rng(1)
        log = types.SimpleNamespace(
            length=STEPS, read=lambda a, b: chunk, actions=lambda length: chunk.actions
        )
        shape = chunk.actions.shape
        worth = rng.normal(scale=3, size=shape).astype(np.float32), rng.random(shape) < 0.1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merge_weights, "_replayed", lambda *given: worth)
            return merge_weights._merged(
                merge_weights._given(made, settings, experts, self.fresh()), log
            )

    # A training.

    def exploring(self, settings):
        """The chance of exploring in every iteration, in each of which three games end."""
        chosen = dataclasses.replace(settings, total_steps=100 * settings.steps_per_iteration)
        return [exploration.epsilon_at(chosen, index, episodes=3 * index) for index in range(100)]

    def explored(self, settings):
        """Actions of three turns of exploration."""
        explorer = exploration.Explorer(settings, [tasks.get(x).actions for x in settings.games])
        greedy = np.full((len(settings.games), settings.num_envs), 17)
        return [explorer(greedy, turn, 0.5) for turn in range(3)]

    def weights(self, settings):
        """How much experts count in every iteration."""
        chosen = dataclasses.replace(settings, total_steps=100 * settings.steps_per_iteration)
        return [train_settings.expert_weight_at(chosen, index) for index in range(100)]

    def acted(self, settings):
        """Greedy actions and their values."""
        masks = np.stack([tasks.get(name).mask for name in settings.games])
        act = exploration.make_act(settings, LINEAR, masks)
        params, average = (networks.init(LINEAR, jax.random.key(i), SHAPE) for i in (0, 1))
        stacks = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
        return act(params, average, (stacks,), np.zeros((1, 3), bool), ((), ()))

    def improved(self, settings):
        """Parameters after one learning phase on made-up steps."""
        shape = (len(settings.games), settings.rollout_steps, settings.num_envs)
        rng = np.random.default_rng(0)
        frames = (shape[0], shape[1] + 3, shape[2])
        experts = train_settings.experts_of(settings)
        rollout = Rollout(
            actions=np.zeros(shape, np.int32),
            rewards=rng.normal(size=shape).astype(np.float32),
            ended=np.zeros(shape, bool),
            truncated=np.zeros(shape, bool),
            valid=np.ones(shape, bool),
            values=np.zeros(shape, np.float32),
            next_values=rng.normal(size=shape).astype(np.float32),
            frames=rng.integers(0, 256, (*frames, 84, 84)).astype(np.uint8),
            ages=np.full(frames, 3, np.uint8),
        )
        taught = pqn.Taught([expert.params for expert in experts], np.float32(1.0))
        transform = train_settings.optimiser(settings)
        update = pqn.make_update(
            LINEAR,
            transform,
            ONE,
            objective=pqn.objective_of(settings, experts),
            passes=Passes(settings.batch_per_game, settings.epochs),
        )
        state = learner.create_state(networks.init(LINEAR, KEY, SHAPE), transform, ONE)
        rollout, taught = jax.device_put((rollout, taught), meshes.replicated(ONE))
        state, _ = update(state, rollout, KEY, taught)
        return state.params, state.step

    def opened(self, settings):
        """A training before its first step: parameters, what they say, and its emulators."""
        student = finetuning.student_of(settings, self.fresh())
        with learning.Training.of(settings, self.fresh(), ONE, student) as training:
            stacks = np.random.default_rng(0).integers(0, 256, (1, *SHAPE)).astype(np.uint8)
            params = training.state.params
            pools = training._collector.pools
            said = networks.forward(training.network, params, stacks)
            return params, said, [pool.last.observations for pool in pools]

    def cut(self, settings):
        """Whether games are over after so many steps."""
        with learning.Training.of(settings, self.fresh(), ONE) as training:
            (pool,) = training._collector.pools
            return [pool.step(np.zeros(ENVS, np.int64)).truncated for _ in range(14)]

    def iterated(self, settings):
        """The slow average after an iteration."""
        with learning.Training.of(settings, self.fresh(), ONE) as training:
            training.iterate()
            return training._learner._average

    def rewarded(self, settings):
        """What the steps of an iteration are learnt to be worth, and what its games scored."""
        with learning.Training.of(settings, self.fresh(), ONE) as training:
            update, rollouts = training._learner._update, []

            def spy(state, rollout, key, taught):
                rollouts.append(np.asarray(rollout.rewards))
                return update(state, rollout, key, taught)

            training._learner._update = spy
            training.iterate()
            scores = [pool.last.scores for pool in training._collector.pools]
        assert np.any(rollouts[0]) and np.any(scores), "a play in which nothing happens"
        return rollouts[0]

    def playing(self, settings):
        """The network that is evaluated and saved, and its updates, after two iterations."""
        with learning.Training.of(settings, self.fresh(), ONE) as training:
            training.iterate()
            training.iterate()
            return training.state.eval_params, training.state.step

    def carried(self, settings):
        """What is carried on after an iteration, and what is learnt of it."""
        with learning.Training.of(settings, self.fresh(), ONE) as training:
            training.iterate()
            return training._actor.carry, training.state.params

    def evaluated(self, settings):
        """What a network that is evaluated plays."""
        with learning.Training.of(settings, self.fresh(), ONE) as training:
            stacks = np.random.default_rng(0).integers(0, 256, (40, *SHAPE)).astype(np.uint8)
            act = training._evaluate_act
            return act(training.state.params, (stacks,), KEY, (0,), (np.arange(40),))

    def scored(self, settings):
        """Where evaluated games are when they are cut."""
        play, lengths = evaluation.measure, []

        def spy(*arguments, **more):
            played = play(*arguments, **more)
            lengths.extend((s.lengths, s.scores, s.starts) for s in played)
            return played

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation, "measure", spy)
            with learning.Training.of(settings, self.fresh(), ONE) as training:
                training.evaluate()
        return lengths

    def apart(self, settings):
        """What the networks of a training's tasks have learnt in an iteration."""
        workdir = self.fresh()
        loop.train(settings, workdir, mesh=ONE, stop_at=1)
        return [Expert.load(workdir / "experts" / name).params for name in settings.games]

    def finished(self, settings):
        """Counts of a whole training."""
        workdir, episodes = self.fresh(), []
        play = evaluation.measure

        def spy(chosen, policy, protocol, count, *rest, **more):
            episodes.append(count)
            return play(chosen, policy, protocol, count, *rest, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation, "measure", spy)
            loop.train(settings, workdir, mesh=ONE)
        rows = metrics.read(workdir)
        return {
            "steps": max(row["step"] for row in rows),
            "evaluations": sum("eval/asterix" in row for row in rows),
            "episodes": episodes[0],
            "final": episodes[-1],
        }


@functools.cache
def _by_rules(rules):
    pool = tasks.under(tasks.get("breakout"), rules).pool(1, seed=3)
    told = []
    for action in np.random.default_rng(0).choice([0, 3, 4], 150):
        told.append((pool.states.item(), pool.last.over.item()))
        pool.step(np.array([action]))
    return np.array(told)


def differ(one, other):
    """Whether two trees of arrays do, in shape or in any number."""
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    if len(leaves[0]) != len(leaves[1]):
        return True
    return not all(map(_alike, *leaves))


def _alike(one, other):
    one, other = np.asarray(one), np.asarray(other)
    return np.array_equal(one, other, equal_nan=jnp.issubdtype(one.dtype, np.floating))


# What looks at the field, what it is changed to, and what must stand beside it to have an effect.
RULES = {
    "repeat_action_probability": 0.25,
    "fire_after_life": True,
    "noop_max": 1,
    "mode": 4,
    "difficulty": 1,
    "end_at_life": True,
    "frame_skip": 3,
    "full_actions": True,
}
RUN = {
    "experts": ("loaded", lambda world: (world.source("other"), world.source("carnival"))),
    "together": ("gathered", "combat/duel"),
    "view": ("learnt", "document"),
    **{f"rules.{name}": ("ruled", value) for name, value in RULES.items()},
    "network": ("begun", "wide"),
    "convolutions": ("begun", "8x8/4,4x3/2"),
    "compute_dtype": ("said", "bfloat16"),
    "seed": ("played", 1),
    "collect.num_envs": ("played", 8),
    "collect.initial_steps": ("stored", ENVS * 5),
    "collect.steps_per_round": ("trained", ENVS * 6),
    "collect.window_steps": ("window", ENVS * 6),
    "collect.expert_share_rounds": ("shares", 3),
    "collect.final_expert_share": ("shares", 0.5),
    "collect.change_drivers": ("played", True),
    "collect.expert_epsilon": ("played", 1.0),
    "collect.student_epsilon": ("played", 1.0),
    "collect.dataset": ("stored", lambda world: str(world.data)),
    "collect.follow": ("trained", True),
    "learn.rounds": ("trained", 3),
    "learn.updates_per_round": ("learnt", 3),
    "learn.batch_per_game": ("learnt", 4),
    "learn.shares": ("learnt", "carnival=2"),
    "learn.loss": ("learnt", "nll"),
    "learn.first_loss": ("learnt", "hinton_kl"),
    "learn.first_rounds": ("learnt", 9),
    "learn.q_temperature": ("learnt", 0.1),
    "learn.logits_temperature": ("learnt", 0.1),
    "learn.entropy_weight": ("learnt", 0.5),
    "learn.warm_start": ("begun", "asterix"),
    "learn.warm_layers": ("begun", "convolutions"),
    "learn.target_retention": ("ended", 1e-6),
    "learn.ema_decay": ("learnt", 0.0),
    "learn.optimiser": ("learnt", "radam"),
    "learn.learning_rate": ("learnt", 1e-2),
    "learn.final_rate_fraction": ("learnt", 1.0),
    "learn.weight_decay": ("learnt", 0.5),
    "learn.clip_norm": ("learnt", 1e-8),
    "learn.resample_unseen": ("learnt", True),
    "learn.together": ("learnt", False),
    "evaluate.every_rounds": ("trained", 3),
    "evaluate.select_episodes": ("trained", 3),
    "evaluate.report_episodes": ("reported", 3),
    "evaluate.report_width": ("reported", 100.0),
    "evaluate.expert_ratio": ("reported", 2),
    "evaluate.epsilon": ("measured", 1.0),
    "evaluate.sample_logits": ("measured", True),
    "evaluate.max_steps": ("measured", 30),
    "evaluate.opening_steps": ("measured", 20),
    "evaluate.opening_by": ("measured", "expert"),
    "evaluate.lowest_expert_share": ("accepted", 0.0),
}


def _skills(**beside):
    """A run of three skills."""
    return lambda world: {
        "experts": tuple(map(world.source, SKILLS[:3])),
        "network": "skills",
        **beside,
    }


RUN_BESIDE = {
    "together": _skills(),
    "view": _skills(),
    "convolutions": {"network": "net3"},
    "learn.resample_unseen": _skills(),
    "learn.together": _skills(together="combat/duel"),
    "collect.final_expert_share": {"collect.expert_share_rounds": 3},
    "collect.dataset": {"collect.steps_per_round": 0},
    "learn.first_loss": {"learn.first_loss": "nll", "learn.first_rounds": 2},
    "learn.first_rounds": {"learn.first_loss": "nll", "learn.first_rounds": 2},
    "learn.warm_start": lambda world: {"experts": (world.source("twin"),)},
    "learn.warm_layers": lambda world: {
        "network": "net3",
        "experts": (world.source("seeing"),),
        "learn.warm_start": "asterix",
    },
    "evaluate.opening_by": {"evaluate.opening_steps": 20},
    # An expert that 16 games tell from random play, or no width would be enough.
    "evaluate.report_width": lambda world: {
        "evaluate.report_episodes": 17,
        "evaluate.max_steps": 60,
        "experts": (world.source("combat/clicking"),),
        "network": "skills",
    },
    # Of whole games, which claims are of.
    "evaluate.lowest_expert_share": lambda world: {
        "experts": (world.source("loud"),),
        "evaluate.max_steps": None,
    },
}
MERGE = {
    "experts": ("merged", lambda world: (world.source("other"), world.source("valued"))),
    "method": ("merged", "task_arithmetic"),
    "network": ("mergeable", "wide"),
    "seed": ("merged", 1),
    "merge.base": ("merged", "carnival"),
    "merge.scale": ("merged", 0.4),
    "merge.loss": ("merged", "mse"),
    "merge.q_temperature": ("merged", 10.0),
    "merge.discount": ("merged", 0.5),
    "merge.reward_limit": ("merged", 0.0),
    "merge.reward_scale": ("merged", 0.1),
    "merge.batch_size": ("merged", 8),
    "merge.damping": ("merged", 1.0),
    "merge.rate": ("merged", 0.5),
    "merge.clip_norm": ("merged", 0.5),
    "merge.catch_up_rounds": ("merged", 1),
    "merge.catch_up_rate": ("merged", 1e-5),
    "merge.catch_up_damping": ("merged", 1e-3),
    "merge.rounds": ("merged", 2),
    "merge.round_decay": ("merged", 1.0),
}
SUMMED = {"method": "task_arithmetic"}
MERGE_BESIDE = {
    "merge.base": SUMMED,
    "merge.scale": SUMMED,
    "merge.q_temperature": {"method": "fisher"},
    # A rate so small that the loss falls.
    "merge.catch_up_rounds": {"merge.catch_up_rate": 1e-6},
    "merge.catch_up_rate": {"merge.catch_up_rounds": 1, "merge.catch_up_rate": 1e-6},
    "merge.catch_up_damping": {"merge.catch_up_rounds": 1, "merge.catch_up_rate": 1e-6},
    "merge.rate": {"merge.clip_norm": 1e3},  # or it is shortened to the same length
    "merge.rounds": ITERATED,
    "merge.round_decay": ITERATED,
}
# What a merge hands on to the stages that it shares with a run, as rows of `RUN` show them.
HANDED_ON = (
    *("collect.num_envs", "collect.initial_steps", "collect.expert_epsilon", "collect.dataset"),
    *("evaluate.report_episodes", "evaluate.report_width", "evaluate.expert_ratio"),
    *("evaluate.epsilon", "evaluate.max_steps", "evaluate.opening_steps", "evaluate.opening_by"),
    "evaluate.lowest_expert_share",
)
TRAINING = {
    "games": ("opened", ("carnival",)),
    "independent": ("apart", True),
    "algorithm": ("playing", "dqn"),
    "student": ("opened", lambda world: str(world.student)),
    **{f"rules.{name}": ("trained_by", value) for name, value in RULES.items()},
    "network": ("opened", "wide"),
    "core": ("carried", "gru"),
    "core_width": ("carried", 3),
    "compute_dtype": ("opened", "bfloat16"),
    "seed": ("explored", 1),
    "num_envs": ("explored", 8),
    "rollout_steps": ("improved", 8),
    "total_steps": ("finished", ENVS * 4 * 3),
    "epochs": ("improved", 2),
    "updates_per_step": ("playing", 0.5),
    "batch_per_game": ("improved", 4),
    "replay_size": ("playing", ENVS * 5),
    "first_update": ("playing", ENVS * 6),
    "target_episodes": ("playing", 1),
    "optimiser": ("improved", "adamw"),
    "learning_rate": ("improved", 1e-2),
    "final_rate_fraction": ("improved", 1.0),
    "clip_norm": ("improved", 1e-8),
    "ema_decay": ("playing", 0.5),
    "reward_limit": ("rewarded", 0.0),
    "reward_scale": ("rewarded", 0.5),
    "discount": ("improved", 0.5),
    "trace": ("improved", 0.1),
    "policy_clip": ("playing", 0.01),
    "value_weight": ("playing", 2.0),
    "entropy_weight": ("playing", 0.5),
    "critic_iterations": ("playing", 1),
    "angle_deviation": ("playing", 3.0),
    "epsilon_start": ("exploring", 0.5),
    "epsilon_end": ("exploring", 0.5),
    "epsilon_fraction": ("exploring", 0.5),
    "epsilon_decay": ("exploring", 0.9),
    "hold_exponent": ("explored", 1.2),
    "double": ("acted", True),
    "average_rate": ("iterated", 0.5),
    "eval_every": ("finished", ENVS * 4 * 3),
    "eval_episodes": ("finished", 2),
    "eval_epsilon": ("evaluated", 1.0),
    "final_episodes": ("finished", 3),
    "max_steps": ("cut", 6),
    "opening_steps": ("scored", 2),
    "experts": ("improved", lambda world: (world.source("other"),)),
    "expert_weight": ("weights", 0.5),
    "expert_fraction": ("weights", 0.25),
    "q_temperature": ("improved", 0.1),
    "logits_temperature": ("improved", 0.1),
    "warm_start": ("opened", True),
}


def _taught(name, game="asterix"):
    return lambda world: {"experts": (world.source(name),), "games": (game,)}


# Long enough for Carnival to give its 20 points and more.
SCORING = {
    "games": ("carnival",),
    "rollout_steps": 32,
    "total_steps": ENVS * 32,
    "max_steps": 60,
}
DQN = {"algorithm": "dqn", "first_update": ENVS}
AIMING = {"games": ("combat/aiming",), "algorithm": "ppo", "network": "critic", "max_steps": 12}
TRAINING_BESIDE = {
    "independent": {"games": ("asterix", "carnival")},
    "algorithm": {"first_update": ENVS},
    "student": {"algorithm": "ppo", "network": "critic"},
    # At a rate at which a policy leaves what it was within an iteration.
    "policy_clip": AIMING | {"learning_rate": 0.05},
    "value_weight": AIMING,
    "entropy_weight": AIMING,
    "critic_iterations": AIMING,
    "angle_deviation": AIMING,
    "updates_per_step": DQN,
    "replay_size": DQN,
    "first_update": DQN,
    # In the first iteration four games are cut at their limit.
    "target_episodes": DQN | {"rollout_steps": 16, "total_steps": ENVS * 32},
    "reward_limit": SCORING,
    "reward_scale": SCORING,
    "max_steps": {"opening_steps": 2},
    "average_rate": {"double": True},
    "core_width": {"core": "lstm"},
    "expert_weight": _taught("asterix"),
    "expert_fraction": _taught("asterix"),
    "q_temperature": _taught("asterix"),
    "logits_temperature": _taught("carnival", "carnival"),
    "warm_start": _taught("twin"),
}


def fields_of(cls, prefix=""):
    """Dotted names of all fields, those of nested settings too."""
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            yield from fields_of(type(field.default), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def test_every_field_has_a_row():
    assert sorted(RUN) == sorted(fields_of(distill_settings.Settings))
    assert sorted(TRAINING) == sorted(fields_of(train_settings.Settings))
    assert sorted((*MERGE, *HANDED_ON)) == sorted(fields_of(merge_settings.Settings))


def _base(world, base, name, beside):
    """The settings that a row's field is changed in."""
    besides = beside.get(name, {})
    return changed(base, besides(world) if callable(besides) else besides)


def _compare(world, base, name, table, beside):
    look, value = table[name]
    base = _base(world, base, name, beside)
    other = changed(base, {name: value(world) if callable(value) else value})
    behaviours = [world.look(look, settings) for settings in (base, other)]
    assert differ(*behaviours), f"{name} changes nothing"
    return behaviours


TABLES = {
    "settings": (RUN, RUN_BESIDE),
    "merge": (MERGE, MERGE_BESIDE),
    "training": (TRAINING, TRAINING_BESIDE),
}
# Where each way of looking is used for the first time; but those that count.
FIRST = {
    row[0]: (of, name)
    for of, (table, _) in reversed(TABLES.items())
    for name, row in reversed(table.items())
    if row[0] not in ("trained", "finished")
}


@pytest.mark.parametrize("look", FIRST)
def test_equal_settings_look_alike(world, look):
    """Or what the rows show would be no effect of theirs."""
    of, name = FIRST[look]
    settings = _base(world, getattr(world, of), name, TABLES[of][1])
    seen = world.look(look, settings)
    _by_rules.cache_clear()
    assert not differ(seen, jax.device_get(getattr(world, look)(settings)))


@pytest.mark.parametrize("name", [name for name, row in RUN.items() if row[0] != "trained"])
def test_every_field_of_a_run_changes_something(world, name):
    _compare(world, world.settings, name, RUN, RUN_BESIDE)


@pytest.mark.parametrize("name", MERGE)
def test_every_field_of_a_merge_changes_something(world, name):
    _compare(world, world.merge, name, MERGE, MERGE_BESIDE)


@pytest.mark.parametrize("name", HANDED_ON)
def test_a_merge_hands_on_what_a_run_has_an_effect_of(world, name):
    value = "elsewhere" if name == "collect.dataset" else RUN[name][1]
    given = [world.merge, changed(world.merge, {name: value})]
    before, after = (settings_lib.flatten(dataclasses.asdict(x.as_run()))[name] for x in given)
    assert before != after == value


@pytest.mark.parametrize("name", [name for name, row in TRAINING.items() if row[0] != "finished"])
def test_every_field_of_a_training_changes_something(world, name):
    _compare(world, world.training, name, TRAINING, TRAINING_BESIDE)


@pytest.mark.parametrize("loss", ["mse", "huber", "advantage_mse"])
def test_entropy_of_q_values_has_a_temperature(world, loss):
    """Where the loss itself knows none: what is taken off it is at the experts' temperature."""
    experts = {"experts": (world.source("asterix"), world.source("valued"))}
    base = changed(world.settings, experts | {"learn.loss": loss})
    changes = []
    for weight in (0.0, 0.5):
        one = changed(base, {"learn.entropy_weight": weight})
        other = changed(one, {"learn.q_temperature": 0.1})
        changes.append(differ(world.look("learnt", one), world.look("learnt", other)))
        if weight:
            distill_settings.refuse_idle(other, Q)
        else:
            with pytest.raises(
                ValueError, match=rf"^learn\.q_temperature .* '{loss}', which knows"
            ):
                distill_settings.refuse_idle(other, Q)
    assert changes == [False, True]


def test_a_whole_run_counts_as_its_settings_say(world):
    """Those whose effect takes a whole run, in one: each is told by a count of its own."""
    rows = {name: value for name, (look, value) in RUN.items() if look == "trained"}
    assert world.trained(world.settings) == {
        "rounds": 2,
        "evaluations": 2,
        "followed": 0,
        "steps": STEPS + 2 * 4,
        "select": 2,
    }
    assert world.trained(changed(world.settings, rows)) == {
        "rounds": rows.pop("learn.rounds"),
        "evaluations": 3 // rows.pop("evaluate.every_rounds"),
        "followed": 1 if rows.pop("collect.follow") else 0,
        "steps": STEPS + 3 * rows.pop("collect.steps_per_round") // ENVS,
        "select": rows.pop("evaluate.select_episodes"),
    }
    assert not rows


def test_a_whole_training_counts_as_its_settings_say(world):
    rows = {name: value for name, (look, value) in TRAINING.items() if look == "finished"}
    base = {"steps": ENVS * 4 * 2, "evaluations": 2, "episodes": 1, "final": 2}
    assert world.finished(world.training) == base
    assert world.finished(changed(world.training, rows)) == {
        "steps": rows["total_steps"],
        "evaluations": rows.pop("total_steps") // rows.pop("eval_every"),
        "episodes": rows.pop("eval_episodes"),
        "final": rows.pop("final_episodes"),
    }
    assert not rows


GOLDEN = pathlib.Path(__file__).parent / "golden"


def test_every_field_of_an_experts_source_changes_something(world, tmp_path):
    spec = (GOLDEN / "expert_dueling.toml").read_text()
    spec = spec.replace('game = "breakout"', "")  # or no other game may be asked for
    (tmp_path / "one.toml").write_text(spec)
    (tmp_path / "other.toml").write_text(spec.replace('outputs = "q"', 'outputs = "logits"'))
    file, one = str(GOLDEN / "expert_dueling.pth"), str(tmp_path / "one.toml")
    base = ExpertSource(file, spec=one, game="breakout")
    rows = {
        "path": ExpertSource(str(world.root / "asterix")),
        "spec": ExpertSource(file, spec=str(tmp_path / "other.toml"), game="breakout"),
        "game": ExpertSource(file, spec=one, game="kaboom"),
        "rules": ExpertSource(file, spec=one, game="breakout", rules="noop_max=1"),
    }
    assert sorted(rows) == sorted(fields_of(ExpertSource))
    seen = {
        (expert.name, expert.outputs, expert.game, expert.rules)
        for expert in (load_experts([source])[0] for source in (base, *rows.values()))
    }
    assert len(seen) == 5
