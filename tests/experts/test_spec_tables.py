"""What a spec says of a screen and of an expert's own game."""

import dataclasses
import itertools
import pathlib
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxdistill import networks
from jaxdistill.experts import export, formats, torch_file, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import spec as specs
from jaxdistill.experts.formats import template
from jaxdistill.experts.sources import ExpertSource, load
from jaxdistill.tasks import views
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


def _tensors(**shapes):
    """Random tensors; a double underscore is a dot."""
    rng = np.random.default_rng(len(shapes))
    drawn = {name: rng.normal(0, 0.2, shape) for name, shape in shapes.items()}
    return {name.replace("__", "."): x.astype(np.float32) for name, x in drawn.items()}


def _nature(*names, to=("weight", "bias"), flat=(5, 49 * 5)):
    """Three small convolutions and a hidden layer."""
    weight, bias = to
    sizes = [(3, 4, 8, 8), (4, 3, 4, 4), (5, 4, 3, 3)]
    if weight == "kernel":
        sizes = [(k, k, i, o) for o, i, k, _ in sizes]
    shapes = {f"{name}__{weight}": s for name, s in zip(names, [*sizes, flat], strict=True)}
    last = -1 if weight == "kernel" else 0
    return shapes | {
        f"{name}__{bias}": (s[last],) for name, s in zip(names, [*sizes, flat], strict=True)
    }


HEAD = """
game = "breakout"
outputs = "{outputs}"
actions = "minimal"
activation = "relu"
pixels = "0..1"
{top}
[view]
{view}
{layers}
[head]
{head}
"""


def _written(names, head, *, outputs="q", top="", view="", padding="0", hidden=True):
    layers = [
        f'[[layers]]\ntype = "conv"\nkey = "{name}"\nstride = {stride}\npadding = {padding}\n'
        for name, stride in zip(names, (4, 2, 1), strict=False)
    ]
    if hidden:
        layers.append(f'[[layers]]\ntype = "dense"\nkey = "{names[3]}"\n')
    fields = {"outputs": outputs, "top": top, "view": view, "head": head}
    return HEAD.format(layers="".join(layers), **fields)


def _c51():
    names = [f"network__{i}" for i in (0, 2, 4, 7)]
    tensors = _tensors(**_nature(*names), network__9__weight=(44, 5), network__9__bias=(44,))
    tensors["atoms"] = np.linspace(-4, 6, 11, dtype=np.float32)
    dotted = [name.replace("__", ".") for name in names]
    head = 'type = "linear"\naction = "network.9"\nsupport = "atoms"'
    return "CleanRL C51", tensors, _written(dotted, head)


def _kaixhin():
    names, shapes = ["convs__0", "convs__2", "convs__4"], {}
    for name, inputs, outputs in (
        ("h_v", 245, 5),
        ("h_a", 245, 5),
        ("z_v", 5, 51),
        ("z_a", 5, 204),
    ):
        for kind in ("mu", "sigma", "epsilon"):
            shapes[f"fc_{name}__weight_{kind}"] = (outputs, inputs)
            shapes[f"fc_{name}__bias_{kind}"] = (outputs,)
    convs = {k: s for k, s in _nature(*names, "x").items() if not k.startswith("x_")}
    head = (
        'type = "dueling"\naction_hidden = [{key = "fc_h_a", noisy = true}]\n'
        'action = {key = "fc_z_a", noisy = true}\natoms = [-10, 10, 51]\n'
        'value_hidden = [{weight = "fc_h_v.weight_mu", bias = "fc_h_v.bias_mu"}]\n'
        'value = {key = "fc_z_v", noisy = true}'
    )
    view = 'resize = "linear"\nmaximum = "after"\npadding = "zero"'
    dotted = [name.replace("__", ".") for name in names]
    spec = _written(dotted, head, view=view, hidden=False)
    return "Kaixhin Rainbow 1.4", _tensors(**convs, **shapes), spec


def _iqn():
    names = ["psi__0", "psi__2", "psi__4", "f__0"]
    last = {"f__2__weight": (4, 5), "f__2__bias": (4,)}
    phi = {"phi__0__linear__weight": (245, 7), "phi__0__linear__bias": (245,)}
    head = 'type = "linear"\naction = "f.2"\nfractions = "phi.0.linear"'
    dotted = [name.replace("__", ".") for name in names]
    return "PFRL IQN", _tensors(**_nature(*names), **last, **phi), _written(dotted, head)


def _normalised():
    enc, run = "encoder.encoders.obs.enc.", "obs_normalizer.running_mean_std.running_mean_std.obs."
    names = [f"{enc}{x}" for x in ("conv_head.0", "conv_head.2", "conv_head.4", "mlp_layers.0")]
    tensors = _tensors(**_nature(*names))
    for name, outputs in (("action_parameterization.distribution_linear", 4), ("critic_linear", 1)):
        tensors |= _tensors(**{f"{name}.weight": (outputs, 5), f"{name}.bias": (outputs,)})
    tensors |= {f"{run}running_mean": np.full((4, 84, 84), 0.25, np.float32)}
    tensors |= {f"{run}running_var": np.linspace(1, 2, 28224, dtype=np.float32).reshape(4, 84, 84)}
    head = (
        'type = "actor_critic"\naction = "action_parameterization.distribution_linear"\n'
        f'value = "critic_linear"\n[statistics]\nmean = "{run}running_mean"\n'
        f'variance = "{run}running_var"\nepsilon = 1e-5\nclip = 5'
    )
    return "Sample Factory", tensors, _written(names, head, outputs="logits")


