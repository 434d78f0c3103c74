"""Landers in and out: the public multi-task agent's checkpoints, rebuilt here from what is known of
them, and Stable-Baselines3 zips.
"""

import dataclasses
import json
import os
import shutil
import zipfile

import jax
import numpy as np
import pytest

from jaxdistill import metrics, networks, tasks
from jaxdistill.experts import export, formats, torch_file, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.learn import dataset
from jaxdistill.play import measuring, protocols
from jaxdistill.run import distill, distill_settings, students
from jaxdistill.tasks.views import Vector, View

TASKS = ("lander/standard", "lander/windy", "lander/heavy")
VIEWS = dict.fromkeys(TASKS, Vector(8))


def seen(batch=16):
    """States of landers, more or less, `(batch, 8)`."""
    return np.random.default_rng(1).normal(size=(batch, 8)).astype(np.float32)


def layers(*shapes, seed=0, **others):
    """Random weights and biases of layers given as (key, shape of the weight)."""
    generator = np.random.default_rng(seed)
    tensors = {name: generator.normal(size=shape) for name, shape in others.items()}
    for key, shape in shapes:
        tensors[f"{key}.weight"] = generator.normal(size=shape) * np.sqrt(2 / shape[1])
        tensors[f"{key}.bias"] = generator.normal(size=shape[:1]) * 0.1
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def a_net(inputs=8, actions=4, rows=0, seed=0):
    """A state_dict of the multi-task agent, 32 and 16 wide."""
    shapes = (("fc1", (32, inputs)), ("fc2", (16, 32)), ("fc3", (actions, 16)))
    vectors = {"task_embedding.weight": (rows, 8)} if rows else {}
    return layers(*shapes, seed=seed, **vectors)


def computed(weights, states, row=None):
    """What a state_dict computes, in NumPy."""
    x = states
    if row is not None:
        vector = weights["task_embedding.weight"][row]
        x = np.concatenate([states, np.tile(vector, (len(states), 1))], axis=1)
    for key in ("fc1", "fc2", "fc3"):
        x = x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]
        x = np.maximum(x, 0) if key != "fc3" else x
    return x


def a_student(network="mlp_task_embedding", games=TASKS, **changes):
    """A network for these tasks and parameters that are all different."""
    network = networks.for_tasks(networks.create(network, **changes), [tasks.get(g) for g in games])
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (1, 8)))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (generator.normal(size=x.shape) * 0.1).astype("f4"), shapes)
    return network, params


def alone(network, params, games, game, **fields):
    """One task's part of a student."""
    own, weights, actions = networks.for_one_game(network, params, games.index(game))
    return Expert("alone", own, weights, "q", actions, view=Vector(8), game=game, **fields)


def same(one, other):
    assert (one.network, one.actions, one.view) == (other.network, other.actions, other.view)
    assert (one.game, one.outputs) == (other.game, other.outputs)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.fixture
def saved(tmp_path):
    def save(tree, name="best.pth"):
        (tmp_path / name).write_bytes(torch_writer.dumps(tree))
        return tmp_path / name

    return save


@pytest.fixture
def box2d():
    return pytest.importorskip("Box2D")


