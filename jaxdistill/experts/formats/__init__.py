"""Other people's checkpoints -> `Expert`.

`convert` reads a file once, recognises whose convention its names follow, and says what it found;
`load` is for those who only want the expert. What names cannot tell, a spec does (see `spec`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill import networks, shipped, tasks
from jaxdistill.experts import hub, state_dicts, student, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import beside as besides
from jaxdistill.experts.formats import (
    building,
    carried,
    conventions,
    places,
    published,
    signs,
    skills,
    stable_baselines3,
)
from jaxdistill.experts.formats import spec as specs
from jaxdistill.experts.formats.building import Layer
from jaxdistill.experts.formats.layers import Arrays, Plan, brief
from jaxdistill.experts.formats.places import Found
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.combat import COMBAT
from jaxdistill.tasks.lander import LANDER
from jaxdistill.tasks.views import AnyView, Vector, View

__all__ = ["COLUMNS", "Conversion", "convert", "load"]

COLUMNS = ("layer", "in the file", "kind", "inputs, outputs", "kernel", "activation", "parameters")

_STUDENT, _CONVERTED = "student", "converted before"  # conventions of our own directories


@dataclasses.dataclass(frozen=True)
class Conversion:
    """An expert, and what there is to say about where it came from.

    Attributes:
      convention: name of the recognised convention.
      layers: one row per layer; empty for an expert that had been converted before.
      skipped: objects in the file that are neither tensors nor plain data, and were not made.
      notes: sentences a person should read: what was left out, what was assumed.
      doubts: those of them that hint at a mistake: a name that says another game than was asked.
      plan: which tensors form which layer, by their names in the file; None for an expert that had
        been converted before.
      place: where in the file they are.
    """

    expert: Expert
    convention: str
    layers: tuple[Layer, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    plan: Plan | None = None
    place: str = ""

    def rows(self) -> list[tuple[object, ...]]:
        """The layer table, one tuple per layer, in the order of `COLUMNS`."""
        return [
            (row.name, row.key, row.kind, row.shape, row.kernel, row.activation, row.parameters)
            for row in self.layers
        ]


class Contradicted(ValueError):
    """What lies beside a file says that its expert is another, or saw what cannot be shown."""


class _Hint(NamedTuple):
    """A game that is said elsewhere than in a file, what says so, and whether it is sure."""

    game: str | None
    source: str
    sure: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A file or a directory, fetched and read, to be converted as often as one likes.

    Attributes:
      path: where it is on this machine.
      hint: the game where neither the file nor anybody says it.
      file: what a file holds; None of a directory.
      data: of a Stable-Baselines3 archive.
      found: the state_dicts that are in a file.
      address: where it is on the hub, with the commit; None of what is this machine's.
      told: what is said of it there.
    """

    path: pathlib.Path
    hint: _Hint
    file: torch_file.TorchFile | None = None
    data: dict[str, Any] | None = None
    found: Found = dataclasses.field(default_factory=dict)
    address: hub.Address | None = None
    told: published.RepositoryInfo = dataclasses.field(default_factory=published.RepositoryInfo)

    @property
    def name(self) -> str:
        """What messages call it, who need not know where the cache has it."""
        return str(self.address or self.path)


def load(
    path: str | os.PathLike[str] | Opened,
    *,
    spec: str | os.PathLike[str] | specs.Spec | None = None,
    game: str | None = None,
) -> Expert:
    """The expert in a PyTorch file, or in a directory that `Expert.save` wrote; see `convert`."""
    return convert(path, spec=spec, game=game).expert


def convert(
    path: str | os.PathLike[str] | Opened,
    *,
    spec: str | os.PathLike[str] | specs.Spec | None = None,
    game: str | None = None,
) -> Conversion:
    """Reads an expert.

    Args:
      path: a PyTorch file of a known convention, of any other with a `spec`, a directory that
        `Expert.save` wrote, or one of these on the hub: see `hub`; or what was `opened` there.
      spec: path of a TOML file that describes the state_dict, or its address on the hub; or what
        was read there.
      game: its game, where file, spec or directory do not say. Where nothing says it, a file
        called after a game (`pong.pth`, `space_invaders_dqn.pt`, `dqn-PongNoFrameskip-v4.zip`), or
        in a folder called so, plays it.

    Raises:
      FileNotFoundError: no such file, or no expert in the directory.
      ValueError: one line on what keeps it from being read: the file is damaged or dangerous,
        follows no known convention, has tensors missing or of wrong shape, or is of another game.
    """
    game = None if game is None else tasks.get(game).name
    described = spec if spec is None or isinstance(spec, specs.Spec) else specs.read(spec_at(spec))
    source = path if isinstance(path, Opened) else opened(path)
    with _called(source):
        found = _read(source, described, game)
        _check_told(source.told, found.expert)
    if source.address is None:
        return found
    return _published(found, source.address, source.told, described)


