"""What a student begins as: fresh, or with parameters that others have learnt."""

from __future__ import annotations

import pathlib

import jax

from jaxdistill import networks, shipped
from jaxdistill.experts import formats, hub
from jaxdistill.experts import student as travelling
from jaxdistill.experts.expert import Team
from jaxdistill.run import kinds, student_json, students
from jaxdistill.run.common import Run


def initial_params(run: Run) -> networks.Params:
    """What the student of a run begins as, by its `learn.warm_start`; raises as `params_of`."""
    learn = run.settings.learn
    if learn.begins_as is not None:
        return params_of(run, learn.begins_as, "learn.warm_start")
    if learn.warm_start is None:
        return fresh_params(run)
    return params_of(run, learn.warm_start, "learn.warm_start", behind=fresh_params(run))


def fresh_params(run: Run) -> networks.Params:
    """What it begins as where nothing is copied."""
    return networks.init(run.network, jax.random.fold_in(run.key, 100), run.view.shape)


def params_of(
    run: Run, named: str, field: str, *, behind: networks.Params | None = None
) -> networks.Params:
    """What a student of the run may begin as.

    Args:
      named: a game of the run, whose expert is meant; a file of any expert; the directory of
        another run, whose student is; or a student that was exported or pushed.
      field: the setting that names it.
      behind: the convolutions alone are copied, with these parameters behind them.

    Raises:
      FileNotFoundError, ValueError: it is none of these, cannot be read, or is of another shape.
    """
    path = pathlib.Path(named)
    actions: tuple[int, ...] = tuple(range(run.suite.num_actions))
    if named not in run.names and kinds.of(path) is not None:
        settings, state, network = students.load_student(path)
        view = student_json.load_roles(path, settings)[0].view
        name, params = f"the student of {named}", jax.device_get(state.eval_params)
    elif named not in run.names and (exported := travelling.read(named)) is not None:
        network, view = exported.network, exported.roles[0].view
        name, params = f"the student {named}", exported.params
    else:
        if named in run.names:
            expert = run.experts[run.names.index(named)]
        elif shipped.found(path).exists() or hub.is_address(named):
            expert = formats.load(named)
        else:
            raise ValueError(
                f"{field} {named!r} is neither a game of this run ({', '.join(run.names)}) nor a "
                f"file or a run"
            )
        if isinstance(expert, Team):
            raise ValueError(
                f"{field}: {named} is played by several experts together; name one of the others, "
                f"a file, or begin fresh"
            )
        name, params, actions = expert.name, expert.params, expert.actions
        network, view = expert.network, expert.view
    shown_alike = view.shape == run.view.shape
    if behind is not None:
        if not (shown_alike and networks.may_take_torso(run.network, network)):
            others = run.convolutions_of(network, view)
            raise ValueError(
                f"{field}: {name} and the student (network {run.settings.network!r}) do not have "
                f"the same convolutions, nor the student the same ones with more features; "
                + (f"set convolutions to {others}, " if others else "")
                + "leave learn.warm_layers at 'all', or begin fresh"
            )
        return networks.with_torso(behind, params)
    same = networks.same_architecture(network, run.network)
    if not (same and shown_alike and actions == tuple(range(run.suite.num_actions))):
        raise ValueError(
            f"{field}: {name} ({network.num_outputs} outputs) is not of the student's shape "
            f"(network {run.settings.network!r}); begin fresh instead"
        )
    return params
