"""What a spec says of a screen and of an expert's own game."""

import pathlib

import jax
import numpy as np
import pytest

from jaxdistill import networks
from jaxdistill.experts import formats, torch_file, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import spec as specs
from jaxdistill.experts.sources import ExpertSource, load
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import Vector, View

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TEXT = (GOLDEN / "expert_dueling.toml").read_text()


def _spec(path, view="", rules=""):
    written = path / "it.toml"
    text = TEXT.replace("[view]", f"[view]\n{view}")
    written.write_text(text if not rules else text.replace("[view]", f"[rules]\n{rules}\n[view]"))
    return written


def test_every_field_of_a_view_and_of_rules_can_be_said(tmp_path):
    view = (
        'gray = "mean"\ngray_last = true\nmaximum = "after"\nspacing = 2\npadding = "zero"\n'
        "difference = true"
    )
    rules = (
        "repeat_action_probability = 0.25\nfire_after_life = true\nnoop_max = 1\nmode = 0\n"
        "difficulty = 0\nend_at_life = true\nframe_skip = 3\nfull_actions = true"
    )
    found = specs.read(_spec(tmp_path, view, rules))
    assert found.rules == Rules(0.25, True, 1, 0, 0, True, 3, True)
    seen = specs.view_of(found, 2)
    plain = specs.view_of(specs.read(_spec(tmp_path)), 2)
    assert plain == View(plain.height, plain.width, plain.stack, plain.resize)
    wanted = {"gray": "mean", "gray_last": True, "maximum": "after", "spacing": 2}
    assert seen.to_dict() == plain.to_dict() | wanted | {"padding": "zero", "difference": True}


def test_frames_in_colour_are_three_channels_each(tmp_path):
    text = TEXT.replace("[view]", '[view]\ngray = "none"')
    found = specs.read(_spec(tmp_path, 'gray = "none"'))
    said = {name: x for name, x in found.view.items() if name != "stack"}
    assert 'gray = "none"' in text
    assert specs.view_of(specs.dataclasses.replace(found, view=said), 12).stack == 4


@pytest.mark.parametrize(
    ("view", "rules", "message"),
    [
        ("", "sticky = 1", r"it\.toml: rules\.sticky is unknown; known fields: repeat_action_"),
        ("", "noop_max = 0", r"it\.toml: rules\.noop_max is 0, expected 1 to 1000"),
        ("", "fire_after_life = 1", r"rules\.fire_after_life is 1, expected bool"),
        ("gray_last = 1", "", "gray_last is 1, expected true or false"),
        ('maximum = "both"', "", "maximum is 'both', expected one of before, after, none"),
        ("skip = 2", "", r"view\.skip: unknown field; known fields: height, .*channels_last"),
    ],
)
def test_what_cannot_be_said_is_one_line(tmp_path, view, rules, message):
    with pytest.raises(ValueError, match=message) as error:
        specs.read(_spec(tmp_path, view, rules))
    assert "\n" not in str(error.value)


def test_an_expert_has_the_rules_of_its_spec_and_changes_beside_it(tmp_path):
    file, spec = str(GOLDEN / "expert_dueling.pth"), str(_spec(tmp_path, "", "noop_max = 1"))
    assert formats.load(file, spec=spec).rules == Rules(noop_max=1)
    changed = load(ExpertSource(file, spec, rules="fire_after_life=true"))
    assert changed.rules == Rules(noop_max=1, fire_after_life=True)
    assert load(ExpertSource(file, spec)).rules == Rules(noop_max=1)
    with pytest.raises(ValueError, match="rules: found 'sticky=1'"):
        load(ExpertSource(file, spec, rules="sticky=1"))


RECURRENT = """
outputs = "logits"
activation = "relu"

[[layers]]
type = "dense"
key = "fc"

[[layers]]
type = "gru"
key = "rnn"
layer = 0

[head]
type = "linear"
action = "out"
"""