def _same():
    """TensorFlow's padding, Flax's kernels and 200 quantiles, the actions first."""
    names = ["Conv_0", "Conv_1", "Conv_2", "Dense_0"]
    shapes = _nature(*names, to=("kernel", "bias"), flat=(121 * 5, 5))
    last = {"Dense_1__kernel": (5, 800), "Dense_1__bias": (800,)}
    head = 'type = "linear"\naction = "Dense_1"\nquantiles = 200'
    top, view = 'kernels = "inputs_first"', 'padding = "zero"'
    spec = _written(names, head, top=top, view=view, padding='"same"')
    return "Dopamine QR-DQN", {"online_params": _tensors(**shapes, **last)}, spec


@pytest.mark.parametrize("make", [_c51, _kaixhin, _iqn, _normalised, _same])
def test_a_spec_says_what_a_convention_knows(make, tmp_path):
    """The same network and numbers, by names alone and by a spec."""
    convention, tensors, text = make()
    export.save(tensors, tmp_path / "expert.pth")
    (tmp_path / "spec.toml").write_text(text)
    (tmp_path / "written.toml").write_text(template.write(tmp_path / "expert.pth", game="breakout"))
    known = formats.convert(tmp_path / "expert.pth", game="breakout")
    assert known.convention == convention
    for spec in ("spec.toml", "written.toml"):
        said = formats.convert(tmp_path / "expert.pth", spec=tmp_path / spec)
        assert said.expert.network == known.expert.network and said.expert.view == known.expert.view
        assert (said.expert.game, said.expert.actions) == ("breakout", known.expert.actions)
        jax.tree.map(np.testing.assert_array_equal, said.expert.params, known.expert.params)
    assert said.expert.rules == known.expert.rules  # as it was written, with all that is known


@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize("said", ["0..1", "0..255"])
def test_statistics_are_of_pixels_as_the_file_takes_them(kind, said, tmp_path):
    """By NumPy, with a first layer that sees 4 pixels at once or all."""
    levels = {"0..1": 1, "0..255": 255}[said]
    sizes = {"conv": (2, 1, 2, 2), "dense": (8, 16)}
    tensors = _tensors(
        a__weight=sizes[kind], a__bias=sizes[kind][:1], b__weight=(3, 8), b__bias=(3,)
    )
    draw = np.random.default_rng(1)
    mean = draw.uniform(0.2, 0.6, (1, 4, 4)) * levels
    variance = (draw.uniform(0.05, 0.2, (1, 4, 4)) * levels) ** 2
    numbers = {"mean": mean.astype(np.float32), "variance": variance.astype(np.float32)}
    export.save(tensors | numbers, tmp_path / "x.pth")
    stride = "stride = 2" if kind == "conv" else ""
    text = (
        f'outputs = "q"\nactivation = "relu"\npixels = "{said}"\n'
        "[view]\nheight = 4\nwidth = 4\nstack = 1\n"
        f'[[layers]]\ntype = "{kind}"\nkey = "a"\n{stride}\n'
        '[head]\ntype = "linear"\naction = "b"\n'
        '[statistics]\nmean = "mean"\nvariance = "variance"\nepsilon = 1e-3\nclip = 1.5\n'
    )
    (tmp_path / "x.toml").write_text(text)
    expert = formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")

    shown = draw.integers(0, 256, (5, 1, 4, 4), np.uint8)
    x = (shown / 255 * levels - mean) / np.sqrt(variance + 1e-3)
    assert 0.1 < (np.abs(x) > 1.5).mean() < 0.9  # some are cut, others not
    x = np.clip(x, -1.5, 1.5)
    if kind == "conv":
        blocks = x.reshape(5, 2, 2, 2, 2)  # row, place in it, column, place in it
        x = np.einsum("bhiwj,oij->bohw", blocks, tensors["a.weight"][:, 0])
        x = (x + tensors["a.bias"][:, None, None]).reshape(5, 8)
    else:
        x = x.reshape(5, 16) @ tensors["a.weight"].T + tensors["a.bias"]
    theirs = np.maximum(x, 0) @ tensors["b.weight"].T + tensors["b.bias"]
    ours = networks.forward(expert.network, expert.params, shown)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    expert.save(tmp_path / "expert")
    again = Expert.load(tmp_path / "expert")
    np.testing.assert_array_equal(networks.forward(again.network, again.params, shown), ours)


def test_quantiles_are_told_apart_by_what_comes_first(tmp_path):
    tensors = {"a.weight": np.arange(12, dtype=np.float32).reshape(6, 2)}
    tensors["a.bias"] = np.array([0, 1, 2, 3, 4, 5], np.float32)
    export.save(tensors, tmp_path / "x.pth")
    text = 'outputs = "q"\n[head]\ntype = "linear"\naction = "a"\nquantiles = 3\n'
    for first, bias in (("false", [1, 4]), ("true", [2, 3])):
        (tmp_path / "x.toml").write_text(f"{text}quantiles_first = {first}\n")
        expert = formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")
        assert expert.params["params"]["action"]["bias"].tolist() == bias


