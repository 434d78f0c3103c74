"""Which convention, or which policy of Stable-Baselines3, a file's tensors are named by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdistill import networks, tasks
from jaxdistill.experts.formats import (
    building,
    carried,
    conventions,
    places,
    signs,
    skills,
    stable_baselines3,
)
from jaxdistill.experts.formats.layers import Arrays, Plan, brief
from jaxdistill.experts.formats.places import Found
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.combat import COMBAT
from jaxdistill.tasks.lander import LANDER
from jaxdistill.tasks.views import AnyView


class Contents(NamedTuple):
    """A file's tensors, and what is known beside them.

    Attributes:
      found: the state_dicts that are in it.
      tree: all that is in it.
      data: of a Stable-Baselines3 archive.
      said: what it carries, if it is one of ours.
      arguments: what its program was called with, see `beside.arguments`.
      game: its task, where anything says it.
    """

    path: str
    found: Found
    tree: Any
    data: dict[str, Any] | None
    said: carried.Carried | None
    arguments: Mapping[str, Any]
    game: str | None


class Recognised(NamedTuple):
    """What tensors are by their names.

    Attributes:
      name: of their convention.
      place: where in the file they are.
      arrays: they, by the names that the convention has.
      notes: what it has to say, as `Conversion.notes`.
      outputs, actions, view, game, rules, log_std: as those of an `Expert`; no view stands for a
        vector of as many numbers as the first layer takes.
    """

    name: str
    place: str
    arrays: Arrays
    plan: Plan
    built: building.Built
    notes: tuple[str, ...]
    outputs: str
    actions: tuple[int, ...]
    view: AnyView | None
    game: str | None
    rules: Rules
    log_std: tuple[float, ...] | None = None


def recognise(contents: Contents) -> Recognised:
    """What the names of a file's tensors say: they are a convention's, or Stable-Baselines3's.

    Raises:
      ValueError: they are of no known kind, or several state_dicts are.
    """
    path, found = contents.path, contents.found
    if named := places.matches(found, conventions.matching):
        place = places.only(path, {place: arrays for place, (_, arrays) in named.items()})
        convention, arrays = named[place]
        return _of_convention(contents, place, convention, arrays)
    if policies := places.matches(found, lambda arrays, _: stable_baselines3.is_policy(arrays)):
        place = places.only(path, {place: arrays for place, (_, arrays) in policies.items()})
        _, arrays = policies[place]
        return _of_policy(contents, place, arrays)
    if contents.data is not None:
        arrays = max(found.values(), key=len)
        kind = stable_baselines3.unsupported(arrays) or brief(arrays)
        raise ValueError(
            f"{path}: a Stable-Baselines3 archive with {kind}, expected the policy of a DQN, "
            "QR-DQN, PPO or A2C"
        )
    raise ValueError(_unknown(path, found))


def _of_convention(
    contents: Contents, place: str, convention: conventions.Convention, arrays: Arrays
) -> Recognised:
    """The network of a convention."""
    said, game, where = contents.said, contents.game, places.where(contents.path, place)
    convention = conventions.with_arguments(convention, contents.arguments, where)
    view = said.view(game, where) if said else _usual_view(convention, arrays, game)
    built = building.build(arrays, convention.plan, view, where)
    name, notes = _beside(convention, contents.tree, game)
    if convention.suite == LANDER.name:
        built = _one_lander(built, convention, game, where)
    count = built.network.num_outputs
    if game is not None:
        view = view or skills.view_of(game, built.vector.size)
        conventions.check_plays(view, count, game, where)
    actions = conventions.actions_of(name, count, convention.actions, game, where)
    rules = conventions.rules_of(convention, actions, game, contents.path, contents.arguments)
    return Recognised(
        name,
        place,
        arrays,
        convention.plan,
        built,
        notes,
        outputs=said.outputs if said else convention.outputs,
        actions=actions,
        view=view,
        game=game,
        rules=said.rules if said else rules,
    )


def _usual_view(
    convention: conventions.Convention, arrays: Arrays, game: str | None
) -> AnyView | None:
    """What networks of a convention see; None of vectors, whose length their first layer says."""
    if convention.suite == COMBAT.name and game is not None:
        return COMBAT.views[0][1]  # what students see
    if not convention.plan.first_conv:
        return None
    return dataclasses.replace(convention.view, stack=convention.plan.channels(arrays))


def _of_policy(contents: Contents, place: str, arrays: Arrays) -> Recognised:
    """The network of a policy of Stable-Baselines3."""
    where = places.where(contents.path, place)
    policy = stable_baselines3.policy(arrays, contents.data, contents.game, where, contents.said)
    built = building.build(arrays, policy.plan, policy.view, where)
    if policy.game is not None and policy.space is not None:
        built = skills.of_keys_and_angles(built, policy.game, policy.space, policy.log_std)
    return Recognised(
        policy.name,
        place,
        arrays,
        policy.plan,
        built,
        policy.notes,
        outputs=policy.outputs,
        actions=policy.actions,
        view=policy.view,
        game=policy.game,
        rules=policy.rules,
        log_std=policy.log_std,
    )


def _one_lander(
    built: building.Built, convention: conventions.Convention, game: str | None, where: str
) -> building.Built:
    """What plays `game` of a file of landers.

    A network with an embedding knows its task by a vector beside the state. The task's own is the
    same in every step, so it becomes part of the first layer's bias: an expert stays a function of
    what it sees.

    Raises:
      ValueError: `game` is missing or none of the file's, or nothing says which row is whose.
    """
    network = built.network
    landers = convention.tasks or tuple(n for n in tasks.names() if n.startswith("lander/"))
    rows = len(network.game_actions)
    if rows > 1 and rows != len(convention.tasks):
        raise ValueError(
            f"{where}: its task_embedding has {rows} rows and does not say whose they are; "
            f"expected {len(landers)}, for {', '.join(landers)}, or one"
        )
    if game is None or (rows > 1 and game not in landers):
        what = (
            f"one network for {rows} tasks" if rows > 1 else "a network that does not say its task"
        )
        raise ValueError(f"{where}: holds {what}; give --game, one of {', '.join(landers)}")
    if not rows:
        if built.vector.size == 2 * LANDER.view.shape[-1]:
            raise ValueError(
                f"{where}: fc1 takes {built.vector.size} numbers, those of a state and of its "
                f"task's vector, but task_embedding.weight is not in the file"
            )
        return built
    index = landers.index(game) if rows > 1 else 0
    network, params, _ = networks.for_one_game(network, built.params, index)
    note = f"its vector for {game} is now part of the bias of fc1: an expert plays one task"
    return building.Built(network, params, built.layers, (*built.notes, note))


def _beside(
    convention: conventions.Convention, tree: Any, game: str | None
) -> tuple[str, tuple[str, ...]]:
    """The convention's name and notes, from what lies beside the state_dict."""
    beside = tree if isinstance(tree, dict) else {}
    notes = list(convention.notes)
    name = convention.name
    if convention.name.startswith("reference") and "architecture" in beside:
        name = name.replace("reference", "reference merged")
        listed = beside.get("games")
        if isinstance(listed, (list, tuple)) and listed:
            named = [item for item in listed if isinstance(item, str)]
            notes.append(f"a student of several games: {brief(named)}")
    valid = beside.get("valid_actions")
    if convention.name.startswith("CRL-Atari") and isinstance(valid, list):
        union = conventions.UNION_ACTIONS
        if len(valid) <= len(union) and all(type(i) is int and 0 <= i < len(union) for i in valid):
            notes.append(f"its game's valid actions: {[union[i] for i in valid]}")
    if game is None:
        notes.append("the file does not say which game it plays")
    return name, tuple(notes)


def _unknown(path: str, found: Found) -> str:
    """The line for a file of no known convention: what it holds, and what a spec has to say."""
    place = places.likeliest(found)
    arrays = found[place]
    where = places.where(path, place)
    looks = ((prefix, conventions.nearly(inner)) for prefix, inner in places.peeled(arrays))
    prefix, near = next((look for look in looks if look[1]), ("", None))
    # What the convention that it resembles has itself is no sign of another network.
    names = [prefix + x for x in near.others] if near else arrays
    if reason := signs.not_plain(signs.among(names, arrays)):
        return f"{where}: {reason}"
    kernels = {name: array.shape for name, array in arrays.items() if array.ndim in (2, 4)}
    if not kernels:
        return f"{where}: holds no layers; found {brief(arrays)}"
    missing = "activation, outputs, actions, [[layers]] in order and [head]"
    if any(len(shape) == 4 for shape in kernels.values()):
        missing = f"stride and padding of each convolution, [view], pixels, {missing}"
    seen = brief(f"{name} {'x'.join(map(str, shape))}" for name, shape in kernels.items())
    why = near.text if near else "follows no known convention"
    return (
        f"{where}: {why}; give a spec (--spec; --spec_template begins one) with {missing}; "
        f"found {seen}"
    )
