"""Zips for Stable-Baselines3: what it loads does what our policy does."""

import base64
import dataclasses
import io
import json
import math
import os
import pickle
import pickletools
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import export_sb3, formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import carried
from jaxdistill.experts.formats.skills import KEY_DEVIATION
from jaxdistill.tasks.actions import Factored
from jaxdistill.tasks.views import Vector

KEYS, LOOK, CLICK = ("key",) * 6, ("angle",) * 2, ("key",)
TURN, LOG_STD = math.radians(27), np.linspace(-5.0, -3.0, 9)


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy, what it sees and what its outputs are."""

    network: networks.Network
    inputs: int
    kinds: tuple[str, ...]
    pi: tuple[int, ...]
    vf: tuple[int, ...]

    @property
    def size(self):
        return len(self.kinds)

    def params(self):
        """All different, and such that outputs are about 1."""
        shapes = jax.eval_shape(
            lambda: networks.init(self.network, jax.random.key(0), (1, self.inputs))
        )
        generator = np.random.default_rng(0)

        def draw(x):
            scale = 0.2 if x.ndim == 1 else 1.2 / x.shape[0] ** 0.5
            return (generator.normal(size=x.shape) * scale).astype(np.float32)

        return jax.tree.map(draw, shapes)

    def write(self, path, **changes):
        fields = {"kinds": self.kinds, "turn": TURN, "log_std": LOG_STD[: self.size]}
        params = self.params()
        export_sb3.export_policy(self.network, params, path, **{**fields, **changes})
        return params


CASES = {
    "duel": Case(
        networks.create("skills_actor_critic"),
        20,
        (*KEYS, *CLICK, *LOOK),
        (256, 256, 128, 112),
        (256, 256, 128, 128, 64),
    ),
    "movement": Case(
        networks.create("mlp_actor_critic", num_outputs=6), 20, KEYS, (128, 128), (128, 128)
    ),
    "aiming": Case(
        networks.create("mlp_actor_critic_small", num_outputs=2), 5, LOOK, (64, 64), (64, 64)
    ),
    "clicking": Case(
        networks.create("mlp_actor_critic_small", num_outputs=1), 9, CLICK, (64, 64), (64, 64)
    ),
    # Streams without shared layers, whose outputs lie among each other's; and no layer but the
    # last.
    "streams": Case(
        networks.Network(
            convs=(),
            head="actor_critic",
            streams=(networks.Stream(3, (3, 0)), networks.Stream(2, (2, 1))),
            num_outputs=4,
            activation="elu",
        ),
        7,
        ("key", "angle", "angle", "key"),
        (5,),
        (),
    ),
    "linear": Case(
        networks.Network(convs=(), head="actor_critic", num_outputs=2), 3, KEYS[:2], (), ()
    ),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def seen(case, rows=256):
    return np.random.default_rng(1).uniform(-1, 1, (rows, case.inputs)).astype(np.float32)


def ours(case, params, x):
    """Outputs and values of our network."""
    outputs, values = networks.forward_with_values(case.network, params, jnp.asarray(x)[:, None])
    return np.asarray(outputs), np.asarray(values)


def greedy(case, outputs):
    """Our greedy actions, angles cut to the range."""
    mask = jnp.ones(case.size, bool)
    actions = np.asarray(Factored(case.kinds).greedy(jnp.asarray(outputs), mask))
    angles = np.array([kind == "angle" for kind in case.kinds])
    return np.where(angles, np.clip(actions, -TURN, TURN), actions)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def unpickled(entry):
    return pickle.loads(base64.b64decode(entry[":serialized:"]))


def an_expert(name, case, **changes):
    fields = {
        "name": name,
        "network": case.network,
        "params": case.params(),
        "outputs": "logits",
        "actions": tasks.get(f"combat/{name}").actions,
        "view": tasks.get(f"combat/{name}").view,
        "game": f"combat/{name}",
        "log_std": tuple(LOG_STD[: case.size]) if "angle" in case.kinds else None,
    }
    return Expert(**{**fields, **changes})


SKILLS = pytest.mark.parametrize("name", ["movement", "aiming", "clicking", "duel"])


@ALL
def test_the_written_weights_compute_the_same_in_pytorch(case, tmp_path):
    torch = pytest.importorskip("torch")
    params = case.write(tmp_path / "policy.zip")
    there = members(tmp_path / "policy.zip")
    weights = torch.load(io.BytesIO(there["policy.pth"]), weights_only=True)
    kwargs = unpickled(json.loads(there["data"])["policy_kwargs"])
    assert kwargs["net_arch"] == {"pi": list(case.pi), "vf": list(case.vf)}
    activation = kwargs["activation_fn"]()

    def chain(name, widths, last):
        x = torch.from_numpy(seen(case))
        for i, width in enumerate(widths):
            key = f"mlp_extractor.{name}_net.{2 * i}"
            assert weights[f"{key}.weight"].shape == (width, x.shape[1])
            linear = torch.nn.functional.linear
            x = activation(linear(x, weights.pop(f"{key}.weight"), weights.pop(f"{key}.bias")))
        weight, bias = weights.pop(f"{last}.weight"), weights.pop(f"{last}.bias")
        return torch.nn.functional.linear(x, weight, bias).numpy()

    means = chain("policy", case.pi, "action_net")
    values = chain("value", case.vf, "value_net")
    outputs, wanted = ours(case, params, seen(case))
    assert np.abs(outputs).max() > 0.3 and np.abs(wanted).max() > 0.3
    np.testing.assert_allclose(values[:, 0], wanted, rtol=1e-5, atol=1e-5)
    if case.kinds == CLICK:
        np.testing.assert_array_equal(means[:, 0], 0)
        np.testing.assert_allclose(means[:, 1:], outputs, rtol=1e-5, atol=1e-5)
    else:
        box = "angle" in case.kinds
        shift = [0.5 if kind == "key" and box else 0.0 for kind in case.kinds]
        np.testing.assert_allclose(means, outputs + shift, rtol=1e-5, atol=1e-5)
        if box:
            log_std = weights.pop("log_std").numpy()
            keys = np.array([kind == "key" for kind in case.kinds])
            np.testing.assert_allclose(log_std[~keys], LOG_STD[: case.size][~keys], rtol=1e-6)
            np.testing.assert_allclose(np.exp(log_std[keys]), 1.702, rtol=1e-6)
    assert not weights  # PyTorch refuses what it has no place for
    optimiser = torch.load(io.BytesIO(there["policy.optimizer.pth"]), weights_only=True)
    count = sum(2 for _ in (*case.pi, *case.vf)) + 4 + ("angle" in case.kinds)
    assert optimiser["param_groups"][0]["params"] == list(range(count))


@ALL
def test_its_spaces_are_gymnasiums(case, tmp_path):
    spaces = pytest.importorskip("gymnasium").spaces
    case.write(tmp_path / "policy.zip")
    data = json.loads(members(tmp_path / "policy.zip")["data"])
    assert unpickled(data["observation_space"]) == spaces.Box(-1, 1, (case.inputs,))
    if case.kinds == CLICK:
        wanted = spaces.Discrete(2)
    elif "angle" not in case.kinds:
        wanted = spaces.MultiBinary(case.size)
    else:
        low = np.array([0 if kind == "key" else -TURN for kind in case.kinds], np.float32)
        high = np.array([1 if kind == "key" else TURN for kind in case.kinds], np.float32)
        wanted = spaces.Box(low, high)
    space = unpickled(data["action_space"])
    assert space == wanted and space.dtype == wanted.dtype
    assert data["action_space"][":type:"] == str(type(wanted))
    for name in ("_shape", "n"):  # what readers that do not run pickles go by
        if hasattr(wanted, name):
            said = data["action_space"][name]
            assert np.array_equal(np.array(said, int), np.array(getattr(wanted, name), int))
    assert [
        argument
        for opcode, argument, _ in pickletools.genops(
            base64.b64decode(data["policy_class"][":serialized:"])
        )
        if opcode.name == "GLOBAL"
    ] == ["stable_baselines3.common.policies ActorCriticPolicy"]


@pytest.fixture
def ppo():
    """The real one; its imports warn about things that are not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("stable_baselines3").PPO