def refused(path, *words, **options):
    with pytest.raises(ValueError) as caught:
        formats.convert(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    for word in words:
        assert word in message


# --- the multi-task agent's checkpoints are read


def test_a_shared_file_is_three_experts(saved):
    weights, other = a_net(16, rows=3), a_net(16, rows=3, seed=1)
    path = saved({"q_network": weights, "target_network": other, "optimizer": {}, "epsilon": 0.01})
    for row, game in enumerate(TASKS):
        found = formats.convert(path, game=game)
        assert found.convention == "multi-task lander, shared with embedding"
        expert = found.expert
        assert (expert.game, expert.view, expert.outputs) == (game, Vector(8), "q")
        assert not expert.network.knows_game
        ours = np.asarray(expert.suite_outputs(seen()[:, None]))
        np.testing.assert_allclose(ours, computed(weights, seen(), row), rtol=1e-5, atol=1e-5)
        assert found.rows()[0][:4] == ("task_embedding", "task_embedding", "embedding", "3 x 8")
        assert any("target_network" in note for note in found.notes)


@pytest.mark.parametrize("place", ["q_network", "q_network_state_dict"])
def test_a_task_blind_or_a_single_file_is_an_expert_of_any_lander(place, saved):
    weights = a_net()
    path = saved({place: weights, "epsilon": 0.01})
    for game in ("lander/windy_air", "heavy"):
        expert = formats.load(path, game=game)
        ours = expert.suite_outputs(seen()[:, None])
        np.testing.assert_allclose(ours, computed(weights, seen()), rtol=1e-5, atol=1e-5)
        assert expert.game == tasks.get(game).name
    whole = {f"agent.q_network.{name}": array for name, array in weights.items()}
    ours = formats.load(saved(whole), game="heavy").suite_outputs(seen()[:, None])
    np.testing.assert_allclose(ours, computed(weights, seen()), rtol=1e-5, atol=1e-5)
    one = a_net(16, rows=1)
    ours = formats.load(saved({place: one}), game="windy").suite_outputs(seen()[:, None])
    np.testing.assert_allclose(ours, computed(one, seen(), 0), rtol=1e-5, atol=1e-5)


def test_a_converted_lander_plays(saved, box2d, tmp_path):
    weights = a_net(16, rows=3)
    formats.load(saved({"q_network": weights}), game="windy").save(tmp_path / "expert")
    expert = Expert.load(tmp_path / "expert")
    terms = protocols.Terms(2, epsilon=0.0, seed=3, opening_steps=0, max_steps=40)
    scores = measuring.measure_alone(expert, terms)
    pool = tasks.get("lander/windy").pool(1, seed=3, max_steps=40)
    state = pool.last.observations[0]
    chosen = int(expert.greedy(state[None])[0])
    assert chosen == int(computed(weights, state, 1).argmax())
    assert len(scores.scores) == 2 and max(scores.lengths) <= 40


@pytest.mark.parametrize(
    ("tree", "game", "words"),
    [
        ({"q_network": a_net(16, rows=3)}, None, ("3 tasks", "give --game", *TASKS)),
        ({"q_network": a_net(16, rows=3)}, "lander/windy_air", ("give --game", *TASKS)),
        ({"q_network": a_net(16, rows=3)}, "pong", ("give --game", *TASKS)),
        ({"q_network": a_net(16, rows=5)}, "heavy", ("5 rows", "whose they are", *TASKS)),
        ({"q_network": a_net()}, None, ("give --game", "lander/windy_air")),
        ({"q_network": a_net(16)}, "heavy", ("16 numbers", "task_embedding.weight is not")),
        ({"q_network": a_net(4, 2)}, "heavy", ("4 numbers and has 2", "not play lander/heavy")),
        ({"q_network": a_net(8, 2)}, "heavy", ("8 numbers and has 2", "not play lander/heavy")),
        ({"q_network": a_net()}, "pong", ("8 numbers and has 4", "pong, which shows a screen")),
        (a_net(), "heavy", ("looks like", "not lie under 'q_network'")),
        ({"model": a_net()}, "heavy", ("looks like", "not lie under 'q_network'", "--spec")),
        (
            {"q_network": {k: v for k, v in a_net(16, rows=3).items() if k != "fc2.bias"}},
            "heavy",
            ("lacks fc2.bias",),
        ),
        (
            {"q_network": a_net(16, rows=3) | {"task_embedding.weight": np.ones(3, np.float32)}},
            "heavy",
            ("task_embedding.weight has shape (3,)",),
        ),
        (
            {"q_network": a_net(15, rows=3)},
            "heavy",
            ("a vector of 7 numbers", "not play lander/heavy"),
        ),
    ],
)
def test_what_a_file_does_not_say_is_asked_for(tree, game, words, saved):
    refused(saved(tree), *words, game=game)


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("lander_windy.pth", "lander/windy"),
        ("lander_windy_air-best.pth", "lander/windy_air"),
        ("LunarLander_heavy_shared.pth", "lander/heavy"),
        ("lunar_lander_standard.pth", "lander/standard"),
        ("windy.pth", None),
        ("standard.pth", None),
        ("lander.pth", None),
        ("my_lander_windy.pth", None),
    ],
)
def test_a_file_named_after_a_lander_plays_it(name, game, saved):
    path = saved({"q_network_state_dict": a_net()}, name)
    if game is None:
        refused(path, "give --game")
        return
    found = formats.convert(path)
    assert found.expert.game == game
    assert any("from the file's name" in note for note in found.notes)
    assert formats.load(path, game="standard").game == "lander/standard"


