"""Tests for turning plain values into settings."""

import dataclasses
import json
import typing
from typing import Annotated

import pytest

from jaxdistill import settings, workdirs
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import train_settings, weight_merging
from jaxdistill.run import distill_settings, merge_settings
from jaxdistill.tasks.atari import Rules


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    size: int = 3

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size is {self.size}, expected at least 1")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    games: tuple[str, ...] = ()
    flag: bool = False
    limit: int | None = None
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    seed: int = 0


def test_nested_values_become_typed_settings():
    built = settings.build(
        Outer,
        {
            "name": "x",
            "games": ["pong", "freeway"],
            "limit": 4,
            "inner": {"rate": 1},
            "parts": [{"size": 7}, {}],
        },
    )
    assert built == Outer(
        "x", ("pong", "freeway"), False, 4, Inner(1.0, 3), (Inner(size=7), Inner())
    )
    assert isinstance(built.inner.rate, float)
    assert hash(built)  # all the way down


def test_what_is_left_out_has_its_default():
    assert settings.build(Outer, {"name": "x"}) == Outer("x")
    assert settings.build(Outer, {"name": "x", "limit": None}).limit is None


@pytest.mark.parametrize(
    ("text", "games"),
    [("pong,freeway", ("pong", "freeway")), ("pong", ("pong",)), ("pong,", ("pong",)), ("", ())],
)
def test_a_flag_lists_names_with_commas(text, games):
    assert settings.build(Outer, {"name": "x", "games": text}).games == games


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "config.name is missing"),
        ({"name": 3}, "config.name is 3, expected str"),
        ({"name": None}, "config.name is None, expected str"),
        ({"name": "x", "nmae": "y"}, "config.nmae is unknown; known fields: name, games"),
        ({"name": "x", "seed": 1.5}, "config.seed is 1.5, expected int"),
        ({"name": "x", "seed": True}, "config.seed is True, expected int"),
        ({"name": "x", "seed": "1"}, "config.seed is '1', expected int"),
        ({"name": "x", "flag": 1}, "config.flag is 1, expected bool"),
        ({"name": "x", "limit": "4"}, "config.limit is '4', expected int"),
        ({"name": "x", "games": 3}, "config.games is 3, expected a list"),
        ({"name": "x", "games": ["pong", 3]}, r"config.games\[1\] is 3, expected str"),
        ({"name": "x", "inner": 3}, "config.inner is 3, expected fields of Inner"),
        ({"name": "x", "inner": {"rate": "fast"}}, "config.inner.rate is 'fast', expected float"),
        ({"name": "x", "inner": {"rate": True}}, "config.inner.rate is True, expected float"),
        ({"name": "x", "inner": {"size": 0}}, "config.inner: size is 0, expected at least 1"),
        ({"name": "x", "inner": {"sise": 0}}, "config.inner.sise is unknown"),
        ({"name": "x", "parts": [{}, {"size": "2"}]}, r"config.parts\[1\].size is '2'"),
    ],
)
def test_a_bad_value_is_named_with_its_place(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        settings.build(Outer, fields)


@dataclasses.dataclass(frozen=True)
class Ranged:
    many: settings.Count = 1
    share: settings.Share = 0.5
    rate: settings.Positive = 1.0
    decay: Annotated[float, settings.Range(0, 1, below=True)] = 0.0
    exponent: Annotated[float, settings.Range(1, above=True, besides=0)] = 0.0
    by: Annotated[str, settings.OneOf(("me", "you"))] = "me"
    file: settings.Text | None = None
    names: tuple[str, ...] = ()
    plain: float = 0.0

    def __post_init__(self):
        settings.check(self, "ranged.")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("many", 0, "0, expected at least 1"),
        ("many", 2**31, "2147483648, expected at most 2147483647"),
        ("many", 1.0, "1.0, expected int"),
        ("share", -0.01, "-0.01, expected 0 to 1"),
        ("share", 7, "7.0, expected 0 to 1"),
        ("rate", 0.0, "0.0, expected above 0"),
        ("rate", 1e-50, "1e-50, expected above 0"),  # which is 0 in float32
        ("rate", 1e50, "1e+50, expected above 0"),
        ("rate", float("nan"), "nan, expected a finite number"),
        ("rate", 10**400, "inf, expected a finite number"),
        ("decay", 1 - 1e-12, "0.999999999999, expected 0 or more, less than 1"),  # 1 in float32
        ("exponent", 0.5, "0.5, expected 0, or above 1"),
        ("exponent", 1.0, "1.0, expected 0, or above 1"),
        ("by", "them", "'them', expected one of me, you"),
        ("file", " ", "' ', expected some text"),
        ("plain", float("-inf"), "-inf, expected a finite number"),
    ],
)
def test_a_value_out_of_its_range_is_refused_from_python_and_from_flags(field, value, said):
    with pytest.raises(ValueError) as error:
        Ranged(**{field: value})
    assert str(error.value) == f"ranged.{field} is {said}"
    with pytest.raises(ValueError) as error:
        settings.build(Ranged, {field: value})
    assert str(error.value) == f"config.{field} is {said}"


