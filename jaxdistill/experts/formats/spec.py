"""Specs: a short TOML file that says what a state_dict cannot.

game = "breakout"            # or such as "lander/windy"; leave out for a network that plays no task
outputs = "logits"           # or "q"
actions = [0, 1, 3, 4]       # actions (ALE's) by output; or "minimal" (the game's own), or "full"
activation = "relu"          # of every layer but the last; a layer may say its own
pixels = "0..1"              # the file's network takes pixels over 255; or "0..255", as they are
frame_decay = 0.9999         # optional, see `networks.Network`; for recurrent networks
advertised_score = 409       # optional, as are name and state_dict (where in the file it is)
stack_order = "newest_first" # optional, as kernels = "inputs_first": a file of Keras or Flax
flatten = "channels_last"    # optional: convolutions' features are flattened as (H, W, C)
aside = ["curiosity."]       # optional: what names of tensors begin with that do not play

[view]                       # what it sees; see `jaxdistill.tasks.views.View` for all fields
resize = "linear"

[rules]                      # its own game, where that is not the usual; see `tasks.atari.Rules`
fire_after_life = true

[[layers]]                   # the layers before the head, in order
type = "conv"
key = "conv1"                # tensors conv1.weight and conv1.bias; or weight = and bias =
kernel = 8                   # optional, the tensor knows it; checked if given
stride = 4
padding = 0                  # optional, see `building.build`; or "same", TensorFlow's

[[layers]]
type = "dense"
key = "fc"                   # with bias = false if it has none, noisy = true if it is noisy

# [[layers]]                 # the last may be a recurrent cell: "gru" or "lstm"
# type = "lstm"
# key = "lstm"               # tensors lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh;
# layer = 0                  # with this lstm.weight_ih_l0 and so on, as torch.nn.LSTM calls them

[head]
type = "actor_critic"        # "linear", "dueling" or "actor_critic"
action = "actor"             # a key, or a table such as {weight = "w", bias = "b"}
value = "critic"             # action_hidden = [...] and value_hidden = [...] are private layers
atoms = [-10, 10, 51]        # of a categorical head: least and largest return, and how many
support = "atoms"            # or the tensor that holds them all
quantiles = 200              # of a quantile head; quantiles_first = true for (quantiles, actions)
fractions = "phi"            # of implicit quantiles: the layer that takes cosines; with
                             # first_cosine = 0 where they begin with that of 0 times pi

[statistics]                 # what pixels are normalised by: tensors of their mean and variance
mean = "obs_rms.mean"
variance = "obs_rms.var"
epsilon = 1e-8
clip = 10                    # and cut to plus or minus this

docs/specs.md says more of each.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill import networks, settings, shipped, tasks
from jaxdistill.experts.formats.conventions import ALL_ACTIONS
from jaxdistill.experts.formats.layers import (
    SAME,
    Conv,
    Plan,
    PlannedCore,
    Quantiles,
    Statistics,
    Support,
    Weights,
    brief,
    flax,
    named,
    noisy,
    recurrent,
)
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View
from jaxdistill.text import one_line, short_repr

# Far more than any spec needs; some TOML of a megabyte takes hours to read.
MAX_BYTES = 16 * 2**10

_PIXELS = {"0..1": False, "0..255": True}
_ORDERS = {"oldest_first": False, "newest_first": True}
_FLATTENS = {"channels_first": False, "channels_last": True}
_KERNELS = {"outputs_first": named, "inputs_first": flax}  # PyTorch's; Flax's and Keras's
_MOST = 10_000  # atoms or quantiles
_TOP = (
    "game, outputs, actions, activation, pixels, frame_decay, stack_order, flatten, kernels, "
    "advertised_score, name, state_dict, aside, view, rules, layers, head, statistics"
)
_LAYER = "type, key, weight, bias, noisy, kernel, stride, padding, activation"
_NAMED = "key, weight, bias, noisy"
_OUTPUTS = "type, action, action_hidden"
_VALUES = "value, value_hidden"
_RETURNS = "atoms, support, quantiles, quantiles_first, fractions, first_cosine"
_STATISTICS = "mean, variance, epsilon, clip"
_TYPES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A spec that has been read and checked on its own, without the file it describes.

    Attributes:
      plan: which tensors form which layer.
      view: fields of the view, None for a network on vectors. Without `stack`, it is the number
        of channels of the first convolution.
      actions: ALE ids, "minimal", "full", or None to number the outputs.
      state_dict: dotted path of the state_dict in the file, None to look for it.
      rules: how its own game is played; None without [rules].
      aside: what the names of tensors begin with that do not play, whatever they look like.
    """

    path: str
    plan: Plan
    outputs: str
    actions: tuple[int, ...] | str | None
    view: dict[str, Any] | None
    game: str | None
    name: str | None
    state_dict: str | None
    advertised_score: float | None
    rules: Rules | None = None
    aside: tuple[str, ...] = ()


