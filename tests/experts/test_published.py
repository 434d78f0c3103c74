"""What is understood of the files beside a published expert, and what is passed over."""

import json
import pathlib
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jaxdistill.experts import hub
from jaxdistill.experts.formats import beside, published

pytest.importorskip("yaml")


def told(repository="me/mine", **texts):
    """What files say; a name's underscore stands for its dot."""
    named = {name.replace("__", "."): text.encode() for name, text in texts.items()}
    assert set(named) <= set(hub.BESIDE)
    return published.read(named, repository)


def card(*results, tags=()):
    rows = [
        {"dataset": {"type": kind}, "metrics": [{"type": metric, "value": value}]}
        for kind, metric, value in results
    ]
    metadata = {"tags": list(tags), "model-index": [{"name": "x", "results": rows}]}
    return f"---\n{json.dumps(metadata)}\n---\nA card.\n"  # JSON is YAML


@pytest.mark.parametrize(
    ("repository", "texts", "game", "source"),
    [
        ("sb3/dqn-PongNoFrameskip-v4", {}, "pong", "the repository's name"),
        ("a/BreakoutNoFrameskip-v4-c51_atari-seed1", {}, "breakout", "the repository's name"),
        ("a/atari_2B_atari_spaceinvaders_1111", {}, "space_invaders", "the repository's name"),
        ("a/ppo-LunarLander-v2", {}, "lander/standard", "the repository's name"),
        ("a/mine", {"args__yml": "env: ALE/Qbert-v5"}, "qbert", "the repository's args.yml"),
        (
            "a/mine",
            {"config__json": '{"env": "atari_pong"}'},
            "pong",
            "the repository's config.json",
        ),
        ("a/mine", {"README__md": card(tags=["x", "Seaquest-v5"])}, "seaquest", "its model card"),
        ("a/dqn-Pong-v4", {"README__md": card(("ALE/Freeway-v5", "m", 1))}, "pong", "the repos"),
        ("a/x", {"README__md": card(("ALE/Freeway-v5", "mean_reward", 1))}, "freeway", "its model"),
        ("a/CartPole-v1", {}, None, ""),
        ("a/standard", {"README__md": card(tags=["standard", "aiming"])}, None, ""),
    ],
)
def test_where_the_game_is_said(repository, texts, game, source):
    found = told(repository, **texts)
    assert found.game == game and (game is None or found.game_from.startswith(source))
    assert game is None or found.by_name == ("name" in found.game_from)


# Of Sample Factory's, each behind "atari_", with the four that are no names of games.
SAMPLE_FACTORY = (
    "alien amidar assault asterix asteroid atlantis bankheist battlezone beamrider berzerk bowling "
    "boxing breakout centipede choppercommand crazyclimber defender demonattack doubledunk enduro "
    "fishingderby freeway frostbite gopher gravitar hero icehockey jamesbond kangaroo krull "
    "kongfumaster montezuma mspacman namethisgame phoenix pitfall pong privateye qbert riverraid "
    "roadrunner robotank seaquest skiing solaris spaceinvaders stargunner surround tennis "
    "timepilot tutankham upndown venture videopinball wizardofwor yarsrevenge zaxxon"
)
ODD = {
    "asteroid": "asteroids",
    "kongfumaster": "kung_fu_master",
    "montezuma": "montezuma_revenge",
    "privateye": "private_eye",
}


def test_every_environment_of_sample_factory_is_a_game_wherever_it_stands():
    found = {}
    for name in SAMPLE_FACTORY.split():
        env = f"atari_{name}"
        (found[name],) = beside.games({}, {"env": env})
        texts = {"config__json": json.dumps({"env": env})}, {"README__md": card(tags=[env])}
        said = [told(**text).game for text in texts] + [told(f"a/atari_2B_{env}_1111").game]
        said += [beside.game_in_names(pathlib.Path(f"/nowhere/{env}.pth"))[0]]
        assert said == [found[name]] * 4
        scored = told(README__md=card((env, "mean_reward", 7)))
        assert scored.scores == {found[name]: 7.0}
    assert len(set(found.values())) == len(found) == 57
    assert {x: game for x, game in found.items() if game.replace("_", "") != x} == ODD


def test_scores_are_those_of_the_card_and_of_results():
    text = card(
        ("PongNoFrameskip-v4", "mean_reward", "20.70 +/- 0.46"),
        ("ALE/Breakout-v5", "mean_reward", -3),
        ("ALE/Qbert-v5", "mean_reward", "high"),
        ("ALE/Freeway-v5", "std_reward", 7),
        ("CartPole-v1", "mean_reward", 500),
    )
    found = told(README__md=text, results__json='{"mean_reward": 1}')
    assert found.scores == {"pong": 20.7, "breakout": -3.0} and found.game is None
    one = card(("PongNoFrameskip-v4", "mean_reward", "20.70 +/- 0.46"))
    found = told(README__md=one, results__json='{"mean_reward": 12.5, "n_eval_episodes": 10}')
    assert found.scores == {"pong": 12.5}
    for value in ("NaN", "1e400", "true", '"x"', "[1]", "9" * 5000):
        assert told("a/Pong-v5", results__json=f'{{"mean_reward": {value}}}').scores == {}


WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
LATER = f"{WRAPPER}:\n          noop_max: 0\n          frame_skip: 3\n"
PAIRS = "!!python/object/apply:collections.OrderedDict\n- - - env_wrapper\n    - "


@pytest.mark.parametrize(
    ("texts", "rules", "wrappers"),
    [
        ({"config__yml": f"env_wrapper: {WRAPPER}"}, {"fire_after_life": True}, ()),
        ({"config__yml": f"{PAIRS}[{WRAPPER}]"}, {"fire_after_life": True}, ()),
        (
            {"config__yml": f"{PAIRS}- {LATER}"},
            {"fire_after_life": True, "noop_max": 1, "frame_skip": 3},
            (),
        ),
        (
            {
                "config__yml": f"env_wrapper: [{{{WRAPPER}: {{terminal_on_life_loss: false, "
                "action_repeat_probability: 0.25}}]"
            },
            {"fire_after_life": False, "repeat_action_probability": 0.25},
            (),
        ),
        ({"config__yml": "env_wrapper: [a.b.TimeFeatureWrapper]"}, {}, ("TimeFeatureWrapper",)),
        ({"config__yml": "env_wrapper: null"}, {}, ()),
        (
            {"env_kwargs__yml": "{full_action_space: true, mode: 2, difficulty: 1, frameskip: 1}"},
            {"full_actions": True, "mode": 2, "difficulty": 1},
            (),
        ),
        (
            {"env_kwargs__yml": "repeat_action_probability: 0.25"},
            {"repeat_action_probability": 0.25},
            (),
        ),
        ({"env_kwargs__yml": "{repeat_action_probability: 7, mode: -9}"}, {}, ()),
    ],
)
def test_wrappers_and_arguments_make_the_rules(texts, rules, wrappers):
    found = told(**texts)
    assert found.rules == rules and found.wrappers == wrappers


@pytest.mark.parametrize(
    ("config", "normalised"),
    [
        ("normalize: true", True),
        ("normalize: false", False),
        ("gamma: 0.9", False),
        ("normalize: \"{'norm_obs': True, 'norm_reward': False}\"", True),
        ("normalize: \"{'norm_obs': False, 'norm_reward': True}\"", False),
        ("normalize: dict(norm_obs=False)", False),
        ("normalize: true\nnormalize_kwargs: {norm_obs: false, norm_reward: true}", False),
    ],
)
def test_what_is_normalised_is_known(config, normalised):
    assert told(config__yml=config).normalised == normalised


def test_stacks_are_whole_numbers():
    assert told(config__yml="frame_stack: 4").stack == 4
    assert (
        told(config__yml="frame_stack: 0").stack is told(config__yml="frame_stack: x").stack is None
    )


DEEP = "[" * 60_000
LAUGHS = "a: &a [x,x]\n" + "".join(
    f"{chr(i + 1)}: &{chr(i + 1)} [{','.join([f'*{chr(i)}'] * 9)}]\n" for i in range(97, 110)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{chr(i + 1)}: &{chr(i + 1)} {{<<: [{','.join([f'*{chr(i)}'] * 9)}]}}\n"
    for i in range(97, 110)
)
MANY = card(*[(f"Game{i}-v5", "mean_reward", i) for i in range(600)])


HOSTILE = {
    "deep": DEEP,
    "dashes": "- " * 30_000,
    "laughs": LAUGHS,
    "merged": MERGED,
    "many": MANY,
    "tags": card(tags=["atari_" * 30] * 300),
    "itself": "&a [*a]",
    "key": "? [a]\n: b\n",
    "digits": "9" * 60_000,
    "sexagesimal": "1:1" * 20_000,
    "json": '{"a":' * 10_000,
    "cards": "---\n" * 10_000,
    "zero": "\x00",
    "name": "!!python/name:os.system",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_says_nothing_and_takes_no_time(name):
    text = HOSTILE[name]
    for wrapped in (f"---\n{text}\n---\n", f"env_wrapper: {text}"):
        begun = time.process_time()
        found = published.read(dict.fromkeys(hub.BESIDE, wrapped.encode()), "a/b")
        assert time.process_time() - begun < 4.0
        assert (found.game, dict(found.scores), found.normalised) == (None, {}, False)


KEYS = st.sampled_from(["env", "env_wrapper", "frame_stack", "normalize", "model-index", "results"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(tree=TREES, raw=st.binary(max_size=60))
def test_whatever_stands_there_is_read_or_passed_over(tree, raw):
    for text in (json.dumps(tree).encode(), b"---\n" + json.dumps(tree).encode() + b"\n---\n", raw):
        found = published.read(dict.fromkeys(hub.BESIDE, text), "a/b")
        assert isinstance(found.rules, dict) and all(
            isinstance(x, float) for x in found.scores.values()
        )
