"""Policies as PyTorch modules, ONNX and StableHLO: run by others, they answer as ours do."""

import dataclasses
import errno
import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import (
    export_module,
    export_onnx,
    export_stablehlo,
    formats,
    portable,
    torch_file,
    torch_layout,
    torch_writer,
)
from jaxdistill.experts.formats import module_file
from jaxdistill.experts.student import Role, Student
from jaxdistill.networks import Atoms, ConvLayer, Network
from jaxdistill.play import lessons
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("flatbuffers")

CONVS = (ConvLayer(6, 8, 4), ConvLayer(8, 4, 2, 1))
ATARI = ("pong", "breakout")
LANDERS = ("lander/windy", "lander/heavy")
CASES = {
    "dueling": (Network(convs=CONVS, head="dueling", action_hidden=(7,), value_hidden=(5,)), ATARI),
    "controllers": (
        Network(convs=CONVS, hidden=(8,), action_hidden=(6,), controllers=True, layer_norm=True),
        ATARI,
    ),
    "embedding": (Network(convs=CONVS, hidden=(8,), task_embedding=3, activation="silu"), ATARI),
    "residual": (
        Network(convs=(), residual=(3, 4), hidden=(8,), layer_norm=True, activation="gelu"),
        ATARI,
    ),
    "residual, odd sizes": (
        Network(convs=(), residual=(3, 4, 5), hidden=(8,)),  # of 84, 42 and 21 pixels
        ATARI[1:],
    ),
    "residual, PyTorch's": (
        Network(convs=(ConvLayer(3, 3),), residual=(3,), hidden=(8,), torch_pool=True),
        ATARI[1:],
    ),
    "categorical": (
        Network(
            convs=(ConvLayer(6, 8, 4, 2, 1),),
            head="dueling",
            action_hidden=(6,),
            value_hidden=(5,),
            atoms=Atoms(-10.0, 10.0, 7),
            input_clip=5.0,
        ),
        ATARI[1:],
    ),
    "one of controllers": (
        Network(convs=CONVS, action_hidden=(6,), controllers=True),
        ATARI[1:],
    ),
    "one hot": (Network(convs=(), hidden=(9, 6), one_hot=True, activation="selu"), LANDERS),
    "activations": (
        Network(
            convs=(),
            hidden=(7,) * 5,
            activation=("elu", "tanh", "leaky_relu", "sigmoid", "none"),
        ),
        LANDERS[:1],
    ),
    "skills": (networks.create("skills"), ("combat/duel", "combat/aiming")),
}

# What ONNX is not written of.
MODULES = CASES | {
    "quantiles": (Network(convs=CONVS, hidden=(8,), fractions=5, layer_norm=True), ATARI[1:]),
    "quantiles of features": (Network(convs=CONVS, fractions=3), ATARI[1:]),
    "critic": (Network(convs=CONVS, head="actor_critic", value_hidden=(4,)), ATARI),
    "controllers, one hot": (Network(convs=CONVS, one_hot=True, controllers=True), ATARI),
}


def a_policy(network, games):
    """A student of numbers drawn by chance, such that outputs are about 1."""
    chosen = [tasks.get(game) for game in games]
    network, view = networks.for_tasks(network, chosen), chosen[0].suite.view
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), view.shape))
    generator = np.random.default_rng(1)

    def draw(path, x):
        scale = 0.2 if x.ndim == 1 else 1.4 / np.prod(x.shape[:-1]) ** 0.5
        drawn = (path[-1].key == "scale") + generator.normal(size=x.shape) * scale
        return drawn.astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    if network.input_clip:
        params["params"]["input"]["scale"] += 3
    roles = tuple(Role(task.name, view, task.actions, "someone") for task in chosen)
    outputs = "logits" if chosen[0].suite.kinds else "q"
    return portable.of_student(Student("mine", network, params, outputs, roles))