class _Table:
    """A TOML table that knows its place, for messages, and which of its fields were asked for.

    Attributes:
      named: what the tensors of a layer are called.
    """

    def __init__(self, fields: dict[str, Any], path: str, place: str = "", named=named):
        self.fields, self.path, self.place, self.named = dict(fields), path, place, named

    def inner(self, fields: dict[str, Any], place: str) -> _Table:
        """A table in this one."""
        return _Table(fields, self.path, f"{self.place}{place}.", self.named)

    def error(self, field: str, text: str) -> ValueError:
        return ValueError(f"{self.path}: {self.place}{brief([field])}: {text}")

    def take(self, field: str, kind: type, required: str = "", choices=()) -> Any:
        """The value of a field, None if it is not there; `required` says what to write."""
        value = self.fields.pop(field, None)
        if value is None:
            if required:
                raise self.error(field, f"missing; expected {required}")
            return None
        is_number = kind is float and isinstance(value, int)
        if (not isinstance(value, kind) and not is_number) or isinstance(value, bool):
            raise self.error(field, f"found {_shown(value)}, expected {_TYPES[kind]}")
        if isinstance(value, (int, float)) and not -_HUGE < value < _HUGE:  # NaN is not either
            raise self.error(field, f"found {_shown(value)}, expected a finite, ordinary number")
        if choices and value not in choices:
            raise self.error(field, f"found {_shown(value)}, expected one of {', '.join(choices)}")
        return value

    def only(self, known: str) -> None:
        """Refuses other fields, before one is missed that is there by another name."""
        names = known.split(", ")
        for field in (field for field in self.fields if field not in names):
            near = difflib.get_close_matches(field, names, 1)
            meant = f"did you mean {near[0]}; " if near else ""
            raise self.error(field, f"unknown field; {meant}known fields: {known}")

    def finish(self, known: str) -> None:
        """Refuses fields that nobody asked for."""
        for field in self.fields:
            raise self.error(field, f"unknown field; known fields: {known}")


QUESTIONS: dict[str, tuple[str, ...]] = {
    "activation": ("relu", "elu", "tanh"),
    "pixels": tuple(_PIXELS),
    "stack_order": tuple(_ORDERS),
    "flatten": tuple(_FLATTENS),
    "view.resize": ("area", "linear"),
}
"""What people often do not know of an expert, and the likely answers, the likeliest first."""


def read(path: str | os.PathLike[str]) -> Spec:
    """Reads a spec.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is not TOML, or a field is missing, unknown or of the wrong kind.
    """
    return _spec(*_loaded(path))


def tried(path: str | os.PathLike[str]) -> list[tuple[dict[str, str], Spec]]:
    """A spec with every likely answer to those of the `QUESTIONS` that it leaves open.

    Returns:
      The answers by question, and the spec with them, for each choice of answers.

    Raises:
      FileNotFoundError, ValueError: as `read`; or no question is open.
    """
    fields, path = _loaded(path)
    open_ = {name: likely for name, likely in QUESTIONS.items() if _is_open(fields, name)}
    if not open_:
        raise ValueError(
            f"{path}: answers all that can be tried; leave out one of {', '.join(QUESTIONS)}"
        )
    choices = (dict(zip(open_, x, strict=True)) for x in itertools.product(*open_.values()))
    return [(answers, _spec(_answered(fields, answers), path)) for answers in choices]