@pytest.fixture
def cell(tmp_path):
    """A file of a dense layer, a GRU as `torch.nn.GRU` names it, a head, and a critic's GRU."""
    rng, shapes = np.random.default_rng(0), {"fc": (3, 5), "out": (2, 4)}
    tensors = {f"{key}.weight": rng.normal(size=shape) for key, shape in shapes.items()}
    tensors |= {f"{key}.bias": rng.normal(size=shape[0]) for key, shape in shapes.items()}
    for key in ("rnn", "critic_rnn"):
        tensors |= {f"{key}.weight_ih_l0": rng.normal(size=(12, 3))}
        tensors |= {f"{key}.weight_hh_l0": rng.normal(size=(12, 4))}
        tensors |= {f"{key}.bias_{part}_l0": rng.normal(size=12) for part in ("ih", "hh")}
    torch_writer.save({k: x.astype(np.float32) for k, x in tensors.items()}, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def _read(cell, text):
    (cell.parent / "x.toml").write_text(text)
    return formats.convert(cell, spec=cell.parent / "x.toml")


def test_a_spec_says_where_a_cell_is(cell):
    conversion = _read(cell, RECURRENT)
    expert = conversion.expert
    assert expert.network.core == networks.Core("gru", 4) and expert.recurrent
    assert expert.view == Vector(5)
    assert [row.name for row in conversion.layers] == ["fc1", "core_input", "core_hidden", "action"]
    assert any("critic_rnn" in note for note in conversion.notes)
    expert.save(cell.parent / "expert")
    again = Expert.load(cell.parent / "expert")
    assert again.network == expert.network
    said = [
        networks.advance(x.network, x.params, np.ones((2, 1, 5)), x.carry(2))
        for x in (expert, again)
    ]
    jax.tree.map(np.testing.assert_array_equal, *said)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layer = 0", "", r"lacks rnn\.weight_ih, rnn\.bias_ih"),
        ("layer = 0", "layer = 1", r"layers\[2\]\.layer: expected 0: a cell has one layer"),
        ('"gru"', '"lstm"', r"rnn\.weight_hh_l0 has 12 rows, expected 16, of 4 gates of 4 units"),
        ('"gru"', '"rnn"', r"type: found 'rnn', expected one of conv, dense, gru, lstm"),
        ('"linear"', '"actor_critic"', "head.type: found actor_critic behind a recurrent layer"),
        (
            "outputs",
            "frame_decay = 1.5\noutputs",
            "frame_decay: found 1.5, expected a number below 1",
        ),
        ("layer = 0", '[[layers]]\ntype = "dense"\nkey = "fc"', "a layer after a recurrent one"),
    ],
)
def test_cells_that_cannot_be_are_one_line(cell, old, new, message):
    assert old in RECURRENT
    with pytest.raises(ValueError, match=message) as error:
        _read(cell, RECURRENT.replace(old, new))
    assert "\n" not in str(error.value)


def test_a_cell_that_a_spec_leaves_out_is_noticed(cell):
    without = RECURRENT.replace(
        'type = "gru"\nkey = "rnn"\nlayer = 0', 'type = "dense"\nkey = "to"'
    )
    tensors = torch_file.read(cell).tree | {
        "to.weight": np.ones((4, 3), np.float32),
        "to.bias": np.ones(4, np.float32),
    }
    torch_writer.save(tensors, cell, overwrite=True)
    with pytest.raises(ValueError, match=r"rnn\.weight_hh_l0 is of a recurrent cell; describe it"):
        _read(cell, without)


def test_what_a_cell_has_no_place_beside():
    core = networks.Core("lstm", 4)
    for fields, message in (
        ({"head": "actor_critic"}, "a network with a core has a linear or a dueling head"),
        ({"fractions": 4}, "a network with a core has a linear or a dueling head"),
        ({"core": networks.Core("rnn", 4)}, "core 'rnn' is not one of gru, lstm"),
        ({"core": None, "frame_decay": 0.5}, "frame_decay is for a network with a core"),
    ):
        network = networks.Network(convs=(), **({"core": core} | fields))
        with pytest.raises(ValueError, match=message):
            networks.from_dict(networks.to_dict(network))
    fields = networks.to_dict(networks.Network(convs=(), core=core, frame_decay=0.5))
    assert networks.from_dict(fields).core == core
    for wrong in ({"core": {"kind": "gru", "width": 0}}, {"frame_decay": 1.0}):
        with pytest.raises(ValueError, match=r"sizes are whole numbers|frame_decay is a number"):
            networks.from_dict(fields | wrong)
