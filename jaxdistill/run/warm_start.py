"""What a student begins as: fresh, or with parameters that others have learnt."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxdistill import networks, shipped
from jaxdistill.experts import formats, hub
from jaxdistill.experts import student as travelling
from jaxdistill.experts.expert import Team
from jaxdistill.play import players
from jaxdistill.run import kinds, student_json, students
from jaxdistill.run.common import Run
from jaxdistill.tasks.views import AnyView


class _Source(NamedTuple):
    """What a student may begin as, or see as.

    Attributes:
      name: as messages call it.
      network, params: its own.
      view: what it sees.
      actions: what its outputs are, of the suite's.
      games: of a student, what it plays, in its order; of an expert nothing is said.
    """

    name: str
    network: networks.Network
    params: networks.Params
    view: AnyView
    actions: tuple[int, ...]
    games: tuple[str, ...] = ()


def initial_params(run: Run) -> networks.Params:
    """What the student of a run begins as, by its `learn.warm_start`; raises as `params_of`."""
    learn = run.settings.learn
    if learn.begins_as is not None:
        return params_of(run, learn.begins_as, "learn.warm_start")
    if not learn.sees_as:
        return fresh_params(run)
    sources = [_read(run, named, "learn.warm_start") for named in learn.sees_as]
    for source in sources:
        if source.view.shape != run.view.shape:
            raise ValueError(
                f"learn.warm_start: {source.name} sees {source.view.shape}, the student "
                f"{run.view.shape}, so its convolutions do not fit; name one that sees as much, or "
                f"begin fresh"
            )
    if not networks.may_take_torso(run.network, *(source.network for source in sources)):
        raise ValueError(_other_convolutions(run, sources))
    return networks.with_torso(fresh_params(run), *(source.params for source in sources))


def marks(run: Run) -> dict[str, str]:
    """Fingerprints of whose parameters the student of a run begins with, by who that is.

    Not of the run's own experts, which may be followed and may become others until something is
    learnt: the dataset says who these are. Raises as `params_of`.
    """
    learn = run.settings.learn
    named = {f"warm start {name}": name for name in learn.sees_as}
    if learn.begins_as is not None:
        named["warm start"] = learn.begins_as
    return {
        who: players.fingerprint(_read(run, name, "learn.warm_start").params)
        for who, name in named.items()
        if name not in run.names
    }


def _other_convolutions(run: Run, sources: Sequence[_Source]) -> str:
    """That the student cannot begin with the convolutions of `sources`, and with which it could."""
    own, convs = run.settings.network, ""
    if len(sources) == 1:
        (source,) = sources
        differ = (
            f"{source.name} and the student (network {own!r}) do not have the same convolutions, "
            f"nor the student the same ones with more features"
        )
        convs = run.convolutions_of(source.network, source.view) or ""
    else:
        theirs = [source.network for source in sources]
        said = " and ".join(networks.describe_convolutions(x.convs) or "none" for x in theirs)
        differ = (
            f"the student (network {own!r}) has no room for the convolutions of "
            f"{' and '.join(source.name for source in sources)}, which are {said}"
        )
        room = networks.side_by_side(*theirs)
        has_some = room and run.network.convs
        if has_some and networks.may_take_torso(run.network.clone(convs=room), *theirs):
            convs = networks.describe_convolutions(room)
    advice = f"set convolutions to {convs}, " if convs else ""
    return f"learn.warm_start: {differ}; {advice}leave learn.warm_layers at 'all', or begin fresh"


def fresh_params(run: Run) -> networks.Params:
    """What it begins as where nothing is copied."""
    return networks.init(run.network, jax.random.fold_in(run.key, 100), run.view.shape)


def params_of(run: Run, named: str, field: str) -> networks.Params:
    """All that a student of the run may begin as.

    Args:
      named: a game of the run, whose expert is meant; a file of any expert; the directory of
        another run, whose student is; or a student that was exported or pushed.
      field: the setting that names it.

    Raises:
      FileNotFoundError, ValueError: it is none of these, cannot be read, or is of another shape.
    """
    source = _for_its_games(run, _read(run, named, field), field)
    alike = networks.same_architecture(source.network, run.network)
    alike = alike and source.view.shape == run.view.shape
    if not (alike and source.actions == tuple(range(run.suite.num_actions))):
        raise ValueError(
            f"{field}: {source.name} ({source.network.num_outputs} outputs) is not of the "
            f"student's shape (network {run.settings.network!r}); begin fresh instead"
        )
    return source.params


def _for_its_games(run: Run, source: _Source, field: str) -> _Source:
    """What plays the games of a run, in its order, of a student that knows its game.

    Raises:
      ValueError: it was not taught them all.
    """
    if not (source.network.knows_game and source.games):
        return source
    if lacking := [game for game in run.names if game not in source.games]:
        raise ValueError(
            f"{field}: {source.name} is told its game and plays {', '.join(source.games)}, not "
            f"{', '.join(lacking)}; name a student of all games of this run, or begin fresh"
        )
    games = [source.games.index(game) for game in run.names]
    network, params = networks.for_some_games(source.network, source.params, games)
    return source._replace(network=network, params=params, games=run.names)


def _read(run: Run, named: str, field: str) -> _Source:
    """Whoever `params_of` calls `named`; raises as it does but for the shape."""
    path = pathlib.Path(named)
    every = tuple(range(run.suite.num_actions))
    if named not in run.names:
        if kinds.of(path) is not None:
            settings, state, network = students.load_student(path)
            roles = student_json.load_roles(path, settings)
            params, games = jax.device_get(state.eval_params), tuple(x.game for x in roles)
            name = f"the student of {named}"
            return _Source(name, network, params, roles[0].view, every, games)
        if (exported := travelling.read(named)) is not None:
            name, view = f"the student {named}", exported.roles[0].view
            games = tuple(exported.games)
            return _Source(name, exported.network, exported.params, view, every, games)
    if named in run.names:
        expert = run.experts[run.names.index(named)]
    elif shipped.found(path).exists() or hub.is_address(named):
        expert = formats.load(named)
    elif "," in named:
        raise ValueError(
            f"{field} {named!r}: the student begins as one of these; of several it may have the "
            f"convolutions, with learn.warm_layers=convolutions"
        )
    else:
        raise ValueError(
            f"{field} {named!r} is neither a game of this run ({', '.join(run.names)}) nor a file "
            f"or a run"
        )
    if isinstance(expert, Team):
        raise ValueError(
            f"{field}: {named} is played by several experts together; name one of the others, a "
            f"file, or begin fresh"
        )
    return _Source(expert.name, expert.network, expert.params, expert.view, expert.actions)