def _is_open(fields: dict[str, Any], question: str) -> bool:
    """Whether a spec leaves a question open that matters to its network."""
    view, head = (x if isinstance(x, dict) else None for x in map(fields.get, ("view", "head")))
    tables = [layer for layer in fields.get("layers") or [] if isinstance(layer, dict)]
    if question == "activation":
        hidden = head and any(map(head.get, ("action_hidden", "value_hidden", "fractions")))
        layers = [x for x in tables if x.get("type") not in networks.CELLS]  # which have their own
        inside = [*layers, *([head] if head and hidden else [])]
        return "activation" not in fields and any("activation" not in x for x in inside)
    if view is None:
        return False
    if question == "view.resize":
        return "resize" not in view
    convs = any(x.get("type") == "conv" for x in tables)
    if question == "stack_order":
        return question not in fields and convs and view.get("stack") != 1
    if question == "flatten":  # of Keras and Flax it is known
        return question not in fields and convs and fields.get("kernels") != "inputs_first"
    return question not in fields


def _answered(fields: dict[str, Any], answers: dict[str, str]) -> dict[str, Any]:
    said = {name: answer for name, answer in answers.items() if "." not in name}
    if resize := answers.get("view.resize"):
        said["view"] = fields["view"] | {"resize": resize}
    return fields | said


