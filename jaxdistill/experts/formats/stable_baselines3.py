"""Stable-Baselines3 archives: DQN, QR-DQN, PPO, RecurrentPPO, A2C and TRPO; PPO's skills.

An archive is a zip that holds `data`, a JSON object, and `policy.pth`, a PyTorch file. In `data`,
what JSON cannot hold is a base64 pickle (":serialized:") beside the strings and numbers found in
it. The pickles are never looked at; the strings and numbers are enough.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill import networks, tasks
from jaxdistill.experts import archives, limits, torch_file
from jaxdistill.experts.formats import skills
from jaxdistill.experts.formats.carried import Carried
from jaxdistill.experts.formats.conventions import (
    FIRE_RESET,
    NO_CRITIC,
    actions_of,
    check_plays,
    is_full,
    with_full_set,
)
from jaxdistill.experts.formats.kernels import Reader, tensor
from jaxdistill.experts.formats.layers import (
    Arrays,
    Conv,
    Plan,
    Quantiles,
    Weights,
    brief,
    named,
    recurrent,
)
from jaxdistill.experts.formats.skills import Space
from jaxdistill.tasks.atari import ATARI, USUAL, Rules
from jaxdistill.tasks.views import SCREEN, AnyView, Vector, View
from jaxdistill.text import one_line

_WEIGHTS, _DATA = "policy.pth", "data"

_ACTIVATIONS = {
    "ReLU": "relu",
    "ELU": "elu",
    "Tanh": "tanh",
    "LeakyReLU": "leaky_relu",
    "SiLU": "silu",
    "GELU": "gelu",
    "SELU": "selu",
    "Sigmoid": "sigmoid",
    "Identity": "none",
}
_VECTORS = "vectors go in as they are; VecNormalize statistics are not in this file"
_RAW_SCREEN = (
    "it sees the screen as it is, so that no AtariWrapper is assumed: no maximum over frames, no "
    "FIRE after a lost life; its environment's frame skip and sticky actions are not in this file"
)
_NUMBER = re.compile(r"[\[\s]*(-?\d+(?:\.\d*)?)")  # the first of an array that was printed
_UNSUPPORTED = {
    "actor.mu": "continuous actions",
    "actor.latent_pi": "continuous actions",
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a policy's tensors and its archive's data say.

    Attributes:
      game: its task, as it was given or as its spaces say.
      space: what it was trained in, if it plays a skill: see `skills.of_keys_and_angles`.
      log_std: of such a policy's outputs, where it has any.
      rules: how its own game is played, if that is one of Atari.
    """

    name: str
    plan: Plan
    outputs: str
    actions: tuple[int, ...]
    view: AnyView | None
    notes: tuple[str, ...]
    game: str | None = None
    space: Space | None = None
    log_std: tuple[float, ...] | None = None
    rules: Rules = USUAL


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip that holds a policy.pth."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _WEIGHTS in archive.namelist()
    except Exception:  # damage: whoever reads the file will say so
        return False


def read(path: str | os.PathLike[str]) -> tuple[torch_file.TorchFile, dict[str, Any]]:
    """The weights and the data of an archive.

    Raises:
      ValueError: it is damaged, or a member grows suspiciously when unpacked.
    """
    # What the file's size allows is for both, so that a bomb in a bomb comes to nothing.
    most = limits.allowed(os.path.getsize(path))
    weights, text = _members(path, (_WEIGHTS, _DATA), most)
    # A character may take 4 bytes, once in all the text and once in a string of it; a value 64.
    if 8 * len(text) + 64 * sum(map(text.count, (b",", b"[", b"{"))) > most:
        raise ValueError(
            f"{path}: its member {_DATA!r} would take over {most} bytes, more than a file of its "
            "size may; refusing to read it"
        )
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        reason = brief([f"{type(error).__name__}: {error}"])
        raise ValueError(f"{path}: its member {_DATA!r} is not JSON ({reason})") from error
    name = f"{path} ({_WEIGHTS})"
    file = torch_file.read(weights, name=name, max_bytes=min(torch_file.MAX_BYTES, most))
    return file, data if isinstance(data, dict) else {}


