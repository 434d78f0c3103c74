"""A spec to be completed: what a file says filled in, and what it does not as commented questions.

Of a file that is recognised all is known. Of any other the order of its layers is guessed from the
order, the shapes and the names of its tensors, and strides and paddings from what fits.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdistill import networks, tasks
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import beside, places, signs
from jaxdistill.experts.formats.layers import (
    SAME,
    WEIGHTS,
    Arrays,
    Conv,
    Plan,
    PlannedCore,
    Weights,
    bias_of,
    brief,
    flax,
    named,
    noisy,
    recurrent,
)
from jaxdistill.experts.formats.padding import convolved
from jaxdistill.experts.formats.spec import QUESTIONS
from jaxdistill.tasks.views import View
from jaxdistill.text import one_line

_VALUE = re.compile(r"value|critic|(^|[._])(v|vf|val|fc_[hz]_v)([._0-9]|$)")
_ADVANTAGE = re.compile(r"adv|(^|[._])fc_[hz]_a([._0-9]|$)")
_HIDDEN = re.compile(r"(.+)\.weight_hh((?:_l0)?)")
_SIZES = ((84, 84), (80, 80), (42, 42), (64, 64), (96, 96), (105, 80))
_STRIDES = {
    8: (4,),
    7: (4, 3, 2),
    6: (3, 2),
    5: (2, 1, 5, 3),
    4: (2, 1),
    3: (1, 2),
    2: (1, 2),
    1: (1,),
}
# Of all layers: none, half a kernel, anything small, or TensorFlow's.
_PADDINGS: tuple[Callable[[int], Sequence[int | str]], ...] = (
    lambda kernel: (0,),
    lambda kernel: (kernel // 2,),
    lambda kernel: (0, 1, 2),
    lambda kernel: (SAME,),
)
_MOST_NAMED = 8  # as many as kernels of 5 or 7 have of strides, by the first two paddings
_OR_ITS_NAME = "false, or the name of its tensor"
_MOST_CONVS = 32  # whose strides and paddings are looked for; of more the sizes are too many

_Step = tuple[int, int | str]
"""Stride and padding of a convolution."""


class _Fits(NamedTuple):
    """Sizes of a picture, and for each convolution what agrees; the first ones do so together."""

    sizes: tuple[tuple[int, int], ...] = ()
    steps: tuple[tuple[_Step, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Draft:
    """What is known, or guessed, of a file; None is not known.

    Attributes:
      expert: as it was read, where the file is recognised.
      fits: of a guess, sizes of the picture, strides and paddings that agree with its shapes.
      outputs: how many there are.
      critic: of a guess, there is one behind a recurrent cell, which is left out.
      aside: what the names of tensors begin with that a spec refuses to leave out unsaid.
    """

    plan: Plan
    place: str
    game: str | None
    outputs: int
    stack: int | None
    expert: Expert | None = None
    fits: _Fits = dataclasses.field(default_factory=_Fits)
    critic: bool = False
    aside: tuple[str, ...] = ()


def write(path: str | os.PathLike[str], *, game: str | None = None) -> str:
    """The text of a spec for a PyTorch file, with what its repository on the hub says of it.

    Args:
      game: its game, where somebody has said it.

    Raises:
      FileNotFoundError, ValueError: the file cannot be read, holds no layers, or is recognised and
        of a kind that no spec describes.
    """
    source = formats.opened(path)
    name, file, found = source.path.name, source.file, source.found
    if file is None:
        raise ValueError(f"{source.name}: is a directory; a spec describes a file, expected a file")
    try:
        known = formats.convert(source, game=game)
    except formats.Contradicted:  # by its repository
        raise
    except ValueError as error:
        arguments, _ = beside.arguments(file.tree, source.path)
        said = (*beside.games(file.tree, arguments), source.hint.game)
        game = tasks.get(game).name if game else next(filter(None, said), None)
        draft = _guessed(source.name, found, game)
        head = f"Guessed from names, shapes and the order of {name}: check them."
        why = str(error).replace(source.name, name).partition("; give")[0]
        why = f"By itself it is not read: {one_line(why, 300)}"
        return "\n".join([f"# {head}", f"# {why}", *_text(draft, brief([name]))]) + "\n"
    assert known.plan is not None
    expert = known.expert
    if reason := _beyond(known.plan, expert, found[known.place]):
        raise ValueError(
            f"{source.name}: is recognised as {known.convention} and needs no spec; none describes "
            f"{reason}"
        )
    stack = expert.view.stack if isinstance(expert.view, View) else None
    draft = _Draft(
        known.plan,
        known.place,
        expert.game,
        expert.network.num_outputs,
        stack,
        expert=expert,
        aside=_aside(known.plan, found[known.place]),
    )
    head = f"{name} is recognised as {known.convention}; this says the same."
    return "\n".join([f"# {head}", *_text(draft, brief([name]))]) + "\n"


def _beyond(plan: Plan, expert: Expert, arrays: Arrays) -> str | None:
    """What a spec has no words for, of the plan by which an expert was read from these tensors."""
    if plan.sections:
        return "residual sections"
    if plan.streams or plan.embedding:
        return "networks of several tasks or streams"
    if plan.norms:
        return "LayerNorm"
    if plan.core:
        return "how a program's recurrent network is read, critic and all; write one by hand"
    if any(layer.half is not None for layer in plan.layers()):
        return "two layers in one tensor"
    each = expert.network.depth * (plan.quantiles.count if plan.quantiles else 1)
    outputs = arrays[plan.action.weight].shape[-1 if plan.flax else 0]
    if expert.log_std is not None or outputs != expert.network.num_outputs * each:
        return "keys, angles and clicks that are rewritten as they are read"
    return None


def _aside(plan: Plan, arrays: Arrays) -> tuple[str, ...]:
    """What the names of those tensors begin with that a spec refuses to leave out unsaid."""
    names = [name for _, name in signs.left_out(plan, arrays)]
    prefixes = dict.fromkeys(
        f"{key}." if key else x for x in names for key in [x.rpartition(".")[0]]
    )
    playing = sorted(plan.tensors())  # those that begin alike lie together

    def plays(prefix: str) -> bool:
        at = bisect.bisect_left(playing, prefix)
        return at < len(playing) and playing[at].startswith(prefix)

    return tuple(x for x in prefixes if not plays(x))


# --- guesses


def _guessed(path: str, found: places.Found, game: str | None) -> _Draft:
    place = places.likeliest(found)
    arrays = found[place]
    cells = _cells(arrays)
    core = next((cell for cell in cells if not _VALUE.search(cell.input.weight)), None)
    aside = {layer.weight for cell in cells for layer in (cell.input, cell.hidden) if core}
    convs, dense, is_flax = _layers({n: x for n, x in arrays.items() if n not in aside})
    if not dense:
        raise ValueError(f"{path}: holds no dense layers; found {brief(arrays)}")

    def width(layer: Weights, axis: int) -> int:
        """Inputs (axis 1) or outputs (axis 0) of a dense layer."""
        return arrays[layer.weight].shape[1 - axis if is_flax else axis]

    values = [layer for layer in dense if _VALUE.search(layer.key)]
    values = values or [layer for layer in dense if width(layer, 0) == 1]
    valued = set(values)
    others = [layer for layer in dense if layer not in valued]
    if not others:
        values, others = [], dense
    fields: dict[str, Any] = {"hidden": tuple(others[:-1]), "action": others[-1]}
    is_dueling = any(_ADVANTAGE.search(layer.key) for layer in others)
    if core:
        order = {name: place for place, name in enumerate(arrays)}
        shared = sum(order[x.weight] < order[core.input.weight] for x in others[:-1])
        fields |= {"core": core, "hidden": tuple(others[:shared])}
        fields |= {"action_hidden": tuple(others[shared:-1])}
    elif values:
        # What both see is shared.
        inputs = [width(layer, 1) for layer in others]
        shared = inputs.index(width(values[0], 1)) if width(values[0], 1) in inputs else 0
        fields |= {"hidden": tuple(others[:shared]), "action_hidden": tuple(others[shared:-1])}
    critic = core is not None and bool(values) and not is_dueling
    if values and not critic:
        fields |= {"value": values[-1], "value_hidden": tuple(values[:-1])}
        fields["head"] = "dueling" if is_dueling else "actor_critic"
    plan = Plan(convs=tuple(Conv(x, 1, padding=None) for x in convs), flax=is_flax, **fields)
    entering = dense[0]
    if core:
        entering = plan.hidden[0] if plan.hidden else core.input
    first = arrays[convs[0].weight].shape if convs else ()
    stack = first[2 if is_flax else 1] if convs else None
    fits = _fits([arrays[x.weight].shape for x in convs], width(entering, 1), is_flax)
    outputs, unsaid = width(others[-1], 0), _aside(plan, arrays)
    return _Draft(plan, place, game, outputs, stack, fits=fits, critic=critic, aside=unsaid)


def _cells(arrays: Arrays) -> list[PlannedCore]:
    """The recurrent cells that are called as PyTorch's, of the kinds that their gates say."""
    cells = []
    for name, array in arrays.items():
        match = _HIDDEN.fullmatch(name)
        if match is None or array.ndim != 2 or "target" in name.lower():
            continue
        gates = array.shape[0] / max(1, array.shape[1])
        kinds = (kind for kind, cell in networks.CELLS.items() if cell.gates == gates)
        cell = recurrent(next(kinds, ""), match[1], match[2])
        names = {x for layer in (cell.input, cell.hidden) for x in (layer.weight, layer.bias)}
        if cell.kind and names <= arrays.keys() and arrays[cell.input.weight].ndim == 2:
            cells.append(cell)
    return cells