def of_its_own(policy, play, rows=9):
    """Real states of Breakout with some of noise, or numbers; and each row's task."""
    generator = np.random.default_rng(2)
    if policy.dtype == "uint8":
        real = play.observations[50::150, 0]
        noise = generator.integers(0, 256, (rows - len(real), *policy.shape), np.uint8)
        seen = np.concatenate([real, noise])
    else:
        seen = generator.normal(size=(rows, *policy.shape)).astype(np.float32)
    which = np.arange(len(seen), dtype=np.int32) % len(policy.roles)
    return (seen, which) if policy.several else (seen,)


def ours(policy, given):
    """What the network says, task by task, and the greedy action by its form."""
    seen, which = given if policy.several else (given[0], np.zeros(len(given[0]), np.int32))
    network = policy.network
    forward = jax.jit(networks.forward, static_argnums=0)
    outputs = np.asarray(forward(network, policy.params, seen, which))
    whole = np.zeros((len(seen), policy.suite.num_actions), np.float32)
    whole[:, list(policy.places)] = outputs
    limited = [policy.roles[i].task.limited(x) for i, x in zip(which, whole, strict=True)]
    form, whole = policy.suite.form, np.stack(limited)
    return whole, np.asarray(form.greedy(whole, policy.masks[which]))


def same(found, wanted):
    """To 1e-5 of each output, or of the largest: a categorical head's are sums of larger ones."""
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * scale)