# --- and written


def test_a_student_comes_back_as_it_was(tmp_path):
    network, params = a_student()
    assert networks.count(params) == 37_788
    export.export(params, network, tmp_path / "student.pth", views=VIEWS, final_scores={"heavy": 9})
    for game in TASKS:
        same(formats.load(tmp_path / "student.pth", game=game), alone(network, params, TASKS, game))
    blind, params = a_student("mlp")
    export.export(params, blind, tmp_path / "blind.pth", views=VIEWS, outputs="logits")
    back = formats.load(tmp_path / "blind.pth", game="windy")
    assert back.network == blind and back.outputs == "logits"
    jax.tree.map(np.testing.assert_array_equal, back.params, params)
    refused(tmp_path / "blind.pth", "give --game")


def test_an_expert_comes_back_with_its_game_and_outputs(tmp_path):
    for network in ("mlp_task_embedding", "mlp_one_hot", "mlp"):
        student = a_student(network)
        expert = dataclasses.replace(alone(*student, TASKS, "lander/heavy"), outputs="logits")
        path = tmp_path / f"{network}.pth"
        export.export_expert(expert, path)
        same(formats.load(path), expert)
        export.export_expert(formats.load(path), tmp_path / "again" / path.name)
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    export.export_expert(expert, tmp_path / "half.pth", dtype="float16")
    rounded = jax.tree.map(lambda x: np.asarray(x).astype("f2").astype("f4"), expert.params)
    jax.tree.map(np.testing.assert_array_equal, formats.load(tmp_path / "half.pth").params, rounded)


@pytest.mark.parametrize(
    ("network", "games", "changes", "words"),
    [
        ("mlp_task_embedding_layer_norm", TASKS, {}, ("LayerNorm", "distil one")),
        ("mlp_one_hot", TASKS, {}, ("one-hot", "--format=expert")),
        ("mlp_task_embedding", TASKS[:2], {}, ("vectors for lander/standard", "--format")),
        ("mlp_task_embedding", TASKS[::-1], {}, ("lander/heavy, lander/windy", "in this order")),
        ("mlp_task_embedding", (*TASKS[:2], "lander/windy_air"), {}, ("windy_air", "in this")),
        ("mlp", TASKS, {"activation": "tanh"}, ("activation tanh", "distil one")),
        ("mlp", TASKS, {"hidden": (8,)}, ("1 shared", "distil one")),
        ("mlp", TASKS, {"hidden": (8, 8), "action_hidden": (8,)}, ("1 action", "distil one")),
        ("mlp", TASKS, {"head": "actor_critic"}, ("type actor_critic", "distil one")),
        ("mlp", TASKS, {"streams": (networks.Stream(8, (0, 1, 2, 3)),)}, ("streams", "distil one")),
    ],
)
def test_a_student_that_cannot_be_written_is_refused(network, games, changes, words, tmp_path):
    network, params = a_student(network, games, **changes)
    with pytest.raises(ValueError) as caught:
        views = dict.fromkeys(games, Vector(8))
        export.export(params, network, tmp_path / "student.pth", views=views)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words)
    assert os.listdir(tmp_path) == []