def _members(path: str | os.PathLike[str], names: Sequence[str], most: int) -> list[bytes]:
    """The contents of members, which may unpack to `most` bytes; nothing where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = [info for info in archive.infolist() if info.filename in names]
            archives.check_members(there, most)
            known = {info.filename for info in there}
            return [archives.read_member(archive, x) if x in known else b"" for x in names]
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from error
    except Exception as error:  # damage shows as almost any exception of zipfile or zlib
        reason = brief([f"{type(error).__name__}: {error}"])
        raise ValueError(f"{path}: a damaged Stable-Baselines3 archive ({reason})") from error


def is_policy(arrays: Arrays) -> bool:
    """Whether the tensors are named like those of a Stable-Baselines3 policy."""
    actor_critic = arrays.keys() >= {"action_net.weight", "value_net.weight"}
    return actor_critic or _q_network(arrays) is not None


def _q_network(arrays: Arrays) -> str | None:
    """What a policy calls its Q-network; None for an actor-critic."""
    known = ("q_net", "quantile_net")
    return next((q for q in known if any(x.startswith(f"{q}.{q}.") for x in arrays)), None)


def unsupported(arrays: Arrays) -> str | None:
    """What kind of Stable-Baselines3 policy it is that no `Network` can express, if it is one."""
    for prefix, kind in _UNSUPPORTED.items():
        if any(name.startswith(prefix) for name in arrays):
            return kind
    return None


def policy(
    arrays: Arrays,
    data: Mapping[str, Any] | None,
    game: str | None,
    where: str,
    said: Carried | None = None,
) -> Policy:
    """What a Stable-Baselines3 policy's tensors are.

    Args:
      data: the archive's JSON; None for tensors that came without it.
      game: its task, where somebody has said it.
      said: what the archive carries, if it is one of ours.

    Raises:
      ValueError: the policy is of a kind that no `Network` can express, or the file does not say
        all there is to know about it.
    """
    kwargs = _mapping(data, "policy_kwargs")
    _check_supported(arrays, kwargs, where)
    q_network = _q_network(arrays)
    plan, notes = _plan(arrays, q_network, where)
    name = (
        f"Stable-Baselines3 {_algorithm(plan, q_network, data)}, {'CNN' if plan.convs else 'MLP'}"
    )
    usual = "relu" if q_network else "tanh"
    activation = _activations(plan, kwargs, data, usual, where)
    space = _mapping(data, "observation_space")
    view = _seen(arrays, plan, space, game, said, where)
    raw = view is not None and _takes_levels(kwargs, space, where)
    plan = dataclasses.replace(plan, activation=activation, raw_pixels=raw)
    count = tensor(arrays, plan.action.weight, (None, None), where).shape[0]
    if q_network == "quantile_net":
        quantiles = _quantiles(kwargs, count, where)
        plan, count = dataclasses.replace(plan, quantiles=quantiles), count // quantiles.count
    trained = _trained_in(arrays, plan, data, view, count, where)
    outputs = "q" if q_network else "logits"
    found = Policy(name, plan, outputs, (), view, tuple(notes), game)
    # Two actions on nine numbers are a click, if the policy has logits.
    click = game is None and trained == skills.SPACES["combat/clicking"] and not q_network
    if trained.kind != "Discrete" or skills.is_skill(game) or click:
        return _skill(arrays, found, trained, said, where)
    return _of_one_action(found, trained, said, where)


def _check_supported(arrays: Arrays, kwargs: Mapping[str, Any], where: str) -> None:
    """Refuses policies of a kind that no `Network` can express."""
    if kind := unsupported(arrays):
        raise ValueError(f"{where}: a Stable-Baselines3 policy with {kind}, which is not supported")
    extractor = _class_name(kwargs.get("features_extractor_class", "NatureCNN"))
    if extractor not in ("NatureCNN", "FlattenExtractor"):
        raise ValueError(
            f"{where}: a Stable-Baselines3 policy with its own features extractor ({extractor}); "
            "describe it in a spec (--spec)"
        )


def _plan(arrays: Arrays, q_network: str | None, where: str) -> tuple[Plan, list[str]]:
    """Which tensors are which layer, and notes on what is left out.

    Raises:
      ValueError: tensors are missing, or there are others than a policy has.
    """
    plan, ignored, notes = _q_plan(arrays, q_network) if q_network else _actor_critic_plan(arrays)
    if extra := sorted(set(arrays) - set(plan.tensors()) - ignored):
        raise ValueError(
            f"{where}: a Stable-Baselines3 policy with tensors of an unknown kind: {brief(extra)}"
        )
    if missing := [name for name in plan.tensors() if name not in arrays]:
        raise ValueError(f"{where}: lacks {brief(missing)}; it has {brief(arrays)}")
    return plan, notes


def _algorithm(plan: Plan, q_network: str | None, data: Mapping[str, Any] | None) -> str:
    """What it was trained by, as far as its tensors and its archive tell."""
    if q_network:
        return "DQN" if q_network == "q_net" else "QR-DQN"
    return "RecurrentPPO" if plan.core else _actor_critic_name(data)


def _activations(
    plan: Plan,
    kwargs: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    usual: str,
    where: str,
) -> str | tuple[str, ...]:
    """The activation of all layers, or of each; `usual` is that of a policy that says none."""
    mlp = (*plan.action_hidden, *plan.value_hidden, *plan.hidden[bool(plan.convs) :])
    if not mlp:
        return "relu"
    chosen = _activation(kwargs, data, usual, where)
    if chosen == "relu" or not plan.convs:
        return chosen
    # NatureCNN, which ends in a dense layer, is always relu.
    return ("relu",) * (len(plan.convs) + 1) + (chosen,) * len(mlp)


def _seen(
    arrays: Arrays,
    plan: Plan,
    space: Mapping[str, Any],
    game: str | None,
    said: Carried | None,
    where: str,
) -> View | None:
    """What it sees of a screen, as the file carries it or its space says; None of vectors.

    Raises:
      ValueError: it sees what does not come to one row of numbers, or not in one known way.
    """
    kind = _class_name(space.get(":type:", "Box"))
    # Which place it is in, one-hot, as `gymnasium.spaces.flatten` has it too.
    places = kind in ("Discrete", "MultiDiscrete", "MultiBinary") and not plan.convs
    if kind != "Box" and not (places and game is not None and not skills.is_skill(game)):
        of_a_task = ", or to be read as the expert of a task that is seen so" if places else ""
        raise ValueError(f"{where}: sees a space of kind {brief([kind])}, expected Box{of_a_task}")
    if said and plan.convs:
        return _carried_view(said, game, where)
    return _view(arrays, plan, space, where)


def _trained_in(
    arrays: Arrays,
    plan: Plan,
    data: Mapping[str, Any] | None,
    view: View | None,
    count: int,
    where: str,
) -> Space:
    """The kind of its `count` actions, and how many numbers it sees, 0 of a screen.

    Raises:
      ValueError: the archive says other actions than the tensors are of.
    """
    space = _mapping(data, "action_space")
    noisy = "log_std" in arrays
    kind = _class_name(space.get(":type:", "Box" if noisy else "Discrete"))
    _check_actions(space, kind, count, where)
    if noisy != (kind == "Box"):
        has = "has" if noisy else "lacks"
        raise ValueError(f"{where}: acts in {kind}, but {has} log_std, the noise of a Box")
    return Space(kind, count, 0 if view else Reader(arrays, plan, where).inputs())


def _of_one_action(policy: Policy, trained: Space, said: Carried | None, where: str) -> Policy:
    """The policy as one that chooses one action of several, by the game's rules or its own."""
    view, game, notes = policy.view, policy.game, list(policy.notes)
    if game is not None:
        check_plays(view or Vector(trained.numbers), trained.size, game, where)
    if view is None and game is None:
        actions = tuple(range(trained.size))
        notes.append("outputs are the actions of its own environment, in its order")
    else:
        actions = actions_of(policy.name, trained.size, (), game, where)
    if view is None:
        notes.append(_VECTORS)
    if said:
        rules = said.rules
    elif game is not None and tasks.get(game).suite != ATARI:
        rules = USUAL
    else:
        rules = _rules(view, actions, game)
        if _is_raw_screen(view):
            notes.append(_RAW_SCREEN)
    return dataclasses.replace(policy, actions=actions, notes=tuple(notes), rules=rules)