@ALL
def test_stable_baselines3_plays_what_we_play(case, ppo, tmp_path):
    params = case.write(tmp_path / "policy.zip")
    model = ppo.load(tmp_path / "policy.zip", device="cpu")
    x = seen(case)
    outputs, values = ours(case, params, x)
    wanted = greedy(case, outputs)
    actions, _ = model.predict(x, deterministic=True)
    if case.kinds == CLICK:
        np.testing.assert_array_equal(actions, wanted[:, 0])
    elif "angle" not in case.kinds:
        np.testing.assert_array_equal(actions, wanted)
    else:
        keys = np.array([kind == "key" for kind in case.kinds])
        np.testing.assert_array_equal(actions[:, keys] > 0.5, wanted[:, keys] == 1)
        np.testing.assert_allclose(actions[:, ~keys], wanted[:, ~keys], rtol=0, atol=1e-5)
        cut = np.abs(outputs[:, ~keys]) > TURN
        assert cut.any() and not cut.all()
    down = wanted[:, [kind == "key" for kind in case.kinds]]
    assert case.kinds == LOOK or 0.05 < down.mean() < 0.95
    obs, _ = model.policy.obs_to_tensor(x)
    theirs = model.policy.predict_values(obs).detach().numpy()[:, 0]
    np.testing.assert_allclose(theirs, values, rtol=1e-5, atol=1e-5)
    single, _ = model.predict(x[0], deterministic=True)
    np.testing.assert_allclose(single, actions[0], rtol=0, atol=1e-6)