def _layers(arrays: Arrays) -> tuple[list[Weights], list[Weights], bool]:
    """The convolutions and the dense layers, in the file's order, and whether inputs come first."""
    kernels: dict[str, np.ndarray] = {}
    contents = set()
    for name, array in arrays.items():
        aside = "target" in name.lower() or re.search(r"(sigma|epsilon)$", name)
        if array.ndim not in (2, 4) or aside:
            continue
        content = array.shape, array.dtype, hashlib.sha256(array.tobytes()).digest()
        if content not in contents:  # or it is another's twin
            kernels[name] = array
        contents.add(content)
    is_flax = any(name.endswith(("kernel", "kernel:0", ".vars.0")) for name in kernels)
    convs, dense = (
        [Weights(name, bias_of(name, arrays)) for name, x in kernels.items() if x.ndim == axes]
        for axes in (4, 2)
    )
    return convs, dense, is_flax


def _fits(shapes: list[tuple[int, ...]], flat: int, is_flax: bool) -> _Fits:
    """Strides and paddings of convolutions that end in `flat` numbers, by what is usual."""
    if not 0 < len(shapes) <= _MOST_CONVS:
        return _Fits()
    kernels = [shape[0] if is_flax else shape[2] for shape in shapes]
    channels = shapes[-1][-1] if is_flax else shapes[-1][0]
    sizes: list[tuple[int, int]] = []
    found: list[dict[_Step, None]] = [{} for _ in kernels]  # in order
    for size, paddings in itertools.product(_SIZES, _PADDINGS):
        choices = [
            [
                (x, y)
                for y in paddings(k)
                if isinstance(y, str) or y < k
                for x in _STRIDES.get(k, (2,))
            ]
            for k in kernels
        ]
        if ways := _ways(size, kernels, choices, channels, flat):
            sizes.append(size)
            for steps, more in zip(found, ways, strict=True):
                steps |= dict.fromkeys(more)
    return _Fits(tuple(dict.fromkeys(sizes)), tuple(map(tuple, found)))