def test_values_within_their_ranges_take_their_declared_types():
    made = Ranged(share=1, rate=1e-30, exponent=1.6, by="you", file="x", names=["a", "b"])
    assert type(made.share) is float and made.names == ("a", "b")
    assert made.exponent == 1.6 and made.by == "you" and made.rate == 1e-30
    assert Ranged(exponent=0, share=0, decay=0.999).exponent == 0.0
    assert settings.build(Ranged, {"share": 1, "file": None}) == Ranged(share=1.0)


CLASSES = (
    *(
        distill_settings.Collect,
        distill_settings.Learn,
        distill_settings.Evaluate,
        distill_settings.Settings,
        train_settings.Settings,
    ),
    *(merge_settings.Collect, weight_merging.Merge, merge_settings.Settings, Rules),
)
NAN, MANY, CHANCE = float("nan"), (-1, 0, 0.5), (-0.1, 1.1, float("nan"))
RATE, STEPS = (0.0, -1e-3, NAN, float("inf")), (-1, 2**31)
TEMPERATURE = (0.0, -0.01, NAN, 1e-20)
NONSENSE = {
    "collect": {
        **dict.fromkeys(("num_envs", "window_steps"), MANY),
        **dict.fromkeys(("initial_steps", "steps_per_round", "expert_share_rounds"), STEPS),
        **dict.fromkeys(("final_expert_share", "expert_epsilon", "student_epsilon"), CHANCE),
        "dataset": ("", 3),
    },
    "learn": {
        **dict.fromkeys(("rounds", "updates_per_round", "batch_per_game"), MANY),
        "loss": ("l1",),
        "first_loss": ("auto",),
        "first_rounds": STEPS,
        **dict.fromkeys(("q_temperature", "logits_temperature"), TEMPERATURE),
        **dict.fromkeys(("entropy_weight", "weight_decay"), (-1e-4, NAN, 1e39)),
        "warm_start": ("",),
        "warm_layers": ("convs",),
        "shares": ("", "pong", "pong=1", "pong=2,pong=3", "pong=2,", "pong=-2", "pong=100", 3),
        "ema_decay": (-0.1, 1.0, NAN),
        "target_retention": RATE,
        "optimiser": ("sgd",),
        **dict.fromkeys(("learning_rate", "clip_norm"), RATE),
        "final_rate_fraction": CHANCE,
    },
    "evaluate": {
        **dict.fromkeys(("every_rounds", "select_episodes", "max_steps"), MANY),
        **dict.fromkeys(("report_episodes", "expert_ratio"), MANY),
        **dict.fromkeys(("epsilon", "lowest_expert_share"), CHANCE),
        "opening_steps": STEPS,
        "opening_by": ("a human",),
        "report_width": (-0.1, NAN),
    },
    "": {
        "network": ("alexnet",),
        "compute_dtype": ("half",),
        "convolutions": ("", "32x8", "0x8/4", "32x8/4,", "nature", 3),
        "seed": (-1, 2**32),
        **dict.fromkeys(("together", "view"), ("", " ", 3)),
    },
    "training": {
        "games": (("pnog",), ("pong", "ALE/Pong-v5"), ()),
        "network": ("alexnet",),
        "compute_dtype": ("half",),
        "seed": (-1, 2**32),
        **dict.fromkeys(("num_envs", "rollout_steps", "total_steps", "epochs"), MANY),
        **dict.fromkeys(("batch_per_game", "eval_every", "eval_episodes"), MANY),
        **dict.fromkeys(("final_episodes", "max_steps"), MANY),
        **dict.fromkeys(("replay_size", "first_update", "target_episodes"), MANY),
        "algorithm": ("sarsa",),
        "core": ("rnn", None),
        "core_width": MANY,
        "student": ("", 3),
        "optimiser": ("sgd",),
        "ema_decay": (-0.1, 1.0, NAN),
        "reward_limit": (-1.0, NAN),
        "opening_steps": STEPS,
        **dict.fromkeys(("learning_rate", "clip_norm"), RATE),
        **dict.fromkeys(("reward_scale", "updates_per_step"), RATE),
        **dict.fromkeys(("policy_clip", "angle_deviation"), RATE),
        **dict.fromkeys(("value_weight", "entropy_weight"), (-1e-4, NAN, 1e39)),
        "critic_iterations": STEPS,
        **dict.fromkeys(("final_rate_fraction", "discount", "trace", "epsilon_decay"), CHANCE),
        **dict.fromkeys(("epsilon_start", "epsilon_end", "epsilon_fraction"), CHANCE),
        **dict.fromkeys(("eval_epsilon", "expert_fraction"), CHANCE),
        "hold_exponent": (-1.0, 0.5, 1.0, NAN),
        "average_rate": (0.0, 1.1, NAN),
        "expert_weight": (-1.0, NAN),
        **dict.fromkeys(("q_temperature", "logits_temperature"), TEMPERATURE),
    },
    "states of a merge": {
        **dict.fromkeys(("num_envs", "initial_steps"), MANY),
        "expert_epsilon": CHANCE,
        "dataset": ("", 3),
    },
    "merge": {
        "base": ("", 3),
        **dict.fromkeys(("scale", "damping", "rate", "clip_norm", "reward_scale"), RATE),
        **dict.fromkeys(("catch_up_rate", "catch_up_damping"), RATE),
        "loss": ("l1",),
        "q_temperature": TEMPERATURE,
        **dict.fromkeys(("discount", "round_decay"), CHANCE),
        "reward_limit": (-1.0, NAN),
        **dict.fromkeys(("batch_size", "rounds"), MANY),
        "catch_up_rounds": STEPS,
    },
    "of a merge": {
        "method": ("sum", 3),
        "network": ("alexnet",),
        "seed": (-1, 2**32),
    },
    "rules": {
        "repeat_action_probability": (-0.1, 1.0, NAN),
        "noop_max": (0, 1001, 0.5),
        "frame_skip": (0, 61, 0.5),
        **dict.fromkeys(("mode", "difficulty"), (-2, 0.5)),
    },
}