def test_stable_baselines3_draws_as_we_draw(ppo, tmp_path):
    case = CASES["duel"]
    params = case.write(tmp_path / "policy.zip")
    model = ppo.load(tmp_path / "policy.zip", device="cpu")
    x = seen(case, 4)
    outputs, _ = ours(case, params, x)
    model.set_random_seed(0)
    drawn = model.predict(np.repeat(x, 5000, axis=0))[0].reshape(4, 5000, 9)
    keys, angles = np.arange(7), np.arange(7, 9)
    chance = 1 / (1 + np.exp(-outputs[:, keys]))
    # Four deviations of a share of 5,000 draws, and the approximation's own.
    np.testing.assert_allclose((drawn[..., keys] > 0.5).mean(1), chance, atol=0.029 + 0.0095)
    away = drawn[..., angles] - outputs[:, None, angles]
    uncut = np.abs(outputs[:, angles]) < TURN - 3 * np.exp(LOG_STD[angles])
    spread = away.std(1)[uncut]
    wanted = np.broadcast_to(np.exp(LOG_STD[angles]), uncut.shape)[uncut]
    assert len(spread) and np.abs(drawn[..., angles]).max() <= np.float32(TURN)
    np.testing.assert_allclose(spread, wanted, rtol=0.05)


@ALL
def test_stable_baselines3_learns_on(case, ppo, tmp_path):
    gymnasium = pytest.importorskip("gymnasium")
    case.write(tmp_path / "policy.zip")
    model = ppo.load(tmp_path / "policy.zip", device="cpu")

    class Still(gymnasium.Env):
        observation_space, action_space = model.observation_space, model.action_space

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return self.observation_space.sample(), float(np.mean(action)), False, False, {}

    model = ppo.load(
        tmp_path / "policy.zip", device="cpu", env=Still(), n_steps=64, n_epochs=2, batch_size=32
    )
    before = {name: x.clone() for name, x in model.policy.state_dict().items()}
    model.learn(128)
    after = model.policy.state_dict()
    assert all((after[name] != x).any() for name, x in before.items() if x.ndim == 2)
    model.save(tmp_path / "again.zip")
    assert ppo.load(tmp_path / "again.zip", device="cpu").num_timesteps == 128


@SKILLS
def test_an_expert_is_written_with_what_its_task_says(name, tmp_path):
    case, path = CASES[name], tmp_path / "expert.zip"
    expert = an_expert(name, case)
    export_sb3.export_expert(expert, path)
    turn = math.radians({"aiming": 36, "duel": 27}.get(name, 0))
    said = carried.Carried("logits", {expert.game: expert.view})
    case.write(tmp_path / "same.zip", turn=turn, said=said)
    assert path.read_bytes() == (tmp_path / "same.zip").read_bytes()
    with pytest.raises(ValueError, match="already exists"):
        export_sb3.export_expert(an_expert(name, case), path)