def _rules(view: AnyView | None, actions: tuple[int, ...], game: str | None) -> Rules:
    """How its own game is played, where its archive does not carry that."""
    if view is None:
        return USUAL
    rules = USUAL if _is_raw_screen(view) else FIRE_RESET  # its AtariWrapper's
    return with_full_set(rules, is_full(actions, game), game)


def _is_raw_screen(view: AnyView | None) -> bool:
    """Whether it sees the screen as it is, which no AtariWrapper shows."""
    return isinstance(view, View) and (view.height, view.width) == SCREEN


def _takes_levels(kwargs: Mapping[str, Any], seen: Mapping[str, Any], where: str) -> bool:
    """Whether a network takes pixels of 0..255 as they are.

    Stable-Baselines3 divides bytes by 255 unless it is told not to. Fractions it leaves as the
    environment shows them, whatever it is told.
    """
    if not _text(seen.get("dtype")).startswith("float"):
        return kwargs.get("normalize_images") is False
    low, high = (_bound(seen, name) for name in ("low", "high"))
    if low not in (0, None) or high not in (1, 255):
        shown = f"{0 if low is None else low:g} to {math.inf if high is None else high:g}"
        raise ValueError(
            f"{where}: sees pixels that are fractions from {shown}, expected 0 to 1 or 0 to 255; "
            f"train it on such pixels, or rewrite its first layer for them"
        )
    return high == 255


