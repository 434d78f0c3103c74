"""No setting without effect: every one changes something that can be seen, or is refused."""

import dataclasses
import importlib
import types

import pytest

from jaxdistill import qlearning, recipe
from jaxdistill import settings as settings_lib
from jaxdistill.experts.sources import ExpertSource


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


def judges(*outputs, score=None):
    names = ("pong", "breakout", "freeway")
    return [
        types.SimpleNamespace(outputs=o, game=game, advertised_score=score)
        for o, game in zip(outputs, names, strict=False)
    ]


PLAIN = recipe.Settings(experts=(ExpertSource("x"),))
Q, LOGITS, BOTH = judges("q"), judges("logits"), judges("q", "logits")
DATASET = {"collect.dataset": "d", "collect.steps_per_round": 0}


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
        (Q, {"collect.num_envs": 1}, {"collect.change_drivers": True}),
        (Q, {"learn.loss": "kl"}, {"learn.first_loss": "kl", "learn.first_rounds": 2}),
        (
            Q,
            {"learn.loss": "kl", "learn.warm_start": "pong"},
            {"learn.first_loss": "nll", "learn.first_rounds": 2},
        ),
        (Q, {"learn.loss": "nll"}, {"learn.q_temperature": 0.1}),
        (LOGITS, {"learn.loss": "nll"}, {"learn.logits_temperature": 0.1}),
        (LOGITS, {}, {"learn.q_temperature": 0.1}),
        (Q, {}, {"learn.logits_temperature": 0.1}),
        (Q, {}, {"evaluate.sample_logits": True}),
        (Q, {"evaluate.opening_steps": 0}, {"evaluate.opening_by": "expert"}),
        (Q, {}, {"evaluate.lowest_expert_share": 0.5}),
    ],
)
def test_a_setting_that_changes_nothing_in_a_run_is_refused(experts, beside, idle):
    with pytest.raises(ValueError) as error:
        recipe.refuse_idle(changed(PLAIN, beside | idle), experts)
    message = str(error.value)
    assert ": no effect where " in message and "\n" not in message
    for name, value in idle.items():
        assert f"{name} {value!r}" in message
    part, field = [*idle][-1].split(".")
    standard = getattr(getattr(PLAIN, part), field)
    assert message.endswith((f"leave at {standard!r}", f", {standard!r}"))
    recipe.refuse_idle(changed(PLAIN, beside), experts)


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
    recipe.refuse_idle(changed(PLAIN, chosen), judges("q", "logits", score=20.0))


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
        ({"discount": 0.0}, {"trace": 0.5}),
        ({"discount": 0.0}, {"double": True}),
        ({}, {"average_rate": 0.5}),
        ({"rollout_steps": 1, "batch_per_game": 64}, {"trace": 0.5}),
        ({"epsilon_start": 0.1, "epsilon_end": 0.1}, {"epsilon_fraction": 0.5}),
    ],
)
def test_a_setting_that_changes_nothing_in_a_training_is_refused(beside, idle, monkeypatch):
    monkeypatch.setattr(qlearning, "_load_experts", lambda s: Q if s.experts else [])
    if "experts" in beside:
        beside = beside | {"experts": (ExpertSource("x"),)}
    plain = qlearning.Settings(games=("pong",), **beside)
    qlearning.refuse_idle(plain)
    ((name, value),) = idle.items()
    standard = getattr(qlearning.Settings(games=("pong",)), name)
    expected = rf"^{name} {value!r}: no effect where .*; leave at {standard!r}$"
    with pytest.raises(ValueError, match=expected):
        qlearning.refuse_idle(dataclasses.replace(plain, **idle))


def test_experts_that_a_training_learns_nothing_from_are_refused(monkeypatch):
    monkeypatch.setattr(qlearning, "_load_experts", lambda s: judges("q", "logits"))
    sources = (ExpertSource("x"), ExpertSource("y"))
    chosen = qlearning.Settings(games=("pong", "breakout"), experts=sources, logits_temperature=0.5)
    qlearning.refuse_idle(chosen)
    with pytest.raises(ValueError, match="nothing is learnt from them"):
        qlearning.refuse_idle(dataclasses.replace(chosen, expert_weight=0.0))


@pytest.mark.parametrize(
    ("config", "argument"),
    [
        ("quickstart", None),
        ("merge", "pong=experts/pong.pth,breakout=experts/breakout.zip"),
        ("plain_expert", "pong=runs/pong/experts/pong"),
        ("breakout_pong_thirdparty", "weights"),
        *(("experiments.single", game) for game in ("pong", "breakout", "freeway")),
        *(("experiments.states", who) for who in ("fixed", "expert", "student", "half", "falling")),
    ],
)
def test_no_config_that_is_shipped_says_anything_idle(config, argument):
    made = importlib.import_module(f"configs.{config}").get_config(*filter(None, [argument]))
    chosen = settings_lib.build(recipe.Settings, made.to_dict())
    third = config == "breakout_pong_thirdparty"
    experts = judges("q", "logits", score=20.0) if third else judges(*"q" * len(chosen.experts))
    recipe.refuse_idle(chosen, experts)