GRU = '[[layers]]\ntype = "gru"\nkey = "rnn"\n'
IQN = 'type = "linear"\naction = "a"\nfractions = "phi"\n'
SEEN = '[[layers]]\ntype = "dense"\nkey = "s"\n[statistics]\nmean = "m"\nvariance = "m"\n'
PHI = {"phi__weight": (3, 7), "phi__bias": (3,)}


@pytest.mark.parametrize(
    ("layers", "head", "shapes", "message"),
    [
        (
            "",
            'type = "dueling"\naction = "a"\nvalue = "v"\nfractions = "phi"\n',
            {"v__weight": (1, 3), "v__bias": (1,), **PHI},
            "a network with fractions has a head of type linear",
        ),
        (GRU, IQN, PHI, "a network with a core has a linear or a dueling head, no fractions"),
        (GRU.replace("gru", "lstm"), IQN, PHI, "a network with a core has .* no fractions"),
        (
            f"{SEEN}epsilon = 1\nclip = 1e9\n",
            'type = "linear"\naction = "a"\n',
            {"s__weight": (3, 4), "s__bias": (3,), "m": (1, 2, 2)},
            "input_clip and the ends of atoms are finite numbers below 1e9",
        ),
        ("", 'type = "linear"\naction = "a"\natoms = [-1e9, 10, 2]\n', {}, "the ends of atoms are"),
        ("", 'type = "linear"\naction = "a"\nsupport = "z"\n', {"z": (2,)}, "the ends of atoms"),
    ],
    ids=["dueling", "gru", "lstm", "clip", "atoms", "support"],
)
def test_what_could_not_be_read_back_is_refused(layers, head, shapes, message, tmp_path):
    gates = 4 if "lstm" in layers else 3
    cell = {f"rnn__weight_{x}": (3 * gates, 3) for x in ("ih", "hh")} if "rnn" in layers else {}
    cell |= {f"rnn__bias_{x}": (3 * gates,) for x in ("ih", "hh") if cell}
    tensors = _tensors(a__weight=(4, 3), a__bias=(4,), **cell, **shapes)
    tensors |= {"z": np.array([-2e9, 2e9], np.float32)} if "z" in shapes else {}
    tensors |= {"m": np.ones((1, 2, 2), np.float32)} if "m" in shapes else {}
    export.save(tensors, tmp_path / "x.pth")
    view = "[view]\nheight = 2\nwidth = 2\nstack = 1\n" if "m" in shapes else ""
    pixels = 'pixels = "0..1"\n' if view else ""
    text = f'outputs = "q"\nactivation = "relu"\n{pixels}{view}{layers}[head]\n{head}'
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        formats.convert(tmp_path / "x.pth", spec=tmp_path / "x.toml")
    assert str(error.value).startswith(f"{tmp_path / 'x.pth'}: ") and "\n" not in str(error.value)


def _elu(x):
    return np.where(x > 0, x, np.expm1(x))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_implicit_quantiles_by_numpy(first, bias, tmp_path):
    """Whatever the activation is, and from which of its cosines they begin."""
    shapes = {"fc__weight": (5, 3), "fc__bias": (5,), "a__weight": (2, 5), "a__bias": (2,)}
    tensors = _tensors(**shapes, **PHI)
    if not bias:
        del tensors["phi.bias"]
    export.save(tensors, tmp_path / "x.pth")
    phi = '"phi"' if bias else '{key = "phi", bias = false}'
    said = f"first_cosine = {first}\n" if first == 0 else ""
    text = (
        'outputs = "q"\nactivation = "elu"\n[[layers]]\ntype = "dense"\nkey = "fc"\n'
        f'activation = "tanh"\n[head]\ntype = "linear"\naction = "a"\nfractions = {phi}\n{said}'
    )
    (tmp_path / "x.toml").write_text(text)
    conversion = formats.convert(tmp_path / "x.pth", spec=tmp_path / "x.toml")
    expert, (row, *_) = conversion.expert, conversion.layers
    assert (row.activation, row.parameters) == ("elu", 21 + 3 * bias)

    x = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
    middle = (np.arange(32) + 0.5) / 32
    cosines = np.cos(np.pi * middle[:, None] * (first + np.arange(7)))
    vectors = _elu(cosines @ tensors["phi.weight"].T + tensors.get("phi.bias", 0))
    assert (vectors < -1e-2).any()  # where a ReLU would be 0
    hidden = np.tanh((x[:, None] * vectors) @ tensors["fc.weight"].T + tensors["fc.bias"])
    theirs = hidden.mean(axis=1) @ tensors["a.weight"].T + tensors["a.bias"]
    ours = networks.forward(expert.network, expert.params, x[:, None])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    expert.save(tmp_path / "expert")
    assert Expert.load(tmp_path / "expert").network == expert.network