def _loaded(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """The fields of a TOML file, and what messages call it."""
    path = os.fspath(shipped.found(path))
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has over {MAX_BYTES} bytes")
        fields = tomllib.loads(text.decode("utf-8-sig"))  # Windows begins with a mark
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a spec in TOML") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a spec: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error), MAX_BYTES)
        if len(reason) > 200:  # the end says in which line
            reason = f"{reason[:120]}...{reason[-60:]}"
        raise ValueError(f"{path}: not a TOML file ({reason})") from error
    return fields, path


def _spec(fields: dict[str, Any], path: str) -> Spec:
    """The spec of these fields, checked."""
    top = _Table(fields, path)
    top.only(_TOP)
    game = top.take("game", str)
    try:
        game = None if game is None else tasks.get(game).name
    except ValueError as error:
        raise top.error("game", str(error)) from None
    outputs = top.take("outputs", str, '"q" or "logits"', ("q", "logits"))
    actions = _actions(top, game)
    activation = top.take("activation", str, choices=networks.ACTIVATIONS)
    kernels = top.take("kernels", str, choices=_KERNELS) or "outputs_first"
    top.named = _KERNELS[kernels]
    convs, hidden, core, activations = _layers(top, activation)
    decay = _frame_decay(top, core)
    view = _view_of_screens(top, convs)
    pixels = _pixels(top, view)
    order = _of_convs(top, "stack_order", _ORDERS, convs, "dense layers take frames as they are")
    flatten = _of_convs(
        top, "flatten", _FLATTENS, convs, "dense layers take frames as view.channels_last says"
    )
    head, last = _head(top, activation, core)
    if head.get("fractions"):  # its layer is the first behind the convolutions
        activations.insert(len(convs), last.pop(0))
    activations += last
    spec = Spec(
        path=path,
        plan=Plan(
            convs=convs,
            hidden=hidden,
            core=core,
            frame_decay=decay,
            activation=_brief_activation(activations),
            raw_pixels=pixels,
            newest_first=bool(order),
            flax=top.named is flax,
            rows_first=flatten,
            statistics=_statistics(top, view),
            **head,
        ),
        outputs=outputs,
        actions=actions,
        view=view,
        game=game,
        name=top.take("name", str),
        state_dict=top.take("state_dict", str),
        advertised_score=top.take("advertised_score", float),
        rules=_rules(top),
        aside=_aside(top),
    )
    top.finish(_TOP)
    return spec


def view_of(spec: Spec, channels: int) -> View | None:
    """The spec's view for a network whose first convolution has this many input channels."""
    if spec.view is None:
        return None
    try:
        frames = channels // 3 if spec.view.get("gray") == "none" else channels
        stack = {"stack": frames} if spec.plan.convs and frames else {}
        return View.from_dict(stack | spec.view)
    except ValueError as error:
        raise ValueError(f"{spec.path}: {error}") from None


def actions_of(spec: Spec, count: int, game: str | None) -> tuple[int, ...]:
    """What `count` outputs stand for, where `game` may have been given from outside."""
    if spec.actions is None:
        actions = tuple(range(count))
    elif isinstance(spec.actions, tuple):
        actions = spec.actions
    elif spec.actions == "full":
        actions = ALL_ACTIONS
        if game is not None:
            actions = tuple(range(tasks.get(game).suite.num_actions))
    elif game is None:
        raise ValueError(f'{spec.path}: actions: "minimal" needs a game; add game, or --game')
    else:
        actions = tasks.get(game).actions
    if len(actions) != count:
        raise ValueError(
            f"{spec.path}: actions: found {len(actions)} actions {_shown(actions)}, expected one "
            f"for each of the {count} outputs of {spec.plan.action.key}"
        )
    size = None if game is None else tasks.get(game).suite.num_actions
    if size is not None and max(actions) >= size:
        largest = _shown(max(actions))
        raise ValueError(
            f"{spec.path}: actions: found {largest} for {game}, expected 0..{size - 1}"
        )
    return actions


def _actions(top: _Table, game: str | None) -> tuple[int, ...] | str | None:
    actions = top.fields.pop("actions", None)
    wanted = 'ALE actions such as [0, 1, 3, 4], "minimal" or "full"'
    if actions is None:
        if game is not None:
            raise top.error("actions", f"missing; expected {wanted}")
        return None
    if actions in ("minimal", "full"):
        return actions
    plain = isinstance(actions, list) and all(type(action) is int for action in actions)
    if not plain or not actions or len(set(actions)) != len(actions):
        raise top.error("actions", f"found {_shown(actions)}, expected different {wanted}")
    size = None if game is None else tasks.get(game).suite.num_actions
    if min(actions) < 0 or (size is not None and max(actions) >= size):
        below = "0 and more" if size is None else f"0..{size - 1}"
        raise top.error("actions", f"found {_shown(actions)}, expected numbers of {below}")
    return tuple(actions)


def _frame_decay(top: _Table, core: PlannedCore | None) -> float:
    decay = top.take("frame_decay", float) or 0.0
    if not 0 <= decay < 1 or (decay and not core):
        what = "a number below 1" if core else "none without a recurrent layer, which carries it"
        raise top.error("frame_decay", f"found {_shown(decay)}, expected {what}")
    return decay


def _view_of_screens(top: _Table, convs: Sequence[Conv]) -> dict[str, Any] | None:
    """The fields of [view]; None of a network on vectors, which has no convolutions."""
    fields = top.take("view", dict)
    if fields is not None:
        return _view(top.inner(fields, "view"))
    if convs:
        raise top.error("view", 'missing; expected a table such as [view] with resize = "area"')
    return None


def _pixels(top: _Table, view: dict[str, Any] | None) -> bool:
    """Whether the network takes pixels of 0..255; it has to be said of every view."""
    pixels = top.take("pixels", str, choices=_PIXELS)
    if pixels is None and view is not None:
        raise top.error(
            "pixels", 'missing; expected "0..1" or "0..255", as the file\'s network took'
        )
    if pixels is not None and view is None:
        raise top.error(
            "pixels", "found without [view]; a network on vectors takes them as they are"
        )
    return _PIXELS.get(pixels, False)


def _of_convs(
    top: _Table, field: str, choices: Mapping[str, bool], convs: Sequence[Conv], otherwise: str
) -> bool | None:
    """What a field means that only networks with convolutions have; None where it is left out.

    Args:
      otherwise: what is so without convolutions.
    """
    value = top.take(field, str, choices=choices)
    if value is None:
        return None
    if not convs:
        raise top.error(field, f"found without a conv; {otherwise}")
    return choices[value]


def _aside(top: _Table) -> tuple[str, ...]:
    aside = top.take("aside", list) or []
    if not all(isinstance(prefix, str) and prefix for prefix in aside):
        wanted = 'what names of tensors begin with, such as ["curiosity."]'
        raise top.error("aside", f"found {_shown(aside)}, expected {wanted}")
    return tuple(aside)


def _layers(
    top: _Table, activation: str | None
) -> tuple[tuple[Conv, ...], tuple[Weights, ...], PlannedCore | None, list[str]]:
    """The convolutions, the dense layers, a recurrent cell, and the activation of the others."""
    convs: list[Conv] = []
    hidden: list[Weights] = []
    core: PlannedCore | None = None
    used: list[str] = []
    for number, fields in enumerate(top.take("layers", list) or [], 1):
        if not isinstance(fields, dict):
            raise top.error("layers", f"found {_shown(fields)}, expected [[layers]] tables")
        table = top.inner(fields, f"layers[{number}]")
        table.only(f"{_LAYER}, layer")
        kinds = ("conv", "dense", *networks.CELLS)
        kind = table.take("type", str, f"one of {', '.join(kinds)}", kinds)
        if core:
            raise table.error(
                "type", "found a layer after a recurrent one; it is the head's: action_hidden"
            )
        if kind in networks.CELLS:
            if table.named is flax:
                beside = 'kernels = "inputs_first"'
                wanted = "a cell as PyTorch writes it, outputs first"
                raise table.error("type", f"found {kind} beside {beside}; expected {wanted}")
            key = table.take("key", str, "the cell's name in the file")
            if table.take("layer", int) not in (None, 0):
                raise table.error("layer", "expected 0: a cell has one layer here")
            first = "_l0" if "layer" in fields else ""
            core = recurrent(kind, key, first)
            table.finish("type, key, layer")
            continue
        weights = _weights(table)
        used.append(_activation(table, activation))
        if kind == "dense":
            hidden.append(weights)
            table.finish("type, key, weight, bias, noisy, activation")
            continue
        if hidden:
            raise table.error("type", "found a conv after a dense layer, expected all convs first")
        stride = _number(table, "stride", 1, "the convolution's stride") or 1
        kernel, padding = _number(table, "kernel", 1), _padding(table)
        table.finish(_LAYER)
        convs.append(Conv(weights, stride, kernel, padding))
    return tuple(convs), tuple(hidden), core, used


def _padding(table: _Table) -> int | str | None:
    if table.fields.get("padding") == SAME:
        del table.fields["padding"]
        return SAME
    return _number(table, "padding", 0)


def _head(
    top: _Table, activation: str | None, core: PlannedCore | None
) -> tuple[dict[str, Any], list[str]]:
    """Fields of the plan, and the activation of each hidden layer that is the head's own.

    The first of them is that of the layer of fractions, if there is one.
    """
    table = top.inner(top.take("head", dict, "a table such as [head] with type and action"), "head")
    table.only(f"{_OUTPUTS}, {_VALUES}, {_RETURNS}, activation")
    kind = table.take("type", str, f"one of {', '.join(networks.HEADS)}", networks.HEADS)
    if core and kind == "actor_critic":
        raise table.error(
            "type",
            "found actor_critic behind a recurrent layer, expected linear or dueling: nothing here "
            "asks a recurrent expert for values, so leave the critic out",
        )
    fields: dict[str, Any] = {"head": kind, "action": _key(table, "action", required=True)}
    fields["action_hidden"] = _keys(table, "action_hidden")
    known = [_OUTPUTS]
    if kind != "linear":
        fields["value"] = _key(table, "value", required=True)
        fields["value_hidden"] = _keys(table, "value_hidden")
        known.append(_VALUES)
    if kind != "actor_critic":
        fields |= _returns(table)
        known.append(_RETURNS)
    hidden = len(fields["action_hidden"]) + len(fields.get("value_hidden", ()))
    hidden += bool(fields.get("fractions"))
    if not hidden and "activation" in table.fields:
        raise table.error(
            "activation", "has no effect without action_hidden, value_hidden or fractions"
        )
    activations = [_activation(table, activation)] * hidden if hidden else []
    table.finish(", ".join([*known, "activation"]))
    return fields, activations


def _returns(table: _Table) -> dict[str, Any]:
    """Fields of the plan of a head that predicts how returns are distributed."""
    atoms, tensor = table.take("atoms", list), table.take("support", str)
    count, fractions = _number(table, "quantiles", 1), _key(table, "fractions")
    cosine = _number(table, "first_cosine", 0)
    first = table.fields.pop("quantiles_first", None)
    if type(first) not in (bool, type(None)):
        raise table.error("quantiles_first", f"found {_shown(first)}, expected true or false")
    said = {"atoms": atoms, "support": tensor, "quantiles": count, "fractions": fractions}
    given = [name for name, value in said.items() if value is not None]
    if len(given) > 1:
        raise table.error(given[1], f"found beside {given[0]}; a head has one of {', '.join(said)}")
    if first is not None and count is None:
        raise table.error("quantiles_first", "found without quantiles, how many there are")
    if cosine is not None and (fractions is None or cosine > 1):
        found = f"found {cosine}, expected 0 or 1" if fractions else "found without fractions"
        raise table.error("first_cosine", found)
    if count is not None and count > _MOST:
        raise table.error("quantiles", f"found {count}, expected at most {_MOST}")
    support = Support(tensor) if tensor is not None else None
    if atoms is not None:
        numbers = all(type(x) in (int, float) and abs(x) < _HUGE for x in atoms)
        if not numbers or len(atoms) != 3 or not atoms[0] < atoms[1] or not _counts(atoms[2]):
            wanted = f"[least return, largest return, how many of 2..{_MOST}]"
            raise table.error("atoms", f"found {_shown(atoms)}, expected {wanted}")
        support = Support(atoms=networks.Atoms(float(atoms[0]), float(atoms[1]), atoms[2]))
    quantiles = None if count is None else Quantiles(count, bool(first))
    return {
        "support": support,
        "quantiles": quantiles,
        "fractions": fractions,
        "first_cosine": 1 if cosine is None else cosine,
    }


def _counts(value: Any) -> bool:
    return type(value) is int and 2 <= value <= _MOST


def _statistics(top: _Table, view: dict[str, Any] | None) -> Statistics | None:
    fields = top.take("statistics", dict)
    if fields is None:
        return None
    if view is None:
        raise top.error("statistics", "found without [view]; they are those of pixels")
    table = top.inner(fields, "statistics")
    table.only(_STATISTICS)
    mean, variance = (
        table.take(name, str, f"the name of the tensor of the pixels' {name}")
        for name in ("mean", "variance")
    )
    epsilon = table.take("epsilon", float, "what is added to the variance, such as 1e-5")
    clip = table.take("clip", float, "the furthest from 0 that a pixel goes, such as 5")
    for name, value in (("epsilon", epsilon), ("clip", clip)):
        if value <= 0:
            raise table.error(name, f"found {_shown(value)}, expected a number above 0")
    table.finish(_STATISTICS)
    return Statistics(mean, variance, float(epsilon), float(clip))


def _view(table: _Table) -> dict[str, Any]:
    """Checks what `View` itself does not: the kinds of the values."""
    known = ", ".join(field.name for field in dataclasses.fields(View))
    table.only(known)
    view: dict[str, Any] = {}
    for field in ("height", "width", "stack"):
        view[field] = table.take(field, int)
    view["spacing"] = table.take("spacing", int)
    for field in ("resize", "gray", "maximum", "padding"):
        view[field] = table.take(field, str)
    for field in ("gray_last", "difference", "channels_last"):
        view[field] = table.fields.pop(field, None)  # the view itself asks for true or false
    view["crop"] = table.take("crop", list)
    view["steps"] = table.take("steps", list)
    table.finish(known)
    for field, pairs in (("crop", [view["crop"] or [0, 1]]), ("steps", view["steps"] or [])):
        for pair in pairs:
            numbers = isinstance(pair, list) and all(type(n) is int and n >= 0 for n in pair)
            if not numbers or len(pair) != 2 or (field == "crop" and pair[0] >= pair[1]):
                wanted = "[first row, end row]" if field == "crop" else "a list of [height, width]"
                raise table.error(field, f"found {_shown(pair)}, expected {wanted}")
    view = {field: value for field, value in view.items() if value is not None}
    try:
        View.from_dict(view)
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from None
    return view


def _rules(top: _Table) -> Rules | None:
    fields = top.take("rules", dict)
    try:
        return None if fields is None else settings.build(Rules, fields, "rules")
    except ValueError as error:
        raise ValueError(f"{top.path}: {error}") from None


def _weights(table: _Table) -> Weights:
    """The tensors of a layer: `key`, or `weight` and `bias`; `bias = false` says there is none.

    Of a noisy layer they are its means.
    """
    is_noisy = table.fields.pop("noisy", False)
    if type(is_noisy) is not bool:
        raise table.error("noisy", f"found {_shown(is_noisy)}, expected true or false")
    without = table.fields.get("bias") is False
    if without:
        del table.fields["bias"]
    key, weight, bias = (table.take(field, str) for field in ("key", "weight", "bias"))
    if (key is None) == (weight is None):
        raise table.error(
            "key", "expected the layer's name in the file, or weight and bias instead"
        )
    if weight is None:
        weights = noisy(key) if is_noisy else table.named(key)
        bias = weights.bias if bias is None else bias
        weight = weights.weight
    elif is_noisy:
        raise table.error(
            "noisy", "found beside weight; name the tensor of its means there, or key"
        )
    elif bias is None and not without:
        raise table.error("bias", "missing; expected the bias tensor's name, or false")
    return Weights(weight, None if without else bias)


def _key(table: _Table, field: str, *, required: bool = False) -> Weights | None:
    value = table.fields.pop(field, None)
    if value is None and required:
        raise table.error(field, "missing; expected the layer's name in the file")
    return None if value is None else _as_weights(table, field, value)


def _keys(table: _Table, field: str) -> tuple[Weights, ...]:
    return tuple(_as_weights(table, field, value) for value in table.take(field, list) or [])


def _as_weights(table: _Table, field: str, value: Any) -> Weights:
    if isinstance(value, str):
        return table.named(value)
    if not isinstance(value, dict):
        raise table.error(field, f"found {_shown(value)}, expected the layer's name in the file")
    inner = table.inner(value, field)
    inner.only(_NAMED)
    weights = _weights(inner)
    inner.finish(_NAMED)
    return weights


def _number(table: _Table, field: str, least: int, required: str = "") -> int | None:
    value = table.take(field, int, required)
    if value is not None and value < least:
        raise table.error(field, f"found {value}, expected at least {least}")
    return value


def _activation(table: _Table, usual: str | None) -> str:
    activation = table.take("activation", str, choices=networks.ACTIVATIONS) or usual
    if activation is None:
        known = ", ".join(networks.ACTIVATIONS)
        raise table.error(
            "activation", f"missing, here and for all layers; expected one of {known}"
        )
    return activation


def _brief_activation(activations: list[str]) -> str | tuple[str, ...]:
    """One name where all layers have the same."""
    different = set(activations)
    return tuple(activations) if len(different) > 1 else next(iter(different), "none")


def _shown(value: Any) -> str:
    return short_repr(value, 60)


_HUGE = 2**53