@SKILLS
def test_stable_baselines3_plays_what_the_expert_plays(name, ppo, tmp_path):
    case = CASES[name]
    expert = an_expert(name, case)
    export_sb3.export_expert(expert, tmp_path / "expert.zip")
    x = seen(case)
    theirs, _ = ppo.load(tmp_path / "expert.zip", device="cpu").predict(x, deterministic=True)
    ours = np.asarray(expert.task.limited(expert.greedy(x[:, None])))[:, list(expert.actions)]
    keys = np.array([kind == "key" for kind in case.kinds])
    theirs = theirs.reshape(ours.shape)
    np.testing.assert_array_equal(theirs[:, keys] > 0.5, ours[:, keys] == 1)
    np.testing.assert_allclose(theirs[:, ~keys], ours[:, ~keys], rtol=0, atol=1e-5)
    widest = {"aiming": 36, "duel": 27}.get(name)
    assert widest is None or np.rad2deg(ours[:, ~keys]).max() == pytest.approx(widest, rel=1e-6)


@SKILLS
def test_an_expert_that_is_written_is_read_back_and_does_the_same(name, tmp_path):
    case = CASES[name]
    expert = an_expert(name, case)
    export_sb3.export_expert(expert, tmp_path / "expert.zip")
    again = formats.load(tmp_path / "expert.zip")
    assert (again.game, again.view, again.actions) == (expert.game, expert.view, expert.actions)
    x = seen(case)[:, None]
    first, second = (np.asarray(one.suite_outputs(x)) for one in (expert, again))
    assert np.abs(first).max() > 0.3
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5)
    values = [networks.forward_with_values(e.network, e.params, x)[1] for e in (expert, again)]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)
    if "angle" in case.kinds:
        angles = np.array([kind == "angle" for kind in case.kinds])
        np.testing.assert_allclose(
            np.array(again.log_std)[angles], np.array(expert.log_std)[angles], rtol=1e-6
        )


@pytest.mark.parametrize("name", ["movement", "aiming", "clicking"])
def test_an_expert_that_sees_what_the_duel_shows_is_read_back_so(name, tmp_path):
    """As those of a fine-tuned student are, whatever their skill."""
    case, duel = dataclasses.replace(CASES[name], inputs=20), tasks.get("combat/duel").view
    expert = an_expert(name, case, view=duel)
    export_sb3.export_expert(expert, tmp_path / "expert.zip")
    again = formats.load(tmp_path / "expert.zip")
    assert again.view == duel != tasks.get(f"combat/{name}").view
    assert (again.game, again.actions) == (expert.game, expert.actions)
    said = carried.Carried("logits", {expert.game: Vector(7)})
    export_sb3.export_policy(
        expert.network, expert.params, tmp_path / "x.zip",
        kinds=case.kinds, turn=TURN, log_std=LOG_STD[: case.size], said=said,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"on 20 numbers, and the file says that it sees Vector"):
        formats.load(tmp_path / "x.zip")