def test_the_cosines_activation_has_to_be_said(tmp_path):
    text = (
        f'outputs = "q"\n[[layers]]\ntype = "dense"\nkey = "fc"\nactivation = "tanh"\n[head]\n{IQN}'
    )
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=r"head\.activation: missing, here and for all layers"):
        specs.read(tmp_path / "x.toml")
    tried = specs.tried(tmp_path / "x.toml")
    assert [answers for answers, _ in tried] == [{"activation": x} for x in ("relu", "elu", "tanh")]
    assert tried[1][1].plan.activation == ("elu", "tanh") and tried[2][1].plan.activation == "tanh"
    (tmp_path / "x.toml").write_text(f'{text}activation = "elu"\n')
    assert specs.read(tmp_path / "x.toml").plan.activation == ("elu", "tanh")


def test_a_stack_with_its_newest_frame_first(tmp_path):
    """Frames are turned, not the colours in them; so are the numbers they are normalised by."""
    tensors = _tensors(a__weight=(2, 6, 8, 8), a__bias=(2,), b__weight=(4, 800), b__bias=(4,))
    means = np.arange(6, dtype=np.float32)[:, None, None]
    tensors["mean"] = np.broadcast_to(means, (6, 84, 84)).copy()
    tensors["variance"] = tensors["mean"] + 1
    export.save(tensors, tmp_path / "x.pth")
    layer = '[[layers]]\ntype = "conv"\nkey = "a"\nstride = 4\n'
    head = (
        'type = "linear"\naction = "b"\n[statistics]\nmean = "mean"\nvariance = "variance"\n'
        "epsilon = 1e-8\nclip = 5"
    )
    answers = []
    shown = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 84, 84), np.uint8)
    for order in ("oldest_first", "newest_first"):
        text = HEAD.format(
            outputs="q",
            top=f'stack_order = "{order}"',
            view='gray = "none"',
            layers=layer,
            head=head,
        )
        (tmp_path / "x.toml").write_text(text)
        expert = formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")
        seen = (shown if order == "oldest_first" else shown[:, ::-1]).reshape(2, 6, 84, 84)
        answers.append(np.asarray(networks.forward(expert.network, expert.params, seen)))
        means = expert.params["params"]["input"]["mean"][:, 0, 0].tolist()
        assert means == ([0, 1, 2, 3, 4, 5] if order == "oldest_first" else [3, 4, 5, 0, 1, 2])
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[head]", "[head]\natoms = [1, 2]", r"head\.atoms: found \[1, 2\], expected \[least"),
        ("[head]", "[head]\natoms = [2, 1, 5]", r"head\.atoms: found \[2, 1, 5\]"),
        ("[head]", "[head]\nquantiles = 20_000", "quantiles: found 20000, expected at most 10000"),
        ("[head]", "[head]\nquantiles_first = 1", "found 1, expected true or false"),
        ("[head]", "[head]\nquantiles_first = true", "found without quantiles"),
        ("[head]", "[head]\nfirst_cosine = 0", "head.first_cosine: found without fractions"),
        ("[head]", '[head]\nfractions = "x"\nfirst_cosine = 2', "found 2, expected 0 or 1"),
        ("[head]", '[head]\nsupport = "x"\nquantiles = 2', "quantiles: found beside support"),
        ("[view]", 'stack_order = "x"\n[view]', "'x', expected one of oldest_first, newest"),
        ("[view]", 'flatten = "x"\n[view]', "'x', expected one of channels_first, channels_l"),
        ("[view]", 'kernels = "x"\n[view]', "'x', expected one of outputs_first, inputs"),
        ("[view]", '[statistics]\nmean = "x"\n[view]', "statistics.variance: missing; expected"),
        (
            "[view]",
            '[statistics]\nmean = "x"\nvariance = "y"\nepsilon = 0\nclip = 5\n[view]',
            "statistics.epsilon: found 0, expected a number above 0",
        ),
        ("[[layers]]", "[[layers]]\nnoisy = 1", r"layers\[1\]\.noisy: found 1, expected true"),
        ("[[layers]]", "[[layers]]\nnoisy = true", "lacks "),
    ],
)
def test_a_wrong_head_is_one_line(old, new, message, tmp_path):
    assert old in TEXT
    (tmp_path / "it.toml").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        formats.load(GOLDEN / "expert_dueling.pth", spec=tmp_path / "it.toml")
    assert "\n" not in str(error.value)


def _answer(text, **answers):
    """The spec with these questions answered."""
    for name, answer in answers.items():
        (line,) = (x for x in text.splitlines() if x.startswith(f"# {name} = "))
        text = text.replace(line, f"{name} = {answer}")
    return text