def _ways(
    size: tuple[int, int],
    kernels: list[int],
    choices: list[list[_Step]],
    channels: int,
    flat: int,
) -> list[list[_Step]]:
    """For each layer those of its choices by which `size` can end in `flat` numbers; or none.

    The first ones fit together.
    """

    def after(at: tuple[int, int], kernel: int, step: _Step) -> tuple[int, int]:
        return convolved(at[0], kernel, *step), convolved(at[1], kernel, *step)

    # Few sizes can be reached, of however many layers.
    reached = [{size}]
    for kernel, layer in zip(kernels, choices, strict=True):
        ends = {after(at, kernel, step) for at in reached[-1] for step in layer}
        reached.append({end for end in ends if min(end) > 0})
    leads = {end for end in reached[-1] if channels * end[0] * end[1] == flat}
    ahead = []  # what leads to the end, behind each layer from the last to the first
    for kernel, layer, sizes in zip(kernels[::-1], choices[::-1], reached[-2::-1], strict=True):
        ahead.append(leads)
        leads = {at for at in sizes if any(after(at, kernel, step) in leads for step in layer)}
    if not leads:
        return []
    ways, at = [], size
    for kernel, layer, sizes, good in zip(kernels, choices, reached[:-1], ahead[::-1], strict=True):
        first = next(step for step in layer if after(at, kernel, step) in good)
        at = after(at, kernel, first)
        others = (s for s in layer if any(after(x, kernel, s) in good for x in sizes))
        ways.append([first, *others])
    return ways