def test_an_expert_that_cannot_be_written_is_refused(tmp_path):
    network, params = a_student("mlp")
    fields = {"view": Vector(8), "game": "lander/heavy"}
    turned = Expert("x", network, params, "q", (3, 2, 1, 0), **fields)
    with pytest.raises(ValueError, match="all 4 lander actions in order"):
        export.export_expert(turned, tmp_path / "x.pth")
    nobodys = Expert("x", network, params, "q", (0, 1, 2, 3), view=Vector(8))
    with pytest.raises(ValueError, match=r"does not say what it plays.* again with --game"):
        export.export_expert(nobodys, tmp_path / "x.pth")
    large = jax.tree.map(lambda x: x * 1e6, params)
    with pytest.raises(ValueError, match="not finite as float16"):
        expert = Expert("x", network, large, "q", (0, 1, 2, 3), **fields)
        export.export_expert(expert, tmp_path / "x.pth", dtype="float16")
    with pytest.raises(ValueError, match="differ in shape"):
        views = {"lander/heavy": Vector(8), "pong": View()}
        export.export(params, network, tmp_path / "x.pth", views=views)
    assert os.listdir(tmp_path) == []


# --- in PyTorch


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


def reference(torch, vectors):
    """The agents' network: 8 numbers, then (with `vectors`) the task's, 256, 128 and 4."""
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            if vectors:
                self.task_embedding = nn.Embedding(3, 8)
            self.fc1 = nn.Linear(16 if vectors else 8, 256)
            self.fc2, self.fc3 = nn.Linear(256, 128), nn.Linear(128, 4)

        def forward(self, state, task):
            rows = [state, self.task_embedding(task)] if vectors else [state]
            hidden = torch.relu(self.fc1(torch.cat(rows, dim=1)))
            return self.fc3(torch.relu(self.fc2(hidden)))

    return Network()


def said(torch, net, row):
    with torch.inference_mode():
        states = torch.from_numpy(seen())
        return net(states, torch.full((len(states),), row)).numpy()


