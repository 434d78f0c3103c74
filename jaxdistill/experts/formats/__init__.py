"""Other people's checkpoints -> `Expert`.

`convert` reads a file once, recognises whose convention its names follow, and says what it found;
`load` is for those who only want the expert. What names cannot tell, a spec does (see `spec`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxdistill import networks, shipped, tasks
from jaxdistill.experts import hub, state_dicts, student, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import beside as besides
from jaxdistill.experts.formats import (
    building,
    carried,
    conventions,
    module_file,
    places,
    published,
    recognition,
    signs,
    skills,
    stable_baselines3,
)
from jaxdistill.experts.formats import spec as specs
from jaxdistill.experts.formats.building import Layer
from jaxdistill.experts.formats.layers import Arrays, Plan, bias_of, brief
from jaxdistill.experts.formats.places import Found
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.views import View

__all__ = ["COLUMNS", "Conversion", "convert", "load"]

COLUMNS = ("layer", "in the file", "kind", "inputs, outputs", "kernel", "activation", "parameters")

# Conventions of our own directories and files.
_STUDENT, _CONVERTED, _MODULE = "student", "converted before", "PyTorch module of a policy"


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
      rules_said: its spec or its own file says its rules.
    """

    expert: Expert
    convention: str
    layers: tuple[Layer, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    plan: Plan | None = None
    place: str = ""
    rules_said: bool = False

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
      game: its game, where file, spec or directory do not say. Where nothing says it and there is
        no spec, a file called after a game (`pong.pth`, `space_invaders_dqn.pt`,
        `dqn-PongNoFrameskip-v4.zip`), or in a folder called so, plays it.

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
    if found.convention not in (_STUDENT, _CONVERTED, _MODULE) and (
        described is None or not described.name
    ):
        changes["name"] = address.repository.rpartition("/")[2]
    if expert.advertised_score is None:
        changes["advertised_score"] = told.scores.get(str(expert.game))
    notes = list(found.notes)
    if changes.get("advertised_score") is not None:
        notes.append(f"its repository claims a mean score of {changes['advertised_score']:g}")
    if told.rules and isinstance(expert.view, View) and not found.rules_said:
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
    if source.file is None:
        return _of_directory(source.path, described, game)
    tree = source.file.tree
    if not described and isinstance(tree, dict) and module_file.KEY in tree:
        expert = module_file.read(tree, str(source.path), game)
        return Conversion(expert, _MODULE, rules_said=expert.rules != USUAL)
    if described:
        game = _agreed(game, (described.game,), described.path)
        conversion = _by_spec(str(source.path), source.found, described, game)
    else:
        conversion = _by_names(source, tree, game)
    return dataclasses.replace(conversion, skipped=source.file.skipped)


def _of_directory(path: pathlib.Path, described: specs.Spec | None, game: str | None) -> Conversion:
    """What stands in a directory of our own: one expert of a student, or one that was converted."""
    if described:
        raise ValueError(f"{path}: is a directory; a spec describes a file, expected a file")
    if student.is_student(path):
        expert, convention = student.Student.load(path).expert(game), _STUDENT
    else:
        expert, convention = Expert.load(path), _CONVERTED
        expert = dataclasses.replace(expert, game=_agreed(game, (expert.game,), str(path)))
    return Conversion(expert, convention, rules_said=expert.rules != USUAL)


def _by_names(source: Opened, tree: Any, game: str | None) -> Conversion:
    """What a file without a spec holds.

    Args:
      tree: all that is in the file.
      game: the game that was asked for. Where none was, it is the one that the file says, or else
        the one that is hinted at.
    """
    path = str(source.path)
    said = carried.read(tree if source.data is None else source.data, path)
    arguments, unread = besides.arguments(tree, source.path)
    games = tuple(said.views) if said else besides.games(tree, arguments)
    hinted, by, sure = source.hint
    if sure and not any(games) and game not in (None, hinted):
        raise Contradicted(
            f"{path}: {by} says {hinted}, and {game} was asked for; name its own game, or "
            f"none; a spec (--spec) may say another"
        )
    game = _agreed(game, games, path)
    if game is None and any(games) and hinted not in games:
        hinted = None  # a file of several games, which it lists
    contents = recognition.Contents(
        path, source.found, tree, source.data, said, arguments, game or hinted
    )
    conversion = _conversion(contents, recognition.recognise(contents))
    conversion = dataclasses.replace(conversion, notes=(*conversion.notes, *unread))
    if not hinted or hinted == game:
        return conversion
    note = f"its game, {hinted}, is taken from {by}"
    if game:
        note = f"{by} says {hinted}; it is read as an expert of {game}"
    asked = game is not None and not any(games)
    return dataclasses.replace(
        conversion,
        notes=(*conversion.notes, note),
        doubts=(note,) if asked else (),
    )


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
    where = places.where(path, place)
    for weights in spec.plan.layers():
        if weights.bias is None and (bias := bias_of(weights.weight, arrays)):
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
        view=view or skills.view_of(game, built.vector.size),
        game=game,
        advertised_score=spec.advertised_score,
        source=path,
        rules=spec.rules or USUAL,
    )
    notes = [*built.notes, *_unused(unused), *places.elsewhere(found, place)]
    return Conversion(
        expert,
        f"spec {spec.path}",
        built.layers,
        notes=tuple(notes),
        plan=spec.plan,
        place=place,
        rules_said=spec.rules is not None,
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


def _conversion(contents: recognition.Contents, known: recognition.Recognised) -> Conversion:
    """The expert that was recognised, and what there is to say of it."""
    built, said = known.built, contents.said
    expert = Expert(
        name=pathlib.Path(contents.path).stem,
        network=built.network,
        params=built.params,
        outputs=known.outputs,
        actions=known.actions,
        view=known.view or built.vector,
        game=known.game,
        source=contents.path,
        log_std=known.log_std,
        rules=known.rules,
        teacher_view=said.teacher_views.get(known.game) if said else None,
    )
    own = known.rules.differences_from(USUAL)
    trained = [f"its own game is {known.name}'s: {own}; --rules says otherwise"] if own else []
    elsewhere = places.elsewhere(contents.found, known.place)
    # By the names that the file has.
    names = {id(array): name for name, array in contents.found[known.place].items()}
    renamed = {name: names[id(array)] for name, array in known.arrays.items()}
    return Conversion(
        expert,
        known.name,
        built.layers,
        notes=(*built.notes, *known.notes, *trained, *elsewhere),
        plan=known.plan.renamed(renamed),
        place=known.place,
        rules_said=said is not None and said.rules != USUAL,
    )


def _unused(names: list[str]) -> list[str]:
    return [f"tensors not used: {brief(names)}"] if names else []