def spec_at(spec: str | os.PathLike[str]) -> pathlib.Path:
    """Where a spec is on this machine, which is fetched if it is the hub's."""
    return hub.fetch_file(spec, specs.MAX_BYTES) if hub.is_address(spec) else shipped.found(spec)


def opened(path: str | os.PathLike[str]) -> Opened:
    """What `convert` reads, fetched and read.

    Raises:
      FileNotFoundError, ValueError: it cannot be read, or a file holds no tensors.
    """
    if not str(path):
        raise ValueError("no expert's file is given, but an empty path; give one, or a directory")
    address: hub.Address | None = None
    told = published.RepositoryInfo()
    if hub.is_address(path):
        place, address, texts = hub.fetch(path)
        told = published.read(texts, address.repository)
    else:
        place = shipped.found(path)
    hint = _Hint(told.game, told.game_from, not told.by_name)
    if told.game is None:
        hint = _Hint(*besides.game_in_names(place))
    elif told.by_name and address is not None:
        inside = _Hint(*besides.game_in_names(pathlib.Path("/", address.path)))
        hint = inside if inside.game else hint  # it is nearer to the expert
    source = Opened(place, hint, address=address, told=told)
    if place.is_dir():
        return source
    data: dict[str, Any] | None = None
    with _called(source):
        if stable_baselines3.is_archive(place):
            file, data = stable_baselines3.read(place)
        else:
            file = torch_file.read(place)
        try:
            found = state_dicts.find(file.tree)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if not any(found.values()):
            raise ValueError(f"{place}: holds no tensors; expected a state_dict")
    return dataclasses.replace(source, file=file, data=data, found=found)


@contextlib.contextmanager
def _called(source: Opened) -> Iterator[None]:
    """Has errors call what is the hub's by its address."""
    try:
        yield
    except (OSError, ValueError) as error:
        if source.address is None:
            raise
        kinds: tuple[type[Exception], ...] = (FileNotFoundError, Contradicted, ValueError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), ValueError)
        raise kind(str(error).replace(str(source.path), source.name)) from error


def _published(
    found: Conversion,
    address: hub.Address,
    told: published.RepositoryInfo,
    described: specs.Spec | None,
) -> Conversion:
    """What was read of a repository of the hub, with what is said of it there."""
    expert = found.expert
    changes: dict[str, Any] = {"source": str(address)}
    if found.convention not in (_STUDENT, _CONVERTED) and (described is None or not described.name):
        changes["name"] = address.repository.rpartition("/")[2]
    if expert.advertised_score is None:
        changes["advertised_score"] = told.scores.get(str(expert.game))
    notes = list(found.notes)
    if changes.get("advertised_score") is not None:
        notes.append(f"its repository claims a mean score of {changes['advertised_score']:g}")
    own = described is None and found.convention not in (_STUDENT, _CONVERTED)
    if told.rules and isinstance(expert.view, View) and (own or expert.rules == USUAL):
        # It knows more than the convention.
        notes = [note for note in notes if not note.startswith("its own game is ")]
        rules = conventions.with_full_set(
            Rules(**told.rules), expert.rules.full_actions, expert.game
        )
        changes["rules"] = rules
        if rules != USUAL:
            notes.append(f"its own game, by its repository: {rules.differences_from(USUAL)}")
    if told.wrappers:
        notes.append(f"trained behind {', '.join(told.wrappers)}, which may change what it sees")
    expert = dataclasses.replace(expert, **changes)
    return dataclasses.replace(found, expert=expert, notes=tuple(notes))


def _check_told(told: published.RepositoryInfo, expert: Expert) -> None:
    """Refuses an expert that sees what cannot be shown to it, by what lies beside it."""
    if told.normalised:
        raise Contradicted(
            f"{expert.source}: config.yml says that what it sees was normalised, by numbers in "
            f"vec_normalize.pkl, which is not read; expected an expert without"
        )
    stack = told.stack
    if stack is not None and isinstance(expert.view, View) and stack != expert.view.stack:
        raise Contradicted(
            f"{expert.source}: config.yml says frame_stack {stack}, and its network takes "
            f"{expert.view.stack} frames; expected the config of this file"
        )