def _bound(seen: Mapping[str, Any], name: str) -> float | None:
    """The first number of a space's lowest or highest values; None where it says none."""
    found = _NUMBER.match(_text(seen.get(f"{name}_repr")) or _text(seen.get(name)))
    return float(found[1]) if found else None


def _skill(
    arrays: Arrays, policy: Policy, trained: Space, said: Carried | None, where: str
) -> Policy:
    """The policy as one of a task of combat, that was trained in this space.

    Raises:
      ValueError: it plays none, or what the file carries of its view is not of these numbers.
    """
    log_std = arrays.get("log_std")
    if log_std is not None and log_std.ndim != 1:
        raise ValueError(
            f"{where}: log_std has shape {log_std.shape}, that of noise which depends on the state "
            f"(use_sde); expected ({trained.size},)"
        )
    view = said.view(policy.game, where) if said else None
    if view is not None and view.shape[-1] != trained.numbers:
        raise ValueError(f"{where}: a policy of {trained}, and the file says that it sees {view}")
    game = skills.task_of(trained, policy.game, where, own_view=view is not None)
    if policy.plan.head != "actor_critic" and not policy.plan.core:
        raise ValueError(f"{where}: {policy.name} does not play {game}; expected PPO or A2C")
    task = tasks.get(game)
    notes = [_VECTORS]
    if policy.game is None:
        notes.append(f"its task, {game}, is the one that is played in {trained}")
    if log_std is not None:
        notes.append("its angles are read as radians to turn by in a tick")
        log_std = tensor(arrays, "log_std", (trained.size,), where)
    return dataclasses.replace(
        policy,
        actions=task.actions,
        view=view or skills.view_of(game, trained.numbers),
        notes=tuple(notes),
        game=game,
        space=trained,
        log_std=None if log_std is None else tuple(log_std.tolist()),
    )