# --- as text


def _said(name: str, value: Any, comment: str = "") -> str:
    text = f"{name} = {_toml(value)}"
    return f"{text:<28} # {comment}" if comment else text


def _asked(name: str, value: Any, comment: str) -> str:
    return f"{f'# {name} = {_toml(value)}':<28} # {comment}"


def _toml(value: Any) -> str:
    """Text, numbers, true and false, lists of them, and tables in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(x)}" for name, x in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _text(draft: _Draft, name: str) -> Iterator[str]:
    plan, expert = draft.plan, draft.expert
    yield "# Lines such as '# NAME = ...' are questions: take the '# ' away and say what is true."
    if expert is None:
        yield f"# Those about {', '.join(QUESTIONS)} can be played:"
        yield f"# jaxdistill convert --source={name} --spec=THIS --try_episodes=4"
    yield "# docs/specs.md explains every field."
    yield ""
    if draft.game:
        yield _said("game", draft.game)
    else:
        yield _asked("game", "breakout", "which of `jaxdistill.tasks`; leave out if none")
    yield from _outputs(draft)
    yield from _activation(draft)
    convs = bool(plan.convs)
    if expert and isinstance(expert.view, View):
        yield _said("pixels", QUESTIONS["pixels"][plan.raw_pixels])
    elif convs:
        yield _asked("pixels", "0..1", "0..1 if its program divided by 255, else 0..255")
    if convs and plan.newest_first:
        yield _said("stack_order", "newest_first")
    elif convs and not expert:
        yield _asked("stack_order", "oldest_first", "or newest_first: which is the first channel")
    if convs and plan.rows_first is not None:
        yield _said("flatten", "channels_last" if plan.rows_first else "channels_first")
    elif convs and not expert:
        usual, other = ("channels_last", "first") if plan.flax else ("channels_first", "last")
        text = f"or channels_{other}: how the convolutions' features are flattened"
        yield _asked("flatten", usual, text)
    if plan.flax:
        yield _said("kernels", "inputs_first", "as Flax and Keras have them")
    if draft.place:
        yield _said("state_dict", draft.place, "where in the file")
    if draft.aside and expert:
        yield _said("aside", draft.aside, "they do not play")
    elif draft.aside:
        yield _asked("aside", draft.aside, "if none of these plays; a spec cannot say how they do")
    if expert and expert.advertised_score is not None:
        yield _said("advertised_score", expert.advertised_score)
    else:
        yield _asked("advertised_score", 0, "a run stops if it plays far below this")
    yield from _view(draft)
    yield from _rules(draft)
    yield from _layer_tables(draft)
    yield from _head(draft)


def _outputs(draft: _Draft) -> Iterator[str]:
    head, expert, count = draft.plan.head, draft.expert, draft.outputs
    if expert:
        yield _said("outputs", expert.outputs)
    elif head != "linear" or draft.critic:
        kind = "q" if head == "dueling" else "logits"
        yield _said("outputs", kind, "by its head")
    else:
        yield _asked("outputs", "q", "q (Q-values: DQN, C51, ...) or logits (a policy)")
    minimal = () if draft.game is None else tasks.get(draft.game).actions
    if expert and (expert.actions != tuple(range(count)) or draft.game):
        yield _said("actions", list(expert.actions))
    elif len(minimal) == count:
        text = f"{list(minimal)}, if in the order of ALE; or a list such as it"
        yield _said("actions", "minimal", text)
    elif count == 18:
        yield _said("actions", "full")
    elif not expert:
        text = f'"minimal", "full", or ALE\'s action for each of the {count} outputs'
        yield _asked("actions", list(range(count)), text)


def _activation(draft: _Draft) -> Iterator[str]:
    known = draft.plan.activation
    if draft.expert and isinstance(known, str):
        yield _said("activation", known)
    elif not draft.expert:
        others = [x for x in networks.ACTIVATIONS if x != "relu"]
        yield _asked("activation", "relu", f"of all layers but the last; or {', '.join(others)}")


def _view(draft: _Draft) -> Iterator[str]:
    seen = draft.expert.view if draft.expert else None
    if isinstance(seen, View):
        yield from ("", "[view]")
        for field, value in seen.to_dict().items():
            if value != getattr(View(), field) or field in ("height", "width", "stack", "resize"):
                yield _said(field, value)
        return
    if draft.expert or (draft.stack is None and not draft.plan.convs):
        return
    yield from ("", "[view]")
    (height, width), *_ = draft.fits.sizes or [(84, 84)]
    sizes = sorted(draft.fits.sizes, reverse=True)
    told = f"its layers fit {' or '.join(f'{a}x{b}' for a, b in sizes)}" if sizes else "or another"
    yield _said("height", height, told) if sizes else _asked("height", height, told)
    yield _said("width", width) if sizes else _asked("width", width, told)
    if draft.stack:
        yield _said("stack", draft.stack, 'frames; a third of it with gray = "none"')
    yield _asked("resize", "area", "area (INTER_AREA), linear (OpenCV's usual, PIL) or nearest")
    yield _asked("gray", "luminance", 'or "mean" of the colours, or "none": in colour')
    yield _asked("maximum", "before", 'over two frames, before or after resizing, or "none"')
    yield _asked("padding", "repeat", 'or "zero": what is before the first frame')
    yield _asked("crop", [34, 194], "first row and end row, if the screen was cut")
    yield _asked("steps", [[110, 84]], "sizes resized to before, if there were any")
    yield _asked("spacing", 4, "emulator frames between two of the stack")
    yield _asked("difference", True, "each frame less the one before")


def _rules(draft: _Draft) -> Iterator[str]:
    screens = draft.expert is None or isinstance(draft.expert.view, View)
    if not screens or (draft.game is not None and tasks.get(draft.game).suite.name != "atari"):
        return
    own = draft.expert.rules.to_dict() if draft.expert else {}
    yield ""
    yield "[rules]" if own else "# [rules]"
    for field, value in own.items():
        yield _said(field, value)
    if "fire_after_life" not in own:
        text = "if it was trained behind FireReset and EpisodicLife"
        yield _asked("fire_after_life", True, text)
    if "repeat_action_probability" not in own:
        yield _asked("repeat_action_probability", 0.25, "sticky actions")


def _layer_tables(draft: _Draft) -> Iterator[str]:
    plan, expert = draft.plan, draft.expert
    activations = iter(() if isinstance(plan.activation, str) else plan.activation)
    built = expert.network.convs if expert else ()
    for i, conv in enumerate(plan.convs):
        yield from ("", "[[layers]]", _said("type", "conv"), *_named(draft, conv.weights))
        if expert:
            yield _said("stride", built[i].stride)
            if conv.padding:
                yield _said("padding", conv.padding)
        else:
            yield from _geometry(draft, i)
        yield from (_said("activation", x) for x in itertools.islice(activations, 1))
    for layer in plan.hidden:
        yield from ("", "[[layers]]", _said("type", "dense"), *_named(draft, layer))
        yield from (_said("activation", x) for x in itertools.islice(activations, 1))
    if plan.core:
        key, _, first = plan.core.input.weight.rpartition(".weight_ih")
        yield from ("", "[[layers]]", _said("type", plan.core.kind), _said("key", key))
        yield from [_said("layer", 0)] if first else []


def _geometry(draft: _Draft, index: int) -> Iterator[str]:
    """Stride and padding of one of the convolutions of a guess."""
    if not draft.fits.sizes:
        yield _asked("stride", 2, "no usual ones were found that agree with the dense layers")
        yield _asked("padding", 0, "zeros on every side")
        return
    (stride, padding), *others = draft.fits.steps[index]
    named = [f"{s} with padding {_toml(p)}" for s, p in others[:_MOST_NAMED]]
    more = " and others" if len(others) > _MOST_NAMED else ""
    told = f"also fit: {', '.join(named)}{more}, together with other layers" if named else ""
    yield _said("stride", stride, told)
    if padding:
        yield _said("padding", padding)


def _named(draft: _Draft, layer: Weights) -> Iterator[str]:
    for name, value in _table(layer).items():
        if name == "bias" and _unknown(draft, layer):
            yield _asked(name, value, _OR_ITS_NAME)
        else:
            yield _said(name, value)


def _unknown(draft: _Draft, layer: Weights) -> bool:
    """Whether a layer of a guess may have a bias, by a name that nothing is known of."""
    return draft.expert is None and layer.bias is None and not layer.weight.endswith(WEIGHTS)


def _table(layer: Weights) -> dict[str, Any]:
    """The fields that name a layer's tensors."""
    for to, end in ((named, ".weight"), (flax, ".kernel"), (noisy, ".weight_mu")):
        key = layer.weight.removesuffix(end)
        if key == layer.weight:
            continue
        fields = {"key": key} | ({"noisy": True} if to is noisy else {})
        if layer == to(key):
            return fields
        if layer.bias is None:
            return fields | {"bias": False}
    return {"weight": layer.weight, "bias": layer.bias or False}