@pytest.mark.parametrize("vectors", [True, False], ids=["embedding", "blind"])
def test_a_shared_agents_checkpoint_computes_what_pytorch_does(vectors, torch, tmp_path):
    net, target = reference(torch, vectors), reference(torch, vectors)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-4)
    net(torch.from_numpy(seen()), torch.zeros(16, dtype=torch.long)).sum().backward()
    optimiser.step()
    tree = {
        "q_network": net.state_dict(),
        "target_network": target.state_dict(),
        "optimizer": optimiser.state_dict(),
        "epsilon": 0.01,
    }
    torch.save(tree, tmp_path / "best.pth")
    for row, game in enumerate(TASKS):
        expert = formats.load(tmp_path / "best.pth", game=game)
        theirs = said(torch, net, row)
        ours = np.asarray(expert.suite_outputs(seen()[:, None]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        assert np.ptp(theirs, axis=0).min() > 1e-2
    if vectors:
        assert np.abs(said(torch, net, 0) - said(torch, net, 2)).max() > 1e-2


@pytest.mark.parametrize("vectors", [True, False], ids=["embedding", "blind"])
def test_a_shared_agent_goes_on_from_our_student(vectors, torch, tmp_path):
    network, params = a_student("mlp_task_embedding" if vectors else "mlp")
    export.export(params, network, tmp_path / "student.pth", views=VIEWS)
    tree = torch.load(tmp_path / "student.pth", weights_only=True)
    net, target = reference(torch, vectors), reference(torch, vectors)
    net.load_state_dict(tree["q_network"])
    target.load_state_dict(tree["target_network"])
    assert sum(p.numel() for p in net.parameters()) == (37_788 if vectors else 35_716)
    for row in range(3):
        ours = np.asarray(networks.forward(network, params, seen()[:, None], row))
        for theirs in (net, target):
            np.testing.assert_allclose(ours, said(torch, theirs, row), rtol=1e-5, atol=1e-5)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-4)
    optimiser.load_state_dict(tree["optimizer"])
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.from_numpy(seen()), torch.arange(16) % 3).sum().backward()
    optimiser.step()
    assert all((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    assert isinstance(tree["epsilon"], float)
    assert {type(tree[name]) for name in ("steps", "episodes")} == {int}


def test_a_single_agent_goes_on_from_our_expert_and_back(torch, tmp_path):
    expert = alone(*a_student(), TASKS, "lander/windy")
    export.export_expert(expert, tmp_path / "expert.pth")
    tree = torch.load(tmp_path / "expert.pth", weights_only=True)
    fields = {"q_network_state_dict", "optimizer_state_dict", "epsilon", "steps", "episodes"}
    assert set(tree) == {*fields, "jaxdistill"}
    net = reference(torch, vectors=False)
    net.load_state_dict(tree["q_network_state_dict"])
    ours = np.asarray(expert.suite_outputs(seen()[:, None]))
    np.testing.assert_allclose(ours, said(torch, net, 0), rtol=1e-5, atol=1e-5)
    optimiser = torch.optim.Adam(net.parameters())
    optimiser.load_state_dict(tree["optimizer_state_dict"])
    net(torch.from_numpy(seen()), None).sum().backward()
    optimiser.step()
    theirs = {
        "q_network_state_dict": net.state_dict(),
        "optimizer_state_dict": optimiser.state_dict(),
        "epsilon": 0.01,
        "steps": 9,
        "episodes": 1,
    }
    torch.save(theirs, tmp_path / "trained.pth")
    back = formats.load(tmp_path / "trained.pth", game="windy").suite_outputs(seen()[:, None])
    np.testing.assert_allclose(back, said(torch, net, 0), rtol=1e-5, atol=1e-5)


# --- Stable-Baselines3


def sb3_zip(path, algorithm, inputs=8, actions=4, seed=0):
    """A zip as Stable-Baselines3 writes it for an `MlpPolicy`, its tensors made by hand."""
    if algorithm == "dqn":
        names = ("q_net.q_net.0", "q_net.q_net.2", "q_net.q_net.4")
        shapes = ((16, inputs), (16, 16), (actions, 16))
        tensors = layers(*zip(names, shapes, strict=True), seed=seed)
        copies = layers(*((f"q_net_target{n[5:]}", s) for n, s in zip(names, shapes, strict=True)))
        tensors, data = tensors | copies, {}
    else:
        sides = ("policy_net", "value_net")
        parts = [(f"mlp_extractor.{s}.0", (16, inputs)) for s in sides]
        parts += [(f"mlp_extractor.{s}.2", (16, 16)) for s in sides]
        parts += [("action_net", (actions, 16)), ("value_net", (1, 16))]
        tensors = layers(*parts, seed=seed)
        data = {"n_steps": 5} | ({"n_epochs": 10} if algorithm == "ppo" else {})
    space = {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "float32", "_shape": [inputs]}
    choice = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": str(actions)}
    data |= {"policy_kwargs": {}, "observation_space": space, "action_space": choice}
    weights = path.with_suffix(".pth")
    export.save(tensors, weights)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps(data))
        file.writestr("policy.pth", weights.read_bytes())
    return path, tensors


@pytest.mark.parametrize("algorithm", ["dqn", "ppo", "a2c"])
def test_a_policy_of_lunar_lander_plays(algorithm, box2d, tmp_path):
    path, tensors = sb3_zip(tmp_path / "policy.zip", algorithm)
    found = formats.convert(path, game="LunarLander-v3")
    expert = found.expert
    assert found.convention == f"Stable-Baselines3 {algorithm.upper()}, MLP"
    assert (expert.game, expert.view) == ("lander/standard", Vector(8))
    assert expert.outputs == ("q" if algorithm == "dqn" else "logits")
    assert expert.actions == (0, 1, 2, 3)
    own = "q_net.q_net" if algorithm == "dqn" else "mlp_extractor.policy_net"
    act = (lambda x: np.maximum(x, 0)) if algorithm == "dqn" else np.tanh
    x = seen()
    for key in (f"{own}.0", f"{own}.2", "q_net.q_net.4" if algorithm == "dqn" else "action_net"):
        x = x @ tensors[f"{key}.weight"].T + tensors[f"{key}.bias"]
        x = x if key.endswith(("4", "action_net")) else act(x)
    np.testing.assert_allclose(expert.suite_outputs(seen()[:, None]), x, rtol=1e-4, atol=1e-4)
    terms = protocols.Terms(2, epsilon=0.0, seed=3, opening_steps=0, max_steps=60)
    measured = [
        measuring.measure_alone(e, terms)
        for e in (expert, dataclasses.replace(expert, game="lander/heavy"))
    ]
    assert measured[0].scores.tolist() != measured[1].scores.tolist()


def test_a_policy_of_something_else_is_no_landers(tmp_path):
    cartpole, _ = sb3_zip(tmp_path / "cartpole.zip", "ppo", 4, 2)
    refused(
        cartpole,
        "sees a vector of 4 numbers and has 2 actions does not play lander/standard, which shows "
        "a vector of 8 numbers and has 4 actions",
        game="lander/standard",
    )
    other, _ = sb3_zip(tmp_path / "other.zip", "dqn", 8, 3)
    refused(other, "has 3 actions does not play lander/windy", game="windy")
    pilot, _ = sb3_zip(tmp_path / "pilot.zip", "dqn")
    refused(pilot, "not play pong, which shows a screen and has 6 actions", game="pong")
    assert formats.load(cartpole).game is None


def of_frames():
    network = networks.create("net3")
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (4, 84, 84)))
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    return Expert("x", network, params, "q", tuple(range(18)))