def _quantiles(kwargs: Mapping[str, Any], count: int, where: str) -> Quantiles:
    """A quantile head of so many outputs; sb3-contrib has the quantiles first, 200 by default."""
    number = kwargs.get("n_quantiles", 200)
    if type(number) is not int or number < 1 or count % number:
        shown = brief([str(number)[:40]])
        raise ValueError(f"{where}: {count} outputs are not {shown} quantiles for each action")
    return Quantiles(number, first=True)


def _q_plan(arrays: Arrays, network: str) -> tuple[Plan, set[str], list[str]]:
    convs, hidden = _extractor(arrays, f"{network}.features_extractor.")
    prefix = f"{network}.{network}."
    layers = _sequence(arrays, prefix) or [named(f"{prefix}0")]
    plan = Plan(convs=convs, hidden=(*hidden, *layers[:-1]), action=layers[-1])
    return plan, {name for name in arrays if name.startswith(f"{network}_target.")}, []


def _actor_critic_plan(arrays: Arrays) -> tuple[Plan, set[str], list[str]]:
    prefixes = ("features_extractor.", "pi_features_extractor.", "vf_features_extractor.")
    tensors = [
        {name.removeprefix(p): arrays[name] for name in arrays if name.startswith(p)}
        for p in prefixes
    ]
    base, actor, critic = tensors
    prefix = prefixes[1] if actor else prefixes[0]
    convs, hidden = _extractor(arrays, prefix)
    shared = _sequence(arrays, "mlp_extractor.shared_net.")
    plan = Plan(
        convs=convs,
        hidden=(*hidden, *shared),
        head="actor_critic",
        action_hidden=tuple(_sequence(arrays, "mlp_extractor.policy_net.")),
        action=named("action_net"),
        value_hidden=tuple(_sequence(arrays, "mlp_extractor.value_net.")),
        value=named("value_net"),
    )
    # The same module is listed under each name it goes by. The noise of angles is no layer.
    ignored = {"log_std"} | {
        name for p in prefixes if p != prefix for name in arrays if name.startswith(p)
    }
    if any(name.startswith("lstm_actor.") for name in arrays):
        own = ("value_net.", "mlp_extractor.value_net.", "lstm_critic.", "critic.")
        ignored |= {name for name in arrays if name.startswith(own)}
        plan = dataclasses.replace(
            plan,
            head="linear",
            value_hidden=(),
            value=None,
            core=recurrent("lstm", "lstm_actor", "_l0"),
        )
        return plan, ignored, [NO_CRITIC]
    if not _same(critic, actor or base) and critic:
        ignored |= {n for n in arrays if n.startswith(("value_net.", "mlp_extractor.value_net."))}
        plan = dataclasses.replace(plan, head="linear", value_hidden=(), value=None)
        return plan, ignored, ["the critic has a features extractor of its own and is left out"]
    return plan, ignored, []


