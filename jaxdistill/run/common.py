"""What every stage of a run stands on: lessons and pools, and what is measured first."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import (
    mesh as meshes,
)
from jaxdistill import metrics, networks
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Teacher
from jaxdistill.learn import losses
from jaxdistill.play import collection, evaluation, lessons, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.run import recipe
from jaxdistill.run.recipe import Settings
from jaxdistill.tasks.views import AnyView, View


class Run:
    """What every stage of a run needs, made once from the settings."""

    def __init__(self, settings: Settings, mesh: Mesh):
        self.mesh = mesh
        experts = recipe.teachers(settings)
        self.settings = recipe.settled(settings, experts)
        _check_outputs(self.settings, experts)
        self.lessons = lessons.of_experts(experts, settings.seed)
        self.suite = experts[0].task.suite
        self.view = recipe.student_view(settings, experts)
        self.names = tuple(lesson.name for lesson in self.lessons)
        self.masks = lessons.masks(self.lessons)
        self.network = networks.for_tasks(
            networks.create(settings.network, settings.compute_dtype),
            [lesson.task for lesson in self.lessons],
        )
        self.key = jax.random.key(settings.seed)
        self.student_act = rollouts.network_actor(
            self.network,
            self.masks,
            epsilon=settings.evaluate.epsilon,
            form=self.suite.form,
            view=self.view,
        )

    @property
    def experts(self) -> list[Teacher]:
        """The lessons', in their order."""
        return [lesson.teacher for lesson in self.lessons]

    @property
    def taught(self) -> tuple[Lesson, ...]:
        """The first of the lessons, whose states are learnt from: all, or all but the common."""
        if self.settings.together and not self.settings.learn.together:
            return self.lessons[:-1]
        return self.lessons

    @property
    def chosen_by(self) -> list[int]:
        """Indices of the lessons that the student is chosen by: all, or the common one alone."""
        indices = range(len(self.lessons))
        return [*indices[-1:]] if self.settings.together else [*indices]

    @property
    def shown(self) -> AnyView:
        """What pools show, of the shape that all lessons have."""
        return self.lessons[0].view

    def fingerprints(self) -> list[str]:
        """What tells these experts from others: their parameters, or where they are in training."""
        if self.settings.collect.follow:
            return [source.path for source in self.settings.experts]
        return [_fingerprint(expert) for expert in self.experts]

    def follow(self) -> bool:
        """Reads the experts again; returns whether one has become another."""
        new = recipe.teachers(self.settings)
        _check_outputs(self.settings, new)
        changed = list(map(_fingerprint, new)) != list(map(_fingerprint, self.experts))
        if changed and [e.network for e in new] != [e.network for e in self.experts]:
            raise ValueError("an expert that is followed has become another network; begin anew")
        self.lessons = lessons.of_experts(new, self.settings.seed)
        return changed

    @functools.cached_property
    def random_policy(self) -> rollouts.Policy:
        """Uniformly random play."""
        return rollouts.random_policy(self.masks, self.suite.form)

    def opening(self, purpose: int) -> evaluation.Opening:
        """Who plays the first steps of episodes of one purpose, and where they may start."""
        chosen = self.settings.evaluate
        side = evaluation.CHOOSING if purpose == lessons.SELECT else evaluation.REPORTING
        policy = self.expert_policy() if chosen.opening_by == "expert" else self.random_policy
        steps = chosen.opening_steps
        assert steps is not None  # settled
        return evaluation.Opening(policy, steps, self.random_policy, side)

    def protocol(self, purpose: int, episodes: int) -> evaluation.Protocol:
        """How play is measured for one purpose: always from the same starts."""
        return evaluation.Protocol(
            episodes,
            purpose,
            jax.random.fold_in(self.key, purpose),
            self.opening(purpose),
            self.settings.evaluate.max_steps,
        )

    def seat(self, past: collection.Past | None = None) -> collection.Collector:
        """Pools to collect in, brought to where those ended that `past` is of."""
        chosen = self.settings.collect
        seating = collection.Seating(
            lessons=self.taught,
            network=self.network,
            view=self.view,
            num_envs=chosen.num_envs,
            expert_epsilon=chosen.expert_epsilon,
            student_epsilon=chosen.student_epsilon,
            change_drivers=chosen.change_drivers,
            key=jax.random.fold_in(self.key, 101),
            mesh=self.mesh,
        )
        return collection.Collector(seating, past)

    def measure(
        self,
        policy: rollouts.Policy,
        purpose: int,
        episodes: int,
        advance: Callable[[int], object] | None = None,
        only: Sequence[int] | None = None,
    ) -> list[evaluation.Scores]:
        """Plays whole games with `policy`, by the `protocol` of a purpose.

        `only` are the indices of the lessons to play, by default all.
        """
        chosen = self.lessons if only is None else [self.lessons[i] for i in only]
        protocol = self.protocol(purpose, episodes)
        return evaluation.measure(chosen, policy, protocol, self.mesh, advance=advance)

    def play_reported(
        self, policy: rollouts.Policy, what: str, only: Sequence[int] | None = None
    ) -> list[evaluation.Scores]:
        """The episodes that are reported, with a progress bar; for `only` see `measure`."""
        episodes = self.settings.evaluate.report_episodes
        total = episodes * len(self.lessons if only is None else only)
        with metrics.progress(what, total, "games") as advance:
            return self.measure(policy, lessons.REPORT, episodes, advance, only)

    def student_policy(self, params: Any) -> rollouts.Policy:
        """The student as it is evaluated, in this process."""
        return functools.partial(self.student_act, meshes.take_local(self.mesh, params))

    def expert_policy(self) -> rollouts.Policy:
        """The experts as they are evaluated."""
        chosen = self.settings.evaluate
        return rollouts.expert_actor(
            self.experts, epsilon=chosen.epsilon, sample_logits=chosen.sample_logits
        )

    def log_info(self) -> dict[str, Any]:
        """What a dataset of these experts says of itself."""
        collect, dtype = self.settings.collect, self.suite.frame_dtype
        action = self.suite.form.action_shape
        return {
            "games": [lesson.name for lesson in self.taught],
            "num_envs": collect.num_envs,
            "frame_shape": list(self.shown.shape[1:]),
            **({} if dtype == "uint8" else {"frame_dtype": dtype}),
            **({"action_shape": list(action)} if action else {}),
            "num_actions": int(self.masks.shape[1]),
            "views": [lesson.view.to_dict() for lesson in self.taught],
            "experts": self.fingerprints()[: len(self.taught)],
            "seed": self.settings.seed,
            "expert_epsilon": collect.expert_epsilon,
        }