def _keyed(draft: _Draft, name: str, *layers: Weights, listed: bool = False) -> str:
    """A field of the head that names a layer, or a list of them."""
    tables = [_table(layer) for layer in layers]
    keys = [table["key"] if table.keys() == {"key"} else table for table in tables]
    value = keys if listed else keys[0]
    if any(_unknown(draft, layer) for layer in layers):
        return _asked(name, value, f"bias: {_OR_ITS_NAME}")
    return _said(name, value)


def _head(draft: _Draft) -> Iterator[str]:
    plan = draft.plan
    yield from ("", "[head]")
    told = '"actor_critic" or "dueling"' if plan.value and not draft.expert else ""
    told = "its critic is left out: nothing asks it for values" if draft.critic else told
    yield _said("type", plan.head, told)
    if plan.action_hidden:
        yield _keyed(draft, "action_hidden", *plan.action_hidden, listed=True)
    yield _keyed(draft, "action", plan.action)
    if plan.value:
        if plan.value_hidden:
            yield _keyed(draft, "value_hidden", *plan.value_hidden, listed=True)
        yield _keyed(draft, "value", plan.value)
    if not isinstance(plan.activation, str) and (plan.action_hidden or plan.value_hidden):
        yield _said("activation", plan.activation[-1])
    if plan.support and plan.support.tensor:
        yield _said("support", plan.support.tensor)
    elif plan.support and plan.support.atoms:
        atoms = plan.support.atoms
        yield _said("atoms", [atoms.low, atoms.high, atoms.count])
    if plan.quantiles:
        yield _said("quantiles", plan.quantiles.count)
        yield _said("quantiles_first", plan.quantiles.first)
    if plan.fractions:
        yield _keyed(draft, "fractions", plan.fractions)
    if draft.expert is None and draft.outputs > 18:
        per = [n for n in (51, 200, 32, 64) if draft.outputs % n == 0] or [51]
        text = f"{draft.outputs} outputs: C51 has 51 returns an action"
        yield _asked("atoms", [-10, 10, per[0]], text)
        yield _asked("quantiles", per[-1], "QR-DQN has 200; quantiles_first = true if they are")
    if plan.statistics:
        yield from ("", "[statistics]")
        for field, value in dataclasses.asdict(plan.statistics).items():
            yield _said(field, value)