@pytest.fixture(scope="module")
def everything(breakout_play, tmp_path_factory):
    """Each case's policy, what goes in, what is to come out, and where it is written."""
    root, made = tmp_path_factory.mktemp("portable"), {}
    for number, (name, case) in enumerate(MODULES.items()):
        policy = a_policy(*case)
        given = of_its_own(policy, breakout_play)
        made[name] = (policy, given, ours(policy, given), root / str(number))
        assert np.ptp(made[name][2][0], axis=0).max() > 0.02, name
    return made


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_answers_as_we_do(case, everything):
    policy, given, wanted, where = everything[case]
    path = where.with_suffix(".onnx")
    export_onnx.write(policy, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(path)
    names = [x.name for x in session.get_inputs()]
    same(session.run(None, dict(zip(names, given, strict=True))), wanted)
    same(
        session.run(None, dict(zip(names, [x[:2] for x in given], strict=True))),
        [x[:2] for x in wanted],
    )

    told = json.loads((path.parent / f"{path.name}.json").read_text())
    assert json.loads(model.metadata_props[0].value) == told
    for said, own in zip(told["inputs"] + told["outputs"], (*given, *wanted), strict=True):
        assert said["dtype"] == own.dtype and said["shape"] == ["batch", *own.shape[1:]]
    assert names == [x["name"] for x in told["inputs"]]
    assert [x["name"] for x in told["tasks"]] == list(CASES[case][1])
    if wanted[1].ndim == 1:
        which = given[1] if policy.several else np.zeros(len(given[0]), int)
        allowed = [told["tasks"][i]["actions"] for i in which]
        assert all(a in own for a, own in zip(wanted[1].tolist(), allowed, strict=True))


def a_module(path, monkeypatch):
    """What a user imports, who has PyTorch alone."""
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module(path.stem)


@pytest.mark.parametrize("case", MODULES)
def test_a_pytorch_module_answers_as_we_do_and_comes_back(case, everything, monkeypatch):
    torch = pytest.importorskip("torch")
    policy, given, wanted, where = everything[case]
    path = where.with_name(f"{where.name} of-mine.pth")
    code = export_module.write(policy, path)
    assert code.name == f"policy_{where.name}_of_mine.py"
    module = a_module(code, monkeypatch)
    player = module.Policy.load(path)
    assert not player.training
    seen = list(map(torch.from_numpy, given))
    outputs = player(*seen)
    kind = wanted[1].dtype.name.replace("int32", "int64")
    same((outputs.detach().numpy(), player.act(*seen).numpy()), (wanted[0], wanted[1].astype(kind)))
    assert f"action = policy.act({'observations, task' if policy.several else 'observations'})" in (
        module.__doc__
    )
    with torch.device("meta"):  # all that it needs goes along to another device
        elsewhere = module.Policy()
    assert elsewhere.act(*(x.to("meta") for x in seen)).device.type == "meta"

    again = where.with_name(f"{where.name}-again.pth")
    player.save(again)
    for file in (path, again):
        for place, role in enumerate(policy.roles):
            expert = formats.load(file, game=role.game if policy.several else None)
            assert (expert.game, expert.view, expert.outputs) == (
                role.game,
                role.view,
                policy.outputs,
            )
            rows = given[1] == place if policy.several else slice(None)
            found = np.asarray(expert.suite_outputs(given[0][rows]))
            known = expert.mask
            limited = np.where(known, wanted[0][rows], 0)
            np.testing.assert_allclose(found * known, limited, rtol=1e-5, atol=1e-5 * scale(wanted))
    shared = policy.params["params"]
    back = torch_layout.from_torch(
        torch_file.read(path).tree["state_dict"], policy.network, policy.shape
    )
    jax.tree.map(np.testing.assert_array_equal, back["params"], dict(shared))


def scale(wanted):
    """Of the largest output, at least 1."""
    return max(1.0, float(np.abs(wanted[0]).max()))


def test_a_critic_is_written_and_what_pytorch_learns_comes_back(everything, monkeypatch):
    torch = pytest.importorskip("torch")
    policy, given, _, where = everything["critic"]
    path = where.with_suffix(".pth")
    player = a_module(export_module.write(policy, path), monkeypatch).Policy.load(path)
    seen = list(map(torch.from_numpy, given))
    values = networks.forward_with_values(policy.network, policy.params, *given)[1]
    np.testing.assert_allclose(player.critic(*seen).detach(), values, rtol=1e-5, atol=1e-5)

    learner = torch.optim.SGD(player.parameters(), lr=0.1)
    torch.nn.functional.mse_loss(player(*seen), torch.zeros(len(given[0]), 18)).backward()
    learner.step()
    player.save(where.with_name("learnt.pth"))
    learnt = formats.load(where.with_name("learnt.pth"), game="breakout")
    rows = given[1] == policy.roles.index(next(x for x in policy.roles if x.game == "breakout"))
    with torch.no_grad():
        outputs = player(*(x[rows] for x in seen)).numpy()
    found = np.asarray(learnt.suite_outputs(given[0][rows]))
    np.testing.assert_allclose(found[:, learnt.mask], outputs[:, learnt.mask], rtol=1e-4, atol=1e-5)
    before = np.asarray(formats.load(path, game="breakout").suite_outputs(given[0][rows]))
    assert np.abs(found - before).max() > 1e-3


def test_a_damaged_module_file_is_one_line(everything, tmp_path):
    policy = everything["dueling"][0]
    path = tmp_path / "x.pth"
    export_module.write(policy, path)
    tree = torch_file.read(path).tree
    about, weights = tree[module_file.KEY], dict(tree["state_dict"])
    few = {name: weights[name] for name in ("conv1.bias", "conv2.bias")}
    large = {**about["network"], "action_hidden": [2**30]}
    for number, (changed, own, said) in enumerate(
        (
            ({"network": {"convs": 3}}, weights, "damaged"),
            ({"network": large}, weights, r"action.weight is of shape \(18, 7\), and of"),
            ({"places": [0, 99]}, weights, "export it again"),
            ({"tasks": []}, weights, "it names no task"),
            ({"tasks": about["tasks"] * 500}, weights, "it names 1000 tasks"),
            ({"outputs": "values"}, weights, "damaged"),
            ({}, few, "2 arrays are too few"),
            ({}, {**weights, "more.weight": weights["value.bias"]}, "more.weight is of no layer"),
            ({}, {**weights, "value.bias": weights["value.bias"] * np.nan}, "value.bias holds NaN"),
        )
    ):
        if "places" in changed:
            changed = {**changed, "tasks": about["tasks"][:1]}
        wrong = tmp_path / f"{number}.pth"
        torch_writer.save({"state_dict": own, module_file.KEY: {**about, **changed}}, wrong)
        with pytest.raises(ValueError, match=said) as error:
            formats.load(wrong, game="pong")
        assert "\n" not in str(error.value) and str(error.value).startswith(str(wrong))
    for game, said in ((None, "name one of pong, breakout"), ("qbert", "distilled pong, breakout")):
        with pytest.raises(ValueError, match=said):
            formats.load(path, game=game)
    export_module.write(everything["one of controllers"][0], tmp_path / "one.pth")
    with pytest.raises(ValueError, match=r"one.pth: plays breakout, and pong was asked for"):
        formats.load(tmp_path / "one.pth", game="pong")


READER = """
import sys, jax, numpy as np
from jax import export
for path in sys.argv[1:]:
    program = export.deserialize(bytearray(open(path, "rb").read()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    given = np.load(path + ".npz")
    given = [given[name] for name in sorted(given)]
    outputs, action = program.call(*given)
    less = program.call(*[x[:2] for x in given])[0]  # another number of rows
    np.savez(path + ".out.npz", outputs=outputs, action=action, less=less)
assert not [name for name in sys.modules if name.startswith(("jaxdistill", "flax"))]
"""
ALONE = ("dueling", "controllers", "embedding", "residual", "skills")


def test_jax_alone_answers_as_we_do(everything, tmp_path):
    """In a process that does not import this package."""
    paths = []
    for case in ALONE:
        policy, given, _, _ = everything[case]
        path = tmp_path / case
        export_stablehlo.write(policy, path)
        np.savez(tmp_path / f"{case}.npz", **{f"input{i}": x for i, x in enumerate(given)})
        told = json.loads((tmp_path / f"{case}.json").read_text())
        assert told == json.loads(json.dumps(policy.described()))
        paths.append(str(path))
    subprocess.run([sys.executable, "-c", READER, *paths], check=True, cwd=tmp_path)
    for case, path in zip(ALONE, paths, strict=True):
        with np.load(f"{path}.out.npz") as file:
            found, wanted = dict(file), everything[case][2]
        same((found["outputs"], found["action"]), wanted)
        np.testing.assert_allclose(found["less"], wanted[0][:2], rtol=1e-5, atol=1e-5)


def test_a_game_is_played_move_for_move(watcher, tmp_path):
    """By an expert that answers to what moves."""
    expert = watcher("breakout", 1)
    export_onnx.write(portable.of_expert(expert), tmp_path / "watcher.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "watcher.onnx")
    (lesson,) = lessons.of_experts([expert], 0)
    pools = [lesson.task.pool(1, seed=5, max_steps=150) for _ in range(2)]
    moves, score = [], 0.0
    for _ in range(150):
        ours, theirs = (pool.last.observations for pool in pools)
        np.testing.assert_array_equal(ours, theirs)
        (action,) = np.asarray(expert.greedy(ours))
        (chosen,) = session.run(["action"], {"observations": theirs})[0]
        assert action == chosen
        moves.append(int(action))
        score += pools[0].step(np.array([action])).rewards[0]
        pools[1].step(np.array([chosen]))
        if pools[0].last.over[0]:
            break
    assert len(set(moves)) > 1 and pools[1].last.over[0], "a whole game, within the limit"


def test_angles_go_no_farther_than_each_row_s_task_allows(everything):
    policy, given, _, _ = everything["skills"]
    seen, which = given
    outputs, action = map(np.asarray, policy(*map(jax.numpy.asarray, given)))
    own = np.asarray(networks.forward(policy.network, policy.params, seen))
    widest = np.deg2rad([27, 36])[which, None]  # of the duel and of aiming
    beyond = (np.abs(own[:, 7:]) > widest).any(axis=1)
    assert all(beyond[which == i].any() for i in (0, 1))
    wanted = np.clip(own[:, 7:], -widest, widest)
    for found in (outputs, action):
        np.testing.assert_allclose(found[:, 7:], wanted, rtol=1e-5)
    np.testing.assert_allclose(outputs[:, :7], own[:, :7], rtol=1e-5, atol=1e-6)


def test_what_it_was_not_taught_is_never_chosen(everything):
    policy, given, (outputs, _), _ = everything["dueling"]
    roles = tuple(dataclasses.replace(role, actions=role.actions[1:2]) for role in policy.roles)
    _, action = dataclasses.replace(policy, roles=roles)(*map(jax.numpy.asarray, given))
    np.testing.assert_array_equal(action, [roles[i].actions[0] for i in given[1]])
    assert (outputs.argmax(axis=1) != action).any()


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(everything, tmp_path, monkeypatch):
    policy = everything["one of controllers"][0]
    broken = jax.tree.map(lambda x: x * np.float32(np.inf), policy.params)
    quantiles = dataclasses.replace(policy, network=policy.network.clone(fractions=4))
    core = networks.Core("gru", 4)
    recurrent = dataclasses.replace(policy, network=policy.network.clone(core=core))
    (tmp_path / "stands").write_text("mine")
    (tmp_path / "beside.json").write_text("mine")
    (tmp_path / "code.py").write_text("mine")
    for format_, wrong, name, said in (
        (export_module, dataclasses.replace(policy, params=broken), "x", "NaN or infinite weights"),
        (export_module, recurrent, "x", "it has a recurrent core"),
        (export_module, policy, "stands", "stands already exists"),
        (export_module, policy, "code.pth", "code.py already exists"),
        (export_module, policy, "x.py", "would be the weights; name them, as .*x.pth"),
        (export_onnx, quantiles, "x", "implicit quantiles are not written as ONNX"),
        *(
            (format_, given, name, said)
            for format_ in (export_onnx, export_stablehlo)
            for given, name, said in (
                (dataclasses.replace(policy, params=broken), "x", "NaN or infinite weights"),
                (recurrent, "x", "it has a recurrent core, .* distil it, and export the student"),
                (policy, "stands", "stands already exists"),
                (policy, "beside", "beside.json already exists"),
            )
        ),
    ):
        with pytest.raises(ValueError, match=said) as error:
            format_.write(wrong, tmp_path / name)
        assert "\n" not in str(error.value)
    for package, format_ in (("onnx", export_onnx), ("flatbuffers", export_stablehlo)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ValueError, match=f"with the package {package}: pip install"):
            format_.write(policy, tmp_path / "x")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["beside.json", "code.py", "stands"]


@pytest.mark.parametrize("full", ["x", "x.json"])
def test_a_full_disk_leaves_neither_file_and_names_one(everything, tmp_path, monkeypatch, full):
    replace = os.replace

    def failing(temporary, path):
        if pathlib.Path(path).name == full:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(temporary, path)

    policy = everything["one of controllers"][0]
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match=rf"{full} cannot be written \(No space left"):
        portable.write(policy, tmp_path / "x", lambda: b"content")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"cannot be written \(No space left"):
        monkeypatch.setattr(os, "replace", lambda *_: failing("", tmp_path / full))
        export_module.write(policy, tmp_path / "y.pth")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    portable.write(policy, tmp_path / "x", lambda: b"content")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["x", "x.json"]


def test_what_an_expert_sees_is_what_goes_in(watcher):
    """Also what EnvPool does not make, such as differences."""
    expert = watcher("pong", 1)
    assert portable.of_expert(expert).dtype == "uint8"
    other = dataclasses.replace(expert, view=View(difference=True))
    told = portable.of_expert(other).described()
    assert told["inputs"][0]["dtype"] == "float32" and told["tasks"][0]["view"]["difference"]
    assert told["tasks"][0]["actions"] == [0, 1, 3, 4, 11, 12]
    assert told["action_names"][:2] == ["NOOP", "FIRE"] and told["rules"]["frame_skip"] == 4


def test_its_description_says_by_which_rules_it_plays(watcher):
    sticky, expert = Rules(repeat_action_probability=0.25), watcher("pong", 1)
    roles = tuple(Role(x, expert.view, tasks.get(x).actions, "someone") for x in ATARI)
    students = [
        Student("mine", expert.network, expert.params, "q", some, sticky)
        for some in (roles, roles[:1])
    ]
    for made in (*map(portable.of_student, students), portable.of_expert(expert.under(sticky))):
        assert made.described()["rules"] == dataclasses.asdict(sticky)