def _read(source: Opened, described: specs.Spec | None, game: str | None) -> Conversion:
    """What this machine has of it; raises as `convert` does."""
    path, file, data, found = source.path, source.file, source.data, source.found
    if file is None:
        if described:
            raise ValueError(f"{path}: is a directory; a spec describes a file, expected a file")
        if student.is_student(path):
            return Conversion(student.Student.load(path).expert(game), _STUDENT)
        expert = Expert.load(path)
        game = _agreed(game, (expert.game,), str(path))
        return Conversion(dataclasses.replace(expert, game=game), _CONVERTED)
    if described:
        game = _agreed(game, (described.game,), described.path)
        conversion = _by_spec(str(path), found, described, game)
    else:
        said = carried.read(file.tree if data is None else data, str(path))
        arguments = besides.arguments(file.tree, path)
        games = tuple(said.views) if said else besides.games(file.tree, arguments)
        hinted, by, sure = source.hint
        if sure and not any(games) and game not in (None, hinted):
            raise Contradicted(
                f"{path}: {by} says {hinted}, and {game} was asked for; name its own game, or "
                f"none; a spec (--spec) may say another"
            )
        game = _agreed(game, games, str(path))
        if game is None and any(games) and hinted not in games:
            hinted = None  # a file of several games, which it lists
        conversion = _by_names(str(path), found, file.tree, data, game or hinted, said, arguments)
        if hinted and hinted != game:
            note = f"its game, {hinted}, is taken from {by}"
            if game:
                note = f"{by} says {hinted}; it is read as an expert of {game}"
            asked = game is not None and not any(games)
            conversion = dataclasses.replace(
                conversion,
                notes=(*conversion.notes, note),
                doubts=(note,) if asked else (),
            )
    return dataclasses.replace(conversion, skipped=file.skipped)


def _agreed(asked: str | None, said: Sequence[str | None], who: str) -> str | None:
    """The game that was asked for, or that a file says itself.

    Args:
      said: the games that it names, None where it names none.

    Raises:
      ValueError: it is an expert of other games than the one that was asked for.
    """
    games = [game for game in said if game is not None]
    if asked is not None and games and asked not in games:
        raise ValueError(
            f"{who}: plays {brief(games)}, and {asked} was asked for; name its own game, or none"
        )
    return asked or (games[0] if len(games) == 1 else None)


def _by_spec(path: str, found: Found, spec: specs.Spec, game: str | None) -> Conversion:
    place = places.described(path, found, spec)
    arrays = found[place]
    where = _where(path, place)
    for weights in spec.plan.layers():
        key = weights.weight.removesuffix("_mu").removesuffix(".weight")
        biases = (f"{key}.bias", f"{key}.bias_mu")
        if weights.bias is None and (bias := next((x for x in biases if x in arrays), None)):
            raise ValueError(
                f"{spec.path}: {weights.key}: found bias = false, but {where} has {bias}"
            )
    view = specs.view_of(spec, spec.plan.channels(arrays))
    built = building.build(arrays, spec.plan, view, where)
    unused = sorted(set(arrays) - set(spec.plan.tensors()))
    _check_aside(spec, arrays, where)
    hint = f"if it does not play, list it under aside in {spec.path}"
    # Beside a cell that plays, another is its critic's.
    cells = [n for n in unused if "weight_hh" in n and not n.startswith(spec.aside)]
    if cells and not spec.plan.core:
        raise ValueError(
            f"{where}: {brief(cells)} is of a recurrent cell; describe it as one of [[layers]], of "
            f"type {' or '.join(networks.CELLS)}; {hint}"
        )
    if reason := signs.not_plain(signs.left_out(spec.plan, arrays, spec.aside)):
        raise ValueError(f"{where}: {reason}; {hint}")
    expert = Expert(
        name=spec.name or pathlib.Path(path).stem,
        network=built.network,
        params=built.params,
        outputs=spec.outputs,
        actions=specs.actions_of(spec, built.network.num_outputs, game),
        view=view or skills.view_of(game, _vector(built).size),
        game=game,
        advertised_score=spec.advertised_score,
        source=path,
        rules=spec.rules,
    )
    notes = [*built.notes, *_unused(unused), *places.elsewhere(found, place)]
    return Conversion(
        expert,
        f"spec {spec.path}",
        built.layers,
        notes=tuple(notes),
        plan=spec.plan,
        place=place,
    )


def _check_aside(spec: specs.Spec, arrays: Arrays, where: str) -> None:
    """Refuses names left aside that are of a layer of the spec, or of nothing in the file."""
    used = set(spec.plan.tensors())
    for prefix in spec.aside:
        names = [name for name in arrays if name.startswith(prefix)]
        if playing := [name for name in names if name in used]:
            raise ValueError(
                f"{spec.path}: aside: found {brief([prefix])}, but {brief(playing[:1])} is of a "
                f"layer that plays; expected names that no layer has"
            )
        if not names:
            raise ValueError(
                f"{spec.path}: aside: found {brief([prefix])}, but no tensor of {where} begins so; "
                f"expected those of {brief(sorted(set(arrays) - used)) or 'none: all are used'}"
            )


