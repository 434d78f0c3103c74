"""The chosen student of a finished or standing run, read back."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill import checkpoints, games, learner, losses, networks, recipe
from jaxdistill import mesh as meshes
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import load_experts
from jaxdistill.recipe import Settings
from jaxdistill.views import View


def load_student(workdir: str | os.PathLike[str]) -> tuple[Settings, learner.TrainState, Any]:
    """Settings, chosen student, and network of the run in `workdir`.

    Raises:
      FileNotFoundError, ValueError: the run is not there or has chosen no student yet.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no config.json; expected a distillation run")
    settings = settings_lib.build(Settings, json.loads(path.read_text()), str(path))
    network = networks.create(settings.network, settings.compute_dtype)
    if network.knows_game:
        network = networks.for_games(network, [games.get(name) for name in game_names(settings)])
    with checkpoints.Checkpoints(workdir / "checkpoints") as saved:
        best = saved.best_step()
        if best is None:
            raise ValueError(f"{workdir} has evaluated no student yet; let it run on")
        params = networks.init(network, jax.random.key(0), View().shape)
        state = create_state(settings, params, meshes.create())
        return settings, saved.restore(best, state).state, network


def student_as_expert(workdir: str | os.PathLike[str], game: str | None = None) -> Expert:
    """The chosen student of a run, as an expert for one of its games.

    Args:
      game: which of them; None if there is only one.

    Raises:
      FileNotFoundError, ValueError: the run is not there, has chosen no student, or the game is not
        one of its own.
    """
    settings, state, network = load_student(workdir)
    experts = {str(expert.game): expert for expert in load_experts(settings.experts)}
    if game is None and len(experts) > 1:
        raise ValueError(
            f"{workdir} distilled {len(experts)} games and an expert plays one; name one of "
            f"{', '.join(experts)}"
        )
    names = list(experts)
    index = game_index(names, game, workdir) if game else 0
    name = names[index]
    network, params, actions = networks.for_one_game(network, jax.device_get(state.playing), index)
    return Expert(
        name=f"student of {experts[name].name}",
        network=network,
        params=params,
        outputs="q" if losses.LOSSES[settings.learn.loss].gives_q else "logits",
        actions=actions,
        view=experts[name].view,
        game=name,
        source=str(workdir),
    )


def game_names(settings: Settings) -> list[str]:
    """Names of the run's games, in its order."""
    return [str(expert.game) for expert in load_experts(settings.experts)]


def game_index(names: Sequence[str], game: str, workdir: str | os.PathLike[str]) -> int:
    """Where `game` is among the games `names` of the run in `workdir`.

    Raises:
      ValueError: it is no game, or none of them.
    """
    name = games.get(game).name
    if name not in names:
        raise ValueError(f"{workdir} distilled {', '.join(names)}, not {name}")
    return names.index(name)


def create_state(settings: Settings, params: networks.Params, mesh: Mesh) -> learner.TrainState:
    """A run's train state around `params`, averaged too if its settings ask for it."""
    averaged = settings.learn.ema_decay > 0
    return learner.create_state(params, recipe.optimiser(settings), mesh, averaged=averaged)