def test_a_file_that_nobody_knows_is_asked_about(tmp_path):
    """What the template guesses is what somebody once wrote by hand, but for what it asks."""
    tensors = _tensors(
        **_nature("torso__0", "torso__2", "torso__4", "pi__0", flat=(6, 245)),
        pi__2__weight=(4, 6),
        pi__2__bias=(4,),
        v__0__weight=(7, 245),
        v__0__bias=(7,),
        v__2__weight=(1, 7),
    )
    slots = {f"{name}.momentum": array for name, array in tensors.items()}
    path = tmp_path / "breakout_x.pth"
    export.save({"net": tensors, "optimizer": slots | {"target": tensors}}, path)
    text = template.write(path)
    said = "# By itself it is not read: breakout_x.pth (net): follows no known convention"
    assert text.splitlines()[1] == said
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=r"activation: missing"):
        specs.read(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text(_answer(text, activation='"elu"', pixels='"0..255"'))
    found = formats.convert(path, spec=tmp_path / "x.toml")
    expert, network = found.expert, found.expert.network
    assert (expert.game, expert.outputs, expert.actions) == ("breakout", "logits", (0, 1, 3, 4))
    assert [(x.kernel, x.stride, x.padding) for x in network.convs] == [
        (8, 4, 0),
        (4, 2, 0),
        (3, 1, 0),
    ]
    assert (network.head, network.action_hidden, network.value_hidden) == (
        "actor_critic",
        (6,),
        (7,),
    )
    assert network.activation == "elu" and expert.view == View()
    np.testing.assert_array_equal(expert.params["params"]["value"]["bias"], [0.0])
    kernel = tensors["torso.0.weight"].transpose(2, 3, 1, 0) * np.float32(255)
    np.testing.assert_array_equal(expert.params["params"]["conv1"]["kernel"], kernel)
    answered = _answer(text, activation='"elu"', pixels='"0..255"', flatten='"channels_last"')
    (tmp_path / "x.toml").write_text(answered)
    last = formats.load(path, spec=tmp_path / "x.toml").params["params"]["action_fc1"]["kernel"]
    np.testing.assert_array_equal(last, tensors["pi.0.weight"].T)
    first = expert.params["params"]["action_fc1"]["kernel"]
    assert (
        first.tolist()
        == tensors["pi.0.weight"].reshape(6, 5, 49).swapaxes(1, 2).reshape(6, -1).T.tolist()
    )


@pytest.mark.parametrize(
    ("layers", "weight", "bias"),
    [
        ("dense.dense dense_1.dense_1 dense_2.dense_2", "kernel:0", "bias:0"),
        ("layers.dense layers.dense_1 layers.dense_2", "vars.0", "vars.1"),
        ("Dense_0 Dense_1 Dense_2", "kernel", "bias"),
        ("0 2 4", "weight", "bias"),
    ],
    ids=["Keras 2", "Keras 3", "Flax", "PyTorch"],
)
def test_biases_are_known_by_every_program_s_names(layers, weight, bias, tmp_path):
    """A template pairs them with their layers, and no spec may leave them out."""
    rng, sizes = np.random.default_rng(0), (8, 64, 64, 4)
    tensors = {}
    for name, shape in zip(layers.split(), itertools.pairwise(sizes), strict=True):
        kernel = rng.normal(size=shape[::-1] if weight == "weight" else shape)
        tensors |= {f"{name}.{weight}": kernel, f"{name}.{bias}": rng.normal(size=shape[1])}
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    text = template.write(tmp_path / "x.safetensors")
    assert ('kernels = "inputs_first"' in text) == (weight != "weight")
    assert "for each of the 4 outputs" in text and "atoms" not in text and "false" not in text
    text = _answer(text, outputs='"q"', activation='"relu"')
    (tmp_path / "x.toml").write_text(text)
    found = formats.convert(tmp_path / "x.safetensors", spec=tmp_path / "x.toml")
    assert found.expert.network.hidden == (64, 64) and not found.notes
    last = found.expert.params["params"]["action"]
    wanted = tensors[f"{layers.split()[-1]}.{weight}"]
    np.testing.assert_array_equal(last["kernel"], wanted.T if weight == "weight" else wanted)
    np.testing.assert_array_equal(last["bias"], tensors[f"{layers.split()[-1]}.{bias}"])
    for name in layers.split():
        without = {
            f'bias = "{name}.{bias}"': "bias = false",
            f'key = "{name}"': f'key = "{name}"\nbias = false',
            f'action = "{name}"': f'action = {{key = "{name}", bias = false}}',
        }
        (said,) = (field for field in without if field in text)
        (tmp_path / "x.toml").write_text(text.replace(said, without[said]))
        with pytest.raises(ValueError, match=rf"found bias = false, but .*{name}\.{bias}$"):
            formats.load(tmp_path / "x.safetensors", spec=tmp_path / "x.toml")


def test_a_bias_by_an_unknown_name_is_asked_for(tmp_path):
    shapes = {"w1": (5, 3), "b1": (5,), "w2": (5, 5), "b2": (5,), "out": (2, 5), "out_b": (2,)}
    export.save(_tensors(**shapes), tmp_path / "x.pth")
    text = template.write(tmp_path / "x.pth")
    (tmp_path / "x.toml").write_text(_answer(text, outputs='"q"', activation='"relu"'))
    with pytest.raises(ValueError, match=r"layers\[1\]\.bias: missing; expected the bias tensor's"):
        specs.read(tmp_path / "x.toml")
    for number in (1, 2):
        asked = f'weight = "w{number}"\n# bias = false'
        assert f"{asked} " in text
        text = text.replace(asked, f'weight = "w{number}"\nbias = "b{number}"')
    (tmp_path / "x.toml").write_text(_answer(text, outputs='"q"', activation='"relu"'))
    with pytest.raises(ValueError, match=r"head\.action: missing"):
        specs.read(tmp_path / "x.toml")
    assert '# action = {weight = "out", bias = false} # bias: false, or the name' in text
    text = _answer(text, outputs='"q"', activation='"relu"', action='{weight="out", bias="out_b"}')
    (tmp_path / "x.toml").write_text(text)
    assert not formats.convert(tmp_path / "x.pth", spec=tmp_path / "x.toml").notes


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize(("kind", "gates", "end"), [("gru", 3, "_l0"), ("lstm", 4, "")])
def test_a_cell_of_a_file_that_nobody_knows_is_known_by_its_gates(
    kind, gates, end, hidden, tmp_path
):
    """As somebody would write it by hand; the critic's cell and its head are left out."""
    names = ["conv__0", "conv__1", "conv__2", "fc"]
    shapes = _nature(*names)
    if not hidden:
        del shapes["fc__weight"], shapes["fc__bias"]
    for cell in ("rnn", "critic_rnn"):
        rows, entering = 4 * gates, 5 if hidden else 245
        shapes |= {f"{cell}__weight_ih{end}": (rows, entering)}
        shapes |= {f"{cell}__weight_hh{end}": (rows, 4)}
        shapes |= {f"{cell}__bias_{part}{end}": (rows,) for part in ("ih", "hh")}
    for name, size in (("between", 6), ("actor", 4), ("critic", 1)):
        shapes |= {f"{name}__weight": (size, 6 if name == "actor" else 4), f"{name}__bias": (size,)}
    path = tmp_path / "breakout_x.pth"
    export.save(_tensors(**shapes), path)
    text = _answer(template.write(path), activation='"relu"', pixels='"0..1"')
    (tmp_path / "guessed.toml").write_text(text)
    head = 'type = "linear"\naction_hidden = ["between"]\naction = "actor"'
    dotted = [name.replace("__", ".") for name in names]
    written = _written(dotted, head, outputs="logits", hidden=hidden)
    layer = "layer = 0\n" if end else ""
    cell = f'[[layers]]\ntype = "{kind}"\nkey = "rnn"\n{layer}[head]'
    (tmp_path / "written.toml").write_text(written.replace("[head]", cell))
    guessed, by_hand = (
        formats.convert(path, spec=tmp_path / f"{name}.toml") for name in ("guessed", "written")
    )
    assert guessed.expert.network == by_hand.expert.network
    assert guessed.expert.network.core == networks.Core(kind, 4)
    assert guessed.expert.outputs == by_hand.expert.outputs
    jax.tree.map(np.testing.assert_array_equal, guessed.expert.params, by_hand.expert.params)
    (left,) = (note for note in guessed.notes if note.startswith("tensors not used"))
    assert "critic.weight" in left and "critic_rnn" in left and "actor" not in left


def test_a_template_of_what_specs_cannot_say_is_refused(tmp_path):
    weights = {"fc1.weight": (5, 8), "fc2.weight": (5, 5), "fc3.weight": (4, 5)}
    weights |= {name.replace("weight", "bias"): (s[0],) for name, s in weights.items()}
    export.save({"q_network": _tensors(**weights)}, tmp_path / "lander_heavy.pth")
    text = template.write(tmp_path / "lander_heavy.pth")
    assert 'game = "lander/heavy"' in text and "[view]" not in text and "[rules]" not in text
    embedded = {**weights, "fc1.weight": (5, 11), "task_embedding.weight": (1, 3)}
    written = torch_writer.dumps({"q_network": _tensors(**embedded)})
    (tmp_path / "lander_heavy.pth").write_bytes(written)
    with pytest.raises(ValueError, match="needs no spec; none describes networks of several tasks"):
        template.write(tmp_path / "lander_heavy.pth")
    export.save({"x": np.zeros((2, 2, 2), np.float32)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no dense layers; found x"):
        template.write(tmp_path / "x.pth")


def test_what_a_spec_leaves_open_is_tried_with_every_likely_answer(tmp_path):
    (tmp_path / "x.toml").write_text(TEXT)
    (answers, *others) = specs.tried(tmp_path / "x.toml")
    assert answers[0] == {"stack_order": "oldest_first", "flatten": "channels_first"}
    assert len(others) == 3
    (tmp_path / "x.toml").write_text(f'kernels = "inputs_first"\n{TEXT}')
    assert [x for x, _ in specs.tried(tmp_path / "x.toml")] == [
        {"stack_order": "oldest_first"},
        {"stack_order": "newest_first"},
    ]
    text = TEXT.replace('activation = "elu"', "").replace('pixels = "0..255"', "")
    (tmp_path / "x.toml").write_text(text.replace('resize = "area"', ""))
    choices = specs.tried(tmp_path / "x.toml")
    assert len(choices) == 3 * 2 * 2 * 2 * 2 == len({tuple(x.values()) for x, _ in choices})
    wanted = {"activation": "tanh", "pixels": "0..255", "stack_order": "newest_first"}
    wanted |= {"flatten": "channels_last"}
    (chosen,) = (x for said, x in choices if said == wanted | {"view.resize": "linear"})
    assert chosen.plan.activation == "tanh" and chosen.plan.raw_pixels and chosen.plan.newest_first
    assert chosen.plan.rows_first
    assert chosen.view == {"resize": "linear"}
    (tmp_path / "x.toml").write_text(
        f'stack_order = "oldest_first"\nflatten = "channels_first"\n{TEXT}'
    )
    with pytest.raises(ValueError, match="answers all that can be tried; leave out one of activ"):
        specs.tried(tmp_path / "x.toml")


def test_a_noisy_layer_s_bias_may_not_be_left_out(tmp_path):
    shapes = {"fc__weight_mu": (5, 3), "fc__bias_mu": (5,), "a__weight": (2, 5), "a__bias": (2,)}
    export.save(_tensors(**shapes), tmp_path / "x.pth")
    text = (
        'outputs = "q"\nactivation = "relu"\n[[layers]]\ntype = "dense"\nkey = "fc"\n'
        'noisy = true\n[head]\ntype = "linear"\naction = "a"\n'
    )
    (tmp_path / "x.toml").write_text(text.replace("noisy = true", "noisy = true\nbias = false"))
    with pytest.raises(ValueError, match=r"found bias = false, but .* has fc\.bias_mu"):
        formats.convert(tmp_path / "x.pth", spec=tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text(text)
    assert formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml").network.num_outputs == 2


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


def test_a_cell_has_no_activation_to_be_tried(tmp_path):
    """Plans that are the same would be played one after another."""
    text = RECURRENT.replace('activation = "relu"\n', "")
    (tmp_path / "x.toml").write_text(text)
    assert [x for x, _ in specs.tried(tmp_path / "x.toml")] == [
        {"activation": name} for name in specs.QUESTIONS["activation"]
    ]
    (tmp_path / "x.toml").write_text(text.replace('"dense"', '"dense"\nactivation = "elu"'))
    with pytest.raises(ValueError, match="answers all that can be tried"):
        specs.tried(tmp_path / "x.toml")


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


def test_frames_over_their_own_deviation_have_no_scale(tmp_path):
    """Whether pixels were divided by 255 before makes no difference then."""
    cell = {"b__weight_ih": (12, 8), "b__weight_hh": (12, 4), "b__bias_ih": (12,)}
    cell |= {"b__bias_hh": (12,), "c__weight": (2, 4), "c__bias": (2,)}
    tensors = _tensors(a__weight=(2, 1, 2, 2), a__bias=(2,), **cell)
    export.save(tensors, tmp_path / "x.pth")
    for said in ("0..1", "0..255"):
        text = (
            f'outputs = "q"\nactivation = "relu"\npixels = "{said}"\nframe_decay = 0.5\n'
            "[view]\nheight = 4\nwidth = 4\n"
            '[[layers]]\ntype = "conv"\nkey = "a"\nstride = 2\n'
            '[[layers]]\ntype = "gru"\nkey = "b"\n[head]\ntype = "linear"\naction = "c"\n'
        )
        (tmp_path / "x.toml").write_text(text)
        expert = formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")
        kernel = tensors["a.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(expert.params["params"]["conv1"]["kernel"], kernel)


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
        (
            "outputs",
            'kernels = "inputs_first"\noutputs',
            r'layers\[2\]\.type: found gru beside kernels = "inputs_first"; expected a cell',
        ),
        (
            "[head]",
            '[head]\nactivation = "relu"',
            r"head\.activation: has no effect without action_hidden, value_hidden or fractions",
        ),
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
    cell.write_bytes(torch_writer.dumps(tensors))
    with pytest.raises(ValueError, match=r"rnn\.weight_hh_l0 is of a recurrent cell; describe it"):
        _read(cell, without)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("actor_critic.bn.running_mean", "batch normalisation"),
        ("actor_critic.ln.weight", "normalisation"),
        ("actor_critic.lstm.weight_hh_l1", "a second layer of recurrent cells"),
        ("critic_rnn.weight_hh_l1", "a second layer of recurrent cells"),
        ("critic.rnn.bias_hh_reverse", "a recurrent cell that looks ahead"),
    ],
)
def test_beside_a_cell_only_a_critics_own_part_may_be_left_out(cell, name, kind):
    """A recurrent spec has no critic, whatever its file has."""
    tensors = {name: np.ones(2, np.float32), name.replace("weight", "bias"): np.ones(2, np.float32)}
    cell.write_bytes(torch_writer.dumps(torch_file.read(cell).tree | tensors))
    message = rf"{kind} \({name}\) is not supported; if it does not play, list it under aside in"
    with pytest.raises(ValueError, match=message):
        _read(cell, RECURRENT)
    assert _read(cell, f'aside = ["{name.rpartition(".")[0]}."]\n' + RECURRENT).expert.recurrent


def test_a_template_asks_whether_what_normalises_plays(tmp_path):
    tensors = _tensors(**_nature("torso__0", "torso__2", "torso__4", "pi__0"))
    tensors |= _tensors(pi__2__weight=(4, 5), pi__2__bias=(4,))
    plain = tmp_path / "breakout_x.pth"
    export.save(tensors, plain)
    assert "aside" not in template.write(plain)
    norms = ("curiosity.ln.weight", "curiosity.ln.bias", "torso.1.running_mean", "running_mean")
    plain.write_bytes(torch_writer.dumps(tensors | {x: np.ones(3, np.float32) for x in norms}))
    text = template.write(plain)
    aside = '["running_mean", "torso.1.", "curiosity.ln."]'
    assert f"# aside = {aside} # if none of these plays" in text
    text = _answer(text, aside=aside, activation='"relu"', pixels='"0..1"', outputs='"q"')
    (tmp_path / "x.toml").write_text(text)
    (note,) = formats.convert(plain, spec=tmp_path / "x.toml").notes
    assert note.startswith("tensors not used: ")


@pytest.mark.parametrize("rows_first", [True, False])
def test_a_template_of_a_convention_says_how_it_flattens(rows_first, tmp_path):
    _, tensors, _ = _c51()
    export.save(tensors, tmp_path / "x.pth")
    known = formats.convert(tmp_path / "x.pth", game="breakout")
    plan = dataclasses.replace(known.plan, rows_first=rows_first)
    draft = template._Draft(plan, "", "breakout", 4, 4, expert=known.expert)
    (tmp_path / "x.toml").write_text("\n".join(template._text(draft, "x.pth")))
    assert specs.read(tmp_path / "x.toml").plan.rows_first is rows_first


def test_a_template_of_many_layers_does_not_try_all_their_strides(tmp_path, monkeypatch):
    tried, convolved = [], template.convolved
    monkeypatch.setattr(template, "convolved", lambda *x: tried.append(x) or convolved(*x))
    shapes = {f"c{i}__weight": (4, 4, 3, 3) for i in range(12)}
    layers = _tensors(**shapes, **{f"c{i}__bias": (4,) for i in range(12)})
    dense = _tensors(out__weight=(6, 77), out__bias=(6,))  # 77 is no multiple of 4 channels
    export.save(layers | dense, tmp_path / "breakout_x.pth")
    assert template.write(tmp_path / "breakout_x.pth").count("[[layers]]") == 12
    assert 0 < len(tried) < 500_000
    # Strides and paddings of the first layers are known as well as those of the last.
    export.save(layers | _tensors(out__weight=(6, 16), out__bias=(6,)), tmp_path / "pong_x.pth")
    text = template.write(tmp_path / "pong_x.pth")
    first, *_, last = re.findall(r"stride = \d +# also fit: (.*), together", text)
    assert "2 with padding 0" in first and "1 with padding 0" in last


@pytest.mark.parametrize(
    ("strides", "cut"),
    [((3, 2, 2), True), ((1, 1, 3), False), ((2, 3, 1), True), ((5, 2, 1), True)],
)
def test_what_fits_is_named_of_every_layer(strides, cut, tmp_path):
    """Of 5x5 kernels with half a kernel around them; what is written by itself is read."""
    side = 84
    for stride in strides:
        side = (side + 4 - 5) // stride + 1
    shapes = {f"c{i}__weight": (2, 4 if i == 1 else 2, 5, 5) for i in (1, 2, 3)}
    shapes |= {"out__weight": (4, 2 * side**2), "out__bias": (4,)}
    export.save(_tensors(**shapes, **{f"c{i}__bias": (2,) for i in (1, 2, 3)}), tmp_path / "x.pth")
    text = template.write(tmp_path / "x.pth", game="breakout")
    parts = text.split("[[layers]]")[1:]
    for stride, part in zip(strides, parts, strict=True):
        (said, told), *padding = re.findall(r"^(?:stride|padding) = (\S+)(.*)$", part, re.M)
        named = [(said, padding[0][0] if padding else "0")]
        named += re.findall(r"(\d) with padding (\S+?)(?:,| and)", told)
        assert (str(stride), "2") in named and len(named) <= 9
        assert len(set(named)) == len(named)
        assert " and others, together" not in told or len(named) == 9
    assert cut == (" and others, together" in parts[0])
    text = _answer(text, activation='"relu"', pixels='"0..1"', outputs='"q"')
    (tmp_path / "x.toml").write_text(text)
    formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")


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


def test_every_field_and_value_of_a_spec_is_explained(monkeypatch, cell):
    """In docs/specs.md, as code."""
    said, finish = set(), specs._Table.finish
    monkeypatch.setattr(
        specs._Table, "finish", lambda table, known: said.add(known) or finish(table, known)
    )
    _read(cell, RECURRENT)
    specs.read(_spec(tmp_path := cell.parent))
    text = HEAD.format(
        outputs="q",
        top="",
        view="",
        layers='[[layers]]\ntype = "dense"\nkey = "a"\n',
        head='type = "dueling"\naction = {key = "b"}\nvalue = "c"\n[statistics]\nmean = "d"\n'
        'variance = "e"\nepsilon = 1\nclip = 5',
    )
    (tmp_path / "x.toml").write_text(text)
    specs.read(tmp_path / "x.toml")
    fields = {name for known in said for name in known.split(", ")}
    fields |= {field.name for field in dataclasses.fields(Rules)}
    some = {"game", "view", "channels_last", "variance", "noisy", "stride", "layer", "quantiles"}
    assert some <= fields

    docs = (pathlib.Path(__file__).parents[2] / "docs" / "specs.md").read_text()
    code = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", docs, flags=re.DOTALL))
    assert fields <= set(re.findall(r"\w+", " ".join(code)))
    values = (*views.RESIZES, *views.GRAYS, *views.MAXIMA, *views.PADDINGS, *networks.CELLS)
    values += (*networks.HEADS, *networks.ACTIVATIONS, *specs._PIXELS, *specs._ORDERS)
    values += (
        *specs._KERNELS,
        *specs._FLATTENS,
        "conv",
        "dense",
        "same",
        "minimal",
        "full",
        "q",
        "logits",
    )
    assert [value for value in values if f'"{value}"' not in " ".join(code)] == []
