"""A student of skills as the public fighter's distilled policy: written, computed, read back."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import export, formats, torch_file, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import skills
from jaxdistill.networks import Stream
from jaxdistill.tasks.combat import COMBAT

SKILLS = networks.create("skills")
HEADS = {"movement_head": (64, 6), "aiming_head": (32, 2), "clicking_head": (16, 1)}


def a_student(network=SKILLS, inputs=20):
    """Parameters that are all different, and such that outputs are about 1."""
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (1, inputs)))
    generator = np.random.default_rng(0)

    def draw(x):
        scale = 0.2 if x.ndim == 1 else 1.4 / x.shape[0] ** 0.5
        return (generator.normal(size=x.shape) * scale).astype(np.float32)

    return jax.tree.map(draw, shapes)


def a_fighter(torch, inputs=20, hidden=256):
    """The layout's own module, as its readers build it."""
    nn = torch.nn

    class Fighter(nn.Module):
        def __init__(self):
            super().__init__()
            sizes, layers = (inputs, hidden, hidden, hidden // 2), []
            for before, after in itertools.pairwise(sizes):
                layers += [nn.Linear(before, after), nn.ReLU()]
            self.encoder = nn.Sequential(*layers)
            for name, (width, outputs) in HEADS.items():
                head = nn.Sequential(
                    nn.Linear(hidden // 2, width), nn.ReLU(), nn.Linear(width, outputs)
                )
                self.add_module(name, head)

        def forward(self, x):
            x = self.encoder(x)
            keys, click = torch.sigmoid(self.movement_head(x)), torch.sigmoid(self.clicking_head(x))
            return torch.cat([keys, click, torch.tanh(self.aiming_head(x))], dim=-1)

    return Fighter()


@pytest.mark.parametrize(
    "network",
    [
        SKILLS,
        SKILLS.clone(streams=SKILLS.streams[::-1]),
        networks.create("skills", head="actor_critic", value_hidden=(128, 64)),
        SKILLS.clone(hidden=(64, 64, 32)),
    ],
    ids=["skills", "another order of streams", "with a critic", "narrower"],
)
def test_pytorch_computes_the_same(network, tmp_path):
    torch = pytest.importorskip("torch")
    params = a_student(network)
    weights = export.skills_state_dict(params, network)
    export.save({"policy_state_dict": weights}, tmp_path / "student.pth")
    read = torch.load(tmp_path / "student.pth", weights_only=True)["policy_state_dict"]
    assert {x.dtype for x in read.values()} == {torch.float32}
    fighter = a_fighter(torch, hidden=network.hidden[0])
    fighter.load_state_dict(read)  # every name, and no other
    x = np.random.default_rng(1).uniform(-1, 1, (128, 20)).astype(np.float32)
    with torch.no_grad():
        theirs = fighter(torch.from_numpy(x)).numpy()
    outputs = networks.forward(network, params, jnp.asarray(x)[:, None])
    ours = jnp.where(jnp.arange(9) < 7, jax.nn.sigmoid(outputs), outputs)
    assert theirs.std(0).min() > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_what_is_written_is_read_back_as_it_was(tmp_path):
    params = a_student()
    weights = export.skills_state_dict(params, SKILLS)
    export.save({"policy_state_dict": weights, "obs_dim": 20}, tmp_path / "student.pth")
    conversion = formats.convert(tmp_path / "student.pth")
    expert = conversion.expert
    assert conversion.convention == "fighter, distilled from skills"
    assert (expert.network, expert.actions, expert.outputs) == (SKILLS, tuple(range(9)), "logits")
    assert expert.view.shape == (1, 20)
    jax.tree.map(np.testing.assert_array_equal, expert.params, params)
    rows = conversion.rows()
    assert rows[3][:2] == ("stream1_fc1", "movement_head.0") and rows[3][5] == "relu"
    assert [row[:6] for row in rows if row[0] == "stream2"] == [
        ("stream2", "aiming_head.2", "dense", "32 -> 2", "", "tanh")
    ]
    assert sum(row[-1] for row in rows) == networks.count(params) == 118_985
    # As a bare state_dict, and under another name.
    for name, tree in (("bare", weights), ("other", {"model": weights})):
        export.save(tree, tmp_path / f"{name}.pth")
        again = formats.load(tmp_path / f"{name}.pth")
        jax.tree.map(np.testing.assert_array_equal, again.params, params)


DUEL = dict(COMBAT.views)["duel"]
VIEWS = dict.fromkeys(("combat/movement", "combat/duel_10hp"), DUEL)


def test_a_student_is_written_with_what_it_plays_and_sees(tmp_path):
    params, path = a_student(), tmp_path / "student.pth"
    scores = {"duel_10hp": 3, "combat/movement": -10}
    export.export(
        params, SKILLS, path, views=VIEWS, outputs="logits", final_scores=scores, created="now"
    )
    tree = torch_file.read(path).tree
    weights = tree.pop("policy_state_dict")
    assert weights.keys() == export.skills_state_dict(params, SKILLS).keys()
    assert {key: tree[key] for key in ("obs_dim", "action_dim", "hidden_dim", "games")} == {
        "obs_dim": 20,
        "action_dim": 9,
        "hidden_dim": 256,
        "games": ["combat/movement", "combat/duel_10hp"],
    }
    assert tree["final_scores"] == {"combat/duel_10hp": 3.0, "combat/movement": -10.0}
    shown = np.random.default_rng(2).uniform(-1, 1, (5, 1, COMBAT.view.shape[-1])).astype("f4")
    with pytest.raises(ValueError, match="plays combat/movement, combat/duel_10hp, and pong was"):
        formats.load(path, game="pong")
    for game in (None, "combat/duel_10hp", "combat/movement"):
        expert = formats.load(path, game=game)
        assert (expert.view, expert.outputs, expert.game) == (DUEL, "logits", game)
        jax.tree.map(np.testing.assert_array_equal, expert.params, params)
        if game:
            outputs = expert.suite_outputs(expert.view.see(shown))
            np.testing.assert_array_equal(expert.judge(params, shown)[:, :7], outputs[:, :7])
            assert list(np.flatnonzero(expert.mask)) == list(tasks.get(game).actions)


def test_a_file_of_others_is_played_in_combat_alone(tmp_path):
    path = tmp_path / "fighter.pth"
    export.save({"policy_state_dict": export.skills_state_dict(a_student(), SKILLS)}, path)
    expert = formats.load(path, game="combat/duel")
    assert (expert.game, expert.view) == ("combat/duel", DUEL)
    for game, words in (
        ("lander/heavy", "does not play lander/heavy"),
        ("pong", "does not play pong"),
    ):
        with pytest.raises(ValueError, match=words):
            formats.load(path, game=game)
    other = a_student(SKILLS, inputs=24)
    weights = export.skills_state_dict(other, SKILLS)
    path.write_bytes(torch_writer.dumps({"policy_state_dict": weights}))
    with pytest.raises(ValueError, match=r"encoder.0.weight has shape \(256, 24\), expected"):
        formats.load(path, game="combat/duel")


@pytest.mark.parametrize("game", ["combat/duel_0hp", "combat/duel_010hp", "duel_10hp", "combat/x"])
def test_a_game_that_there_is_not_is_no_game_of_a_file(game, tmp_path):
    fields = {"outputs": "logits", "plays": [{"game": game, "view": DUEL.to_dict()}]}
    weights = export.skills_state_dict(a_student(), SKILLS)
    export.save({"policy_state_dict": weights, "jaxdistill": fields}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"x.pth: .*{game}") as caught:
        formats.load(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def test_an_expert_of_combat_is_sent_to_the_convention_it_has(tmp_path):
    expert = Expert(
        "fighter", SKILLS, a_student(), "logits", tuple(range(9)), view=DUEL, game="combat/duel"
    )
    with pytest.raises(ValueError, match=r"fighter: plays combat/duel; .*--format=sb3"):
        export.export_expert(expert, tmp_path / "x.pth")


def test_a_fighter_of_other_shapes_is_refused(tmp_path):
    weights = export.skills_state_dict(a_student(), SKILLS)
    for name, shape, words in (
        ("aiming_head.2.weight", (3, 32), r"has shape \(3, 32\), expected \(2, 32\)"),
        ("clicking_head.0.weight", (16, 64), r"has shape \(16, 64\), expected \(any, 128\)"),
        ("movement_head.2.bias", (7,), r"has shape \(7,\), expected \(6,\)"),
    ):
        broken = {**weights, name: np.ones(shape, np.float32)}
        if name == "aiming_head.2.weight":
            broken["aiming_head.2.bias"] = np.ones(3, np.float32)
        (tmp_path / "x.pth").write_bytes(torch_writer.dumps(broken))
        with pytest.raises(ValueError, match=words) as caught:
            formats.load(tmp_path / "x.pth")
        assert "\n" not in str(caught.value) and "x.pth" in str(caught.value)
    del weights["clicking_head.2.bias"]
    (tmp_path / "x.pth").write_bytes(torch_writer.dumps(weights))
    with pytest.raises(ValueError, match=r"fighter, distilled from skills, but lacks clicking_"):
        formats.load(tmp_path / "x.pth")


KEYS, LOOK, CLICK = SKILLS.streams


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"residual": (4,)}, "convolutions"),
        ({"task_embedding": 4, "game_actions": ((0,),)}, "layers of each task's own"),
        ({"layer_norm": True}, "LayerNorm"),
        ({"activation": "tanh"}, "activation tanh"),
        ({"streams": (), "head": "dueling"}, "a head of type dueling"),
        ({"streams": ()}, "one layer of all outputs"),
        ({"hidden": (256, 256)}, "shared layers of 256, 256 units"),
        ({"hidden": ()}, "shared layers of no units"),
        ({"hidden": (256, 256, 64)}, "shared layers of 256, 256, 64 units"),
        (
            {"streams": (KEYS, Stream(32, (6, 7), True), Stream(16, (8,)))},
            r"streams of the outputs \(0, 1, 2, 3, 4, 5\), \(6, 7\), \(8,\)",
        ),
        ({"streams": (KEYS, LOOK, Stream(8, (6,)))}, "streams of 64, 32, 8 units"),
        ({"streams": (KEYS, Stream(32, (7, 8)), CLICK)}, r"without tanh.*--format=sb3"),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_written_is_refused(changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        export.skills_state_dict({}, SKILLS.clone(**changes))
    assert "the fighter's convention cannot express" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused():
    params = a_student()
    params["params"]["stream3"]["bias"][0] = np.nan
    with pytest.raises(ValueError, match="stream3 bias is not finite as float32"):
        export.skills_state_dict(params, SKILLS)


def test_a_skill_under_a_name_of_one_s_own_is_trained_in_the_same_space(own_tasks):
    for skill in ("movement", "aiming", "clicking", "duel"):
        task = tasks.get(f"combat/{skill}")
        own = dataclasses.replace(task, name=f"combat/long_{skill}", max_steps=800)
        tasks.add(own)
        space = skills.space_of(task.name)
        assert skills.space_of(own.name) == space
        assert skills.task_of(space, own.name, "it") == own.name
        assert skills.view_of(own.name, space.numbers) == task.view