@pytest.mark.parametrize(("cls", "where"), [*zip(CLASSES, NONSENSE, strict=True)])
def test_every_field_of_a_run_refuses_nonsense(cls, where):
    given = {"experts": (ExpertSource("x"),)} if cls is distill_settings.Settings else {}
    given |= {"games": ("pong",)} if cls is train_settings.Settings else {}
    if cls is merge_settings.Settings:
        given = {"experts": (ExpertSource("x"), ExpertSource("y")), "method": "mean"}
    hints = {x.name: typing.get_type_hints(cls)[x.name] for x in dataclasses.fields(cls)}
    parts = (
        bool,
        tuple[ExpertSource, ...],
        distill_settings.Collect,
        distill_settings.Learn,
        distill_settings.Evaluate,
    )
    parts += (merge_settings.Collect, weight_merging.Merge, distill_settings.Measure, Rules)
    assert set(NONSENSE[where]) == {name for name, hint in hints.items() if hint not in parts}
    for name, values in NONSENSE[where].items():
        for value in values:
            with pytest.raises(ValueError) as error:
                cls(**(given | {name: value}))
            assert name in str(error.value) or "unknown task 'pnog'" in str(error.value)
            assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=rf"{name}(\[0\])? is"):
            settings.build(cls, given | {name: [{}] if name == "games" else {}})


def test_an_expert_has_a_path():
    for field in ("path", "spec", "game"):
        with pytest.raises(ValueError, match=f"expert's {field} is '', expected some text"):
            ExpertSource(**({"path": "x"} | {field: ""}))


def test_flatten_names_leaves_by_their_path():
    tree = {"a": 1, "b": {"c": None, "d": [5, {"e": "f"}]}}
    assert settings.flatten(tree) == {"a": 1, "b.c": None, "b.d.0": 5, "b.d.1.e": "f"}


def test_a_field_that_is_gone_is_read_over_in_the_files_of_earlier_runs(tmp_path):
    fields = {"experts": [{"path": "a"}], "evaluate": {"baselines": "b.json", "epsilon": 0.2}}
    chosen = settings.build(distill_settings.Settings, fields)
    assert chosen.evaluate.epsilon == 0.2
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert workdirs.claim(tmp_path, chosen)
    with pytest.raises(ValueError, match=r"config\.learn\.baselines is unknown"):
        settings.build(distill_settings.Settings, fields | {"learn": {"baselines": None}})