def test_experts_that_cannot_be_written_are_refused(tmp_path):
    movement, path = CASES["movement"], tmp_path / "x.zip"
    lander = {"actions": (0, 1, 2, 3), "view": Vector(8), "game": "lander/heavy"}
    four = Case(movement.network.clone(num_outputs=4), 8, KEYS[:4], (), ())
    for expert, words in (
        (an_expert("movement", four, **lander), r"plays lander/heavy; zips .*\(PPO\) alone"),
        (an_expert("movement", movement, game=None), "give --game"),
        (
            an_expert("movement", movement, actions=(5, 4, 3, 2, 1, 0)),
            r"\[5, 4, 3, 2, 1, 0\]; .* combat/movement expects \[0, 1, 2, 3, 4, 5\], in this order",
        ),
        (an_expert("aiming", CASES["aiming"], log_std=None), "log_std is not given"),
        (
            an_expert(
                "duel", dataclasses.replace(CASES["duel"], network=networks.create("skills"))
            ),
            r"a head of type linear, without a value.* \(jaxdistill finetune\)",
        ),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            export_sb3.export_expert(expert, path)
        assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_a_key_of_a_box_goes_down_as_often_as_ours():
    logits = np.linspace(-12, 12, 4801)
    above = [0.5 * (1 + math.erf(x / KEY_DEVIATION / math.sqrt(2))) for x in logits]
    apart = np.abs(above - 1 / (1 + np.exp(-logits)))
    assert apart.max() < 0.0096


def test_what_stands_at_keys_in_log_std_and_angles_alone_are_read(tmp_path):
    case = CASES["duel"]
    for name, log_std in (
        ("first", LOG_STD),
        ("keys", np.where(np.arange(9) < 7, np.nan, LOG_STD)),
        ("angles", LOG_STD - 1),
    ):
        case.write(tmp_path / f"{name}.zip", log_std=log_std)
    first, keys, angles = (
        (tmp_path / f"{name}.zip").read_bytes() for name in ("first", "keys", "angles")
    )
    assert first == keys != angles


def test_the_range_is_the_tasks(tmp_path):
    pytest.importorskip("gymnasium")
    case = CASES["aiming"]
    for degrees in (27, 36):
        case.write(tmp_path / f"{degrees}.zip", turn=math.radians(degrees))
        data = json.loads(members(tmp_path / f"{degrees}.zip")["data"])
        high = unpickled(data["action_space"]).high
        np.testing.assert_allclose(np.rad2deg(high), degrees, rtol=1e-6)


CRITIC = CASES["movement"].network


@pytest.mark.parametrize(
    ("network", "changes", "words"),
    [
        (networks.create("nature_actor_critic"), {}, "convolutions"),
        (networks.create("impala"), {}, "convolutions"),
        (CRITIC.clone(one_hot=True, game_actions=((0,),)), {}, "each task's own"),
        (CRITIC.clone(layer_norm=True), {}, "LayerNorm"),
        (networks.create("mlp"), {}, "head of type linear, without a value of its own"),
        (CRITIC.clone(head="dueling"), {}, "head of type dueling"),
        (CRITIC.clone(activation=("relu", "tanh") * 2), {}, "activations relu, tanh"),
        (
            networks.create("skills", head="actor_critic"),
            {"kinds": CASES["duel"].kinds},
            "through tanh",
        ),
        (CRITIC, {"kinds": ("key",) * 5}, "6 outputs for 5 keys and angles"),
    ],
)
def test_a_network_that_cannot_be_written_is_refused(network, changes, words, tmp_path):
    fields = {"kinds": ("key",) * 6, "turn": TURN, **changes}
    with pytest.raises(ValueError, match=words) as caught:
        export_sb3.export_policy(network, {}, tmp_path / "x.zip", **fields)
    assert "Stable-Baselines3's PPO cannot express" in str(caught.value)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_numbers_that_cannot_be_written_are_refused(tmp_path):
    case, path = CASES["duel"], tmp_path / "x.zip"
    for log_std, words in (
        (None, r"log_std is not given, expected \(9,\)"),
        (np.zeros(2), r"log_std is of shape \(2,\), expected \(9,\)"),
        (np.full(9, np.nan), "log_std is not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            case.write(path, log_std=log_std)
    broken = case.params()
    broken["params"]["stream2"]["kernel"][0, 0] = np.inf
    with pytest.raises(ValueError, match=r"action_net\.weight is not finite"):
        export_sb3.export_policy(
            case.network, broken, path, kinds=case.kinds, turn=TURN, log_std=LOG_STD
        )
    assert os.listdir(tmp_path) == []


def test_zips_are_not_overwritten_and_equal_input_gives_equal_bytes(tmp_path):
    case, path = CASES["clicking"], tmp_path / "made" / "x.zip"
    case.write(path)
    first = path.read_bytes()
    path.write_text("precious")
    with pytest.raises(ValueError, match=r"x.zip already exists"):
        case.write(path)
    assert path.read_text() == "precious" and os.listdir(path.parent) == ["x.zip"]
    case.write(path.with_name("again.zip"))
    assert path.with_name("again.zip").read_bytes() == first


PYTORCH = {
    "relu": "ReLU",
    "elu": "ELU",
    "tanh": "Tanh",
    "leaky_relu": "LeakyReLU",
    "silu": "SiLU",
    "gelu": "GELU",
    "selu": "SELU",
    "sigmoid": "Sigmoid",
    "none": "Identity",
}


@pytest.mark.parametrize("activation", networks.ACTIVATIONS)
def test_every_activation_is_called_as_pytorch_calls_it_and_read_back(activation, tmp_path):
    case, path = CASES["movement"], tmp_path / "x.zip"
    network = case.network.clone(activation=activation)
    dataclasses.replace(case, network=network).write(path)
    said = json.loads(members(path)["data"])["policy_kwargs"]["activation_fn"]
    assert said.endswith(f".{PYTORCH[activation]}'>")
    assert set(formats.load(path).network.activations) == {activation}