def _check_outputs(settings: Settings, experts: Sequence[Teacher]) -> None:
    """The experts' outputs must suit the run's loss."""
    learn = settings.learn
    known = losses.of(experts[0].task.suite.form)
    logits = [expert.game for expert in experts if expert.outputs == "logits"]
    for name, loss in (("loss", learn.loss), ("first_loss", learn.first_loss)):
        if loss and loss not in known:
            raise ValueError(
                f"learn.{name} is {loss!r}, which is not for outputs of {experts[0].game}; "
                f"expected one of {', '.join(known)}"
            )
        if loss and known[loss].of_q and logits:
            raise ValueError(
                f"learn.{name} is {loss!r}, but the expert of {logits[0]} holds logits, not "
                f"Q-values: their absolute size means nothing; use 'kl', or 'log_prob_mse'"
            )


def _fingerprint(expert: Teacher) -> str:
    """SHA-256 of an expert's parameters: the same expert, whatever file it came from."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(expert.params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def measure_baselines(
    run: Run, workdir: pathlib.Path, timer: metrics.Timer
) -> dict[str, list[evaluation.Scores]]:
    """Scores of "expert" and "random" play, one of each per game.

    Read back where this run has measured them, or another whose `evaluate.baselines` is given.
    """
    path, given = workdir / "baselines.json", run.settings.evaluate.baselines
    if path.is_file():
        scores, seconds = _read_baselines(run, path)
        timer.restore(seconds)
        return scores
    with timer.phase("baselines"):
        if given:
            scores, _ = _read_baselines(run, pathlib.Path(given))
        else:
            scores = {
                "random": run.play_reported(run.random_policy, "random"),
                "expert": run.play_reported(run.expert_policy(), "experts"),
            }
    if meshes.leads():  # which played with the others: none of them still looks for the file
        settings_lib.write_json(
            path,
            {who: [x.to_dict() for x in rows] for who, rows in scores.items()}
            | {"timer": timer.state(), **_protocol(run)},
        )
    return scores


def _protocol(run: Run) -> dict[str, Any]:
    """What experts' scores depend on."""
    chosen = dataclasses.asdict(run.settings.evaluate)
    for name in ("every_rounds", "select_episodes", "lowest_expert_share", "baselines"):
        del chosen[name]
    return {"experts": run.fingerprints(), "seed": run.settings.seed, "evaluate": chosen}