def test_frames_are_no_landers(tmp_path):
    expert = of_frames()
    export.export_expert(expert, tmp_path / "frames.pth")
    refused(tmp_path / "frames.pth", "sees a screen", "not play lander/windy", game="windy")
    expert.save(tmp_path / "frames")
    refused(tmp_path / "frames", "sees a screen", "lander/windy shows a vector", game="windy")


def test_experts_of_two_suites_have_no_common_student(tmp_path):
    pilot, _ = sb3_zip(tmp_path / "pilot.zip", "dqn")
    dataclasses.replace(of_frames(), game="pong").save(tmp_path / "pong")
    sources = [ExpertSource(str(tmp_path / "pong")), ExpertSource(str(pilot), game="windy")]
    with pytest.raises(ValueError, match=r"pong \(atari\) and of lander/windy \(lander\) cannot"):
        load_experts(sources)
    with pytest.raises(ValueError, match="does not play breakout, which shows a screen"):
        load_experts([sources[0], ExpertSource(str(pilot), game="breakout")])


# --- a merge of other people's landers, and the student as a file


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """The directory of a tiny run that has learnt and chosen its student, with its experts."""
    pytest.importorskip("Box2D")
    root = tmp_path_factory.mktemp("merge")
    sources = []
    for seed, (algorithm, game) in enumerate(zip(("dqn", "ppo", "a2c"), TASKS, strict=True)):
        sb3_zip(root / f"{algorithm}.zip", algorithm, seed=seed)
        sources.append(ExpertSource(str(root / f"{algorithm}.zip"), game=game))
    settings = distill_settings.Settings(
        experts=tuple(sources),
        network="mlp_task_embedding",
        collect=distill_settings.Collect(
            num_envs=4, initial_steps=128, steps_per_round=64, window_steps=256
        ),
        learn=distill_settings.Learn(
            rounds=2, updates_per_round=8, batch_per_game=16, ema_decay=0.9
        ),
        evaluate=distill_settings.Evaluate(
            every_rounds=1, select_episodes=2, report_episodes=4, max_steps=60
        ),
    )
    assert distill.distill(settings, root / "run", stop_after="train") == {}
    return root / "run"