def _same(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def _extractor(arrays: Arrays, prefix: str) -> tuple[tuple[Conv, ...], tuple[Weights, ...]]:
    """The layers of a NatureCNN; none for the extractor that only flattens."""
    if not any(name.startswith(prefix) for name in arrays):
        return (), ()
    convs = tuple(
        Conv(named(f"{prefix}cnn.{2 * i}"), layer.stride, layer.kernel)
        for i, layer in enumerate(networks.NATURE_CONVS)
    )
    return convs, (named(f"{prefix}linear.0"),)


def _sequence(arrays: Arrays, prefix: str) -> list[Weights]:
    """The layers of a Sequential, in order."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,6})\.weight")
    found = sorted(int(match[1]) for name in arrays if (match := pattern.fullmatch(name)))
    return [named(f"{prefix}{i}") for i in found]


def _text(value: Any) -> str:
    """The beginning of a text; none of what is another value."""
    return value[:100] if isinstance(value, str) else ""


def _mapping(data: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    value = (data or {}).get(key)
    return value if isinstance(value, dict) else {}


def _class_name(text: Any) -> str:
    """ "ReLU" from "<class 'torch.nn.modules.activation.ReLU'>"."""
    words = re.findall(r"\w+", text[:1000] if isinstance(text, str) else "")
    return words[-1] if words else "unknown"


def _activation(
    kwargs: Mapping[str, Any], data: Mapping[str, Any] | None, usual: str, where: str
) -> str:
    if data is None:
        raise ValueError(
            f"{where}: a Stable-Baselines3 policy without its archive, so the activation of its "
            "dense layers is not known; give the .zip, or a spec (--spec)"
        )
    given = kwargs.get("activation_fn")
    if given is None:
        return usual
    name = _class_name(given)
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"{where}: activation_fn is {brief([name])}, expected one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _actor_critic_name(data: Mapping[str, Any] | None) -> str:
    if data and "n_epochs" in data:
        return "PPO"
    if data and "cg_max_steps" in data:
        return "TRPO"
    return "A2C" if data and "n_steps" in data else "PPO or A2C"


def _view(arrays: Arrays, plan: Plan, space: Mapping[str, Any], where: str) -> View | None:
    shape = space.get("_shape")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        shape = []
    if not plan.convs:
        image = len(shape) == 3 and str(space.get("dtype")).endswith("uint8")
        return _screen(shape, where) if image else None
    kernel = arrays[plan.convs[0].weights.weight].shape
    channels = kernel[1] if len(kernel) == 4 and kernel[1] else 4
    if not shape:
        return _screen((channels, View.height, View.width), where)
    if len(shape) != 3:
        raise ValueError(f"{where}: has convolutions, but its observations have shape {shape}")
    if shape[0] != channels and shape[2] == channels:  # the archive says (H, W, C)
        shape = [shape[2], *shape[:2]]
    return _screen(shape, where)


def _carried_view(said: Carried, game: str | None, where: str) -> View:
    view = said.view(game, where)
    if not isinstance(view, View):
        raise ValueError(f"{where}: has convolutions, but carries that it sees {view}")
    return view


def _screen(shape: Sequence[int], where: str) -> View:
    """The view of observations `(C, H, W)`: gray frames, or whole screens as they are shown.

    `VecFrameStack` puts the newest frame's channels last, as `View` has them.
    """
    channels, height, width = shape
    is_colour = channels % 3 == 0
    if (height, width) == SCREEN and is_colour:
        return View(height, width, channels // 3, gray="none", maximum="none")
    if (height, width) == SCREEN:
        return View(height, width, channels, maximum="none")
    if is_colour:
        raise ValueError(
            f"{where}: sees {channels} channels of {height}x{width}, which are as many gray frames "
            f"or {channels // 3} in colour; describe it in a spec (--spec) that says gray and stack"
        )
    return View(height, width, channels)


def _check_actions(space: Mapping[str, Any], kind: str, count: int, where: str) -> None:
    """Refuses actions of another number than the outputs, or of a kind that has no outputs each."""
    if kind not in ("Discrete", "MultiBinary", "Box"):
        expected = "Discrete, MultiBinary or Box"
        raise ValueError(f"{where}: acts in a space of kind {brief([kind])}, expected {expected}")
    said = space.get("_shape", [count]) if kind == "Box" else space.get("n", count)
    if kind == "Box" and isinstance(said, list) and len(said) == 1:
        (said,) = said
    number = str(said)[:100]
    if number != str(count):
        raise ValueError(f"{where}: says {brief([number])} actions, but has {count} outputs")