def _by_names(
    path: str,
    found: Found,
    tree: Any,
    data: dict[str, Any] | None,
    game: str | None,
    said: carried.Carried | None,
    arguments: Mapping[str, Any],
) -> Conversion:
    view: AnyView | None
    notes: tuple[str, ...]
    log_std: tuple[float, ...] | None = None
    if named := places.matches(found, conventions.matching):
        place = places.only(path, {place: arrays for place, (_, arrays) in named.items()})
        convention, arrays = named[place]
        where = _where(path, place)
        convention = conventions.with_arguments(convention, arguments, where)
        view = None
        if convention.plan.first_conv:
            stack = convention.plan.channels(arrays)
            view = dataclasses.replace(convention.view, stack=stack)
        if convention.suite == COMBAT.name and game is not None:
            view = COMBAT.views[0][1]  # what students see
        view = said.view(game, where) if said else view
        plan = convention.plan
        built = building.build(arrays, plan, view, where)
        name, notes = _beside(convention, tree, game)
        if convention.suite == LANDER.name:
            built = _one_lander(built, convention, game, where)
        count = built.network.num_outputs
        if game is not None:
            view = view or skills.view_of(game, _vector(built).size)
            conventions.check_plays(view, count, game, where)
        actions = conventions.actions_of(name, count, convention.actions, game, where)
        outputs = said.outputs if said else convention.outputs
        rules = conventions.rules_of(convention, actions, game, path, arguments)
        rules = said.rules if said else rules
    elif policies := places.matches(found, lambda arrays, _: stable_baselines3.is_policy(arrays)):
        place = places.only(path, {place: arrays for place, (_, arrays) in policies.items()})
        _, arrays = policies[place]
        where = _where(path, place)
        policy = stable_baselines3.policy(arrays, data, game, where, said)
        plan = policy.plan
        built = building.build(arrays, plan, policy.view, where)
        if policy.game is not None and policy.space is not None:
            built = skills.of_keys_and_angles(built, policy.game, policy.space, policy.log_std)
        name, notes, game = policy.name, policy.notes, policy.game
        actions, outputs, view = policy.actions, policy.outputs, policy.view
        log_std, rules = policy.log_std, policy.rules
    elif data is not None:
        arrays = max(found.values(), key=len)
        kind = stable_baselines3.unsupported(arrays) or brief(arrays)
        raise ValueError(
            f"{path}: a Stable-Baselines3 archive with {kind}, expected the policy of a DQN, "
            "QR-DQN, PPO or A2C"
        )
    else:
        raise ValueError(_unknown(path, found))
    expert = Expert(
        name=pathlib.Path(path).stem,
        network=built.network,
        params=built.params,
        outputs=outputs,
        actions=actions,
        view=view or _vector(built),
        game=game,
        source=path,
        log_std=log_std,
        rules=rules,
        teacher_view=said.teacher_views.get(game) if said else None,
    )
    own = rules.differences_from(USUAL)
    trained = [f"its own game is {name}'s: {own}; --rules says otherwise"] if own else []
    notes = (*built.notes, *notes, *trained, *places.elsewhere(found, place))
    # By the names that the file has.
    names = {id(array): name for name, array in found[place].items()}
    plan = plan.renamed({name: names[id(array)] for name, array in arrays.items()})
    return Conversion(expert, name, built.layers, notes=notes, plan=plan, place=place)


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
        if _vector(built).size == 2 * LANDER.view.shape[-1]:
            raise ValueError(
                f"{where}: fc1 takes {_vector(built).size} numbers, those of a state and of its "
                f"task's vector, but task_embedding.weight is not in the file"
            )
        return built
    index = landers.index(game) if rows > 1 else 0
    network, params, _ = networks.for_one_game(network, built.params, index)
    note = f"its vector for {game} is now part of the bias of fc1: an expert plays one task"
    return building.Built(network, params, built.layers, (*built.notes, note))


def _vector(built: building.Built) -> Vector:
    """What a network on vectors sees."""
    first = networks.first_dense(built.network)[0]
    return Vector(built.params["params"][first]["kernel"].shape[0])


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


def _where(path: str, place: str) -> str:
    return f"{path} ({brief([place])})" if place else path


def _unused(names: list[str]) -> list[str]:
    return [f"tensors not used: {brief(names)}"] if names else []


def _unknown(path: str, found: Found) -> str:
    """The line for a file of no known convention: what it holds, and what a spec has to say."""
    place = places.likeliest(found)
    arrays = found[place]
    where = _where(path, place)
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