def _read_baselines(
    run: Run, path: pathlib.Path
) -> tuple[dict[str, list[evaluation.Scores]], dict[str, dict[str, float]]]:
    """The scores in `path`, and the seconds of the run that measured them."""
    advice = "delete it to measure again"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; expected a run's baselines.json")
    standing = settings_lib.read_json(path, advice)
    try:
        old = [x for who in ("expert", "random") for x in standing[who] if "starts" not in x]
        scores = {
            who: [] if old else [evaluation.Scores.from_dict(x) for x in standing[who]]
            for who in ("expert", "random")
        }
        measured, seconds = {k: standing[k] for k in _protocol(run)}, standing["timer"]
        metrics.Timer().restore(seconds)
        if not old and any(len(rows) != len(run.names) for rows in scores.values()):
            raise ValueError(f"expected scores of {len(run.names)} games")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = settings_lib.one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); {advice}") from error
    if old:
        raise ValueError(
            f"{path} was measured by an earlier version, whose games had few different starts; "
            f"delete it to measure again, in another --workdir if a student was chosen by it"
        )
    for name, value in json.loads(json.dumps(_protocol(run))).items():
        if measured[name] != value:
            raise ValueError(
                f"{path} was measured with other {name} than this run's; measure again, in another "
                f"--workdir and without evaluate.baselines"
            )
    return scores, seconds


def check_experts(
    experts: Sequence[Teacher],
    scores: Sequence[evaluation.Scores],
    random: Sequence[evaluation.Scores],
    lowest_share: float,
) -> None:
    """Stops a run whose expert plays wildly below its claim, before anything expensive.

    Raises:
      ValueError: an expert keeps less than `lowest_share`, if that is above 0, of its advertised
        score above random.
    """
    for expert, s, r in zip(experts, scores, random, strict=True):
        # Whoever advertises no more than random play scores promises nothing to be held to.
        if expert.advertised_score is None or expert.advertised_score <= r.mean:
            continue
        share = evaluation.retention(s.mean, expert.advertised_score, r.mean)
        if lowest_share and share < lowest_share:
            raise ValueError(
                f"{expert.name} scores {s.mean:.1f} in {expert.game}, {share:.0%} of the "
                f"{expert.advertised_score:g} it advertises (random: {r.mean:.1f}): what it sees "
                f"or does differs from training. Likely: {_likely(expert)}. Mend the spec, or set "
                f"evaluate.lowest_expert_share to 0 to go on"
            )


def _likely(expert: Teacher) -> str:
    """What is often otherwise than in training, for who sees what the expert sees."""
    if isinstance(expert.view, View):
        return (
            "the resize (area or linear), the order of its actions, the stack order, pixels 0..1 "
            "or 0..255"
        )
    return "the task, the order of its actions, numbers that were scaled in training"