def test_a_merge_of_foreign_landers_learns_from_all(merged):
    # Each was asked about its own task: what is kept beside the states is what it says of them.
    log = dataset.open_log(merged / "dataset")
    chunk = log.read(0, log.length)
    for index, name in enumerate(("dqn", "ppo", "a2c")):
        expert = formats.load(merged.parent / f"{name}.zip", game=TASKS[index])
        states = chunk.frames[index][chunk.usable[index]]
        labels = chunk.labels[index][chunk.usable[index]]
        assert states.shape == (len(labels), 8) and len(labels) > 100
        ours = expert.suite_outputs(states[:, None])
        np.testing.assert_allclose(labels, ours, rtol=1e-3, atol=1e-3)
    rows = [row for row in metrics.read(merged) if "loss" in row]
    assert len(rows) == 2
    for name in ("loss", *(f"game_loss/{game}" for game in TASKS)):
        assert rows[1][name] < rows[0][name], name
    # A task's own vector is changed by what is learnt of it alone, and its decay is far smaller.
    _, state, network = students.load_student(merged)
    fresh = networks.init(network, jax.random.fold_in(jax.random.key(0), 100), (1, 8))
    vectors, begun = (
        params["params"]["task_embedding"]["embedding"] for params in (state.params, fresh)
    )
    assert np.abs(vectors - begun).max(axis=1).min() > 1e-3


def test_its_student_is_written_and_comes_back_bit_by_bit(program, merged, tmp_path):
    out = tmp_path / "student.pth"
    code, said, err = program("export", f"--workdir={merged}", f"--out={out}")
    assert code == 0, err
    assert "logits where other readers expect Q-values" in said
    assert "other readers will not know" not in said
    tree = torch_file.read(out).tree
    assert sum(array.size for array in tree["q_network"].values()) == 37_788
    assert tree["games"] == list(TASKS) and tree["merge_config"]["loss"] == "kl"
    for game in TASKS:
        student = students.student_as_expert(merged, game)
        same(formats.load(out, game=game), student)
        export.export_expert(student, tmp_path / "one" / f"{game}.pth")
        same(formats.load(tmp_path / "one" / f"{game}.pth"), student)
    one = tmp_path / "alone" / "heavy.pth"
    flags = ("--format=expert", "--game=heavy", f"--out={one}")
    code, _, err = program("export", f"--workdir={merged}", *flags)
    assert code == 0, err
    assert os.listdir(one.parent) == ["heavy.pth"], "no training_config.json: that is Atari's"
    same(formats.load(one), student)


def test_a_student_of_other_tasks_is_refused_in_one_line(program, merged, tmp_path):
    # As if the run's experts had been named in another order.
    shutil.copytree(merged, tmp_path / "run")
    roles = tmp_path / "run" / "student.json"
    roles.write_text(json.dumps(json.loads(roles.read_text())[::-1]))
    out = tmp_path / "student.pth"
    code, _, err = program("export", f"--workdir={tmp_path / 'run'}", f"--out={out}")
    assert code == 2 and not out.exists()
    (line,) = err.splitlines()
    assert "learnt vectors for lander/heavy, lander/windy, lander/standard" in line
    assert "--format=expert --game=NAME" in line


def test_the_program_converts_one_of_three_and_plays_it(program, saved, box2d, tmp_path):
    path, out = saved({"q_network": a_net(16, rows=3)}), tmp_path / "expert"
    code, _, err = program("convert", f"--source={path}", f"--out={out}")
    assert code == 2 and "give --game, one of lander/standard" in err
    assert not out.exists() and len(err.splitlines()) == 1
    flags = ("--game=lander/windy", "--episodes=2", "--epsilon=1")
    code, said, err = program("convert", f"--source={path}", f"--out={out}", *flags)
    assert code == 0, err
    assert "actions [0, 1, 2, 3] of lander/windy" in said
    assert "its vector for lander/windy is now part of the bias of fc1" in said
    assert "cannot be played" not in said
    same(Expert.load(out), formats.load(path, game="windy"))
