"""What every stage of a run stands on: lessons and pools, and what is measured first."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill import meshes, networks, shipped
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.learn import dataset, losses
from jaxdistill.play import (
    collection,
    evaluation,
    lessons,
    measuring,
    players,
    protocols,
    records,
    rollouts,
    scoring,
)
from jaxdistill.play.lessons import Lesson
from jaxdistill.report import hints
from jaxdistill.run import distill_settings
from jaxdistill.run.distill_settings import Settings
from jaxdistill.tasks.views import AnyView

READ_AS = "experts_read_as"
"""What a dataset says of how its experts' files were read; one of an earlier version does not."""
RENEWED = "renewed_every"
"""What it says of `CollectorConfig.renewed_every`; in one of an earlier version nothing is."""
NEWER = (READ_AS, RENEWED)
_RENEWED_EVERY = 8192  # a minute of play of 32 environments

_PLAYED = "played"


@dataclasses.dataclass(frozen=True)
class Call:
    """What one call of a run is told beside its settings; nothing that is learnt depends on it.

    Attributes:
      workdir: the run's directory.
      stop_after, command, profile: see `distill.distill`.
    """

    workdir: pathlib.Path
    stop_after: str | None = None
    command: str = ""
    profile: str | None = None


class Run:
    """What every stage of a run needs, made once from the settings."""

    def __init__(
        self,
        settings: Settings,
        mesh: Mesh,
        *,
        known: records.Records | None = None,
        report_seed: int = protocols.REPORT_SEED,
    ):
        """Reads the experts.

        Args:
          known: games that need not be played again; by default none.
          report_seed: of the games that are reported.
        """
        self.mesh, self.report_seed = mesh, report_seed
        self.known = known or records.Records()
        experts = distill_settings.teachers(settings)
        self.settings = distill_settings.resolve_defaults(settings, experts)
        _check_outputs(self.settings, experts)
        self.lessons = _lessons(settings, experts)
        self.suite = experts[0].task.suite
        self.view = self.lessons[0].seen
        self.names = tuple(lesson.name for lesson in self.lessons)
        self.masks = lessons.masks(self.lessons)
        self.network = distill_settings.network_of(
            settings, [lesson.task for lesson in self.lessons], self.view
        )
        names = [lesson.name for lesson in self.taught]
        self.shares = distill_settings.shares(self.settings, names)
        self.key = jax.random.key(settings.seed)
        self.student_act = rollouts.network_actor(
            self.network,
            lessons.choices(self.lessons),
            epsilon=settings.evaluate.epsilon,
            views=[lesson.seen for lesson in self.lessons],
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
    def deciding(self) -> list[int]:
        """Indices of the lessons that the student is chosen by: all, or the common one alone."""
        indices = range(len(self.lessons))
        return [*indices[-1:]] if self.settings.together else [*indices]

    @property
    def stored(self) -> AnyView:
        """What the dataset holds, of the shape that all lessons have."""
        return self.lessons[0].stored

    def convolutions_of(self, network: networks.Network, view: AnyView) -> str | None:
        """The setting with which the student has that network's, or None if it cannot have them.

        Args:
          view: what the other network sees.
        """
        if not (network.convs and self.network.convs and view.shape == self.view.shape):
            return None
        having = self.network.clone(convs=network.convs)
        if not networks.same_architecture(networks.torso(having), networks.torso(network)):
            return None
        return networks.describe_convolutions(network.convs)

    def rule_differences(self) -> list[str]:
        """A line on each expert whose own game is another than the one that is played here."""
        return [
            f"{expert.game}: {expert.name} learnt with "
            f"{expert.rules.differences_from(played)}; here expert and student play by the run's "
            f"rules"
            for expert in self.experts
            if isinstance(expert, Expert) and (played := self.settings.rules) != expert.rules
        ]

    def fingerprints(self) -> list[str]:
        """What tells these experts from others: their parameters, or where they are in training."""
        if self.settings.collect.follow:
            return [source.path for source in self.settings.experts]
        return [players.fingerprint(expert.params) for expert in self.experts]

    def follow(self) -> bool:
        """Reads the experts again; returns whether one has become another."""
        new = distill_settings.teachers(self.settings)
        _check_outputs(self.settings, new)
        now, before = (
            [(players.fingerprint(x.params), players.read_as(x)) for x in experts]
            for experts in (new, self.experts)
        )
        changed = now != before
        if changed and [e.network for e in new] != [e.network for e in self.experts]:
            raise ValueError("an expert that is followed has become another network; begin anew")
        self.lessons = _lessons(self.settings, new)
        self.__dict__.pop("_experts", None)  # which is of those before
        return changed

    @functools.cached_property
    def random_policy(self) -> rollouts.Policy:
        """Uniformly random play."""
        return rollouts.random_policy(lessons.choices(self.lessons))

    def opening(self, purpose: int) -> protocols.Opening:
        """Who plays the first steps of episodes of one purpose, and where they may start."""
        chosen = self.settings.evaluate
        side = protocols.CHOOSING if purpose == lessons.SELECT else protocols.REPORTING
        by = self.player("expert" if chosen.opening_by == "expert" else "random")
        steps = chosen.opening_steps
        assert steps is not None  # settled
        return protocols.Opening(by.policy, steps, self.random_policy, side, by.marks)

    def protocol(self, purpose: int) -> protocols.Protocol:
        """How play is measured for one purpose: always from the same starts.

        What is reported begins alike in every run, so that experts are measured once.
        """
        seed = self.report_seed if purpose == lessons.REPORT else self.settings.seed
        return protocols.Protocol(
            purpose, seed, self.opening(purpose), self.settings.evaluate.max_steps
        )

    def player(self, who: str, params: Any = None) -> players.Player:
        """ "random", "expert", or the "student" that `params` are of."""
        if who == "random":
            marks = (players.RANDOM,) * len(self.lessons)
            return players.Player(who, self.random_policy, marks)
        if who == "expert":
            return dataclasses.replace(self._experts, policy=self.expert_policy())
        return players.Player.student(
            self.network,
            jax.device_get(meshes.take_local(self.mesh, params)),
            self.student_policy(params),
            views=[lesson.seen for lesson in self.lessons],
            epsilon=self.settings.evaluate.epsilon,
            one_run_only=True,
        )

    def make_collector(self, log: dataset.Log | None = None) -> collection.Collector:
        """Pools to collect in, fresh ones or brought to where those ended that `log` is of."""
        chosen = self.settings.collect
        config = collection.CollectorConfig(
            lessons=self.taught,
            network=self.network,
            num_envs=chosen.num_envs,
            expert_epsilon=chosen.expert_epsilon,
            student_epsilon=chosen.student_epsilon,
            change_drivers=chosen.change_drivers,
            key=jax.random.fold_in(self.key, 101),
            mesh=self.mesh,
            renewed_every=log.info.get(RENEWED, 0) if log else 0,
        )
        return collection.Collector(config, log.past() if log else None)

    def measure(
        self,
        policy: rollouts.AnyPolicy,
        purpose: int,
        episodes: int | Sequence[range],
        only: Sequence[int] | None = None,
    ) -> list[scoring.Scores]:
        """Plays whole games with `policy`, by the `protocol` of a purpose.

        `only` are the indices of the lessons to play, by default all.
        """
        chosen = self.lessons if only is None else [self.lessons[i] for i in only]
        return evaluation.measure(chosen, policy, self.protocol(purpose), episodes, self.mesh)

    def baselines(self) -> scoring.Baselines:
        """Scores of experts and random play in the first of the games that are reported.

        Raises:
          ValueError: an expert keeps less than half of what it has to, by what random play is known
            to score; see `check_experts`. That is said before random play is measured.
        """
        chosen = self.settings.evaluate
        expert = self.play_first(self.player("expert"))
        tasks = [lesson.task for lesson in self.lessons]
        known = [records.random_score(task, chosen.max_steps) for task in tasks]
        lowest = chosen.lowest_expert_share / 2
        check_experts(self.experts, expert, known, lowest, chosen.max_steps)
        return scoring.Baselines(self.play_first(self.player("random")), expert)

    def play_first(self, player: players.Player) -> list[scoring.Scores]:
        """The first of the games that are reported, as many as a student is chosen by."""
        chosen = self.settings.evaluate
        episodes = min(chosen.select_episodes, chosen.report_episodes)
        protocol = self.protocol(lessons.REPORT)
        return measuring.measure(self.lessons, player, protocol, episodes, self.mesh, self.known)

    def play_reported(
        self, params: Any, only: Sequence[int] | None = None
    ) -> dict[int, scoring.Comparison]:
        """The games that are reported, of random play, experts and the student of `params`.

        As many as `measuring.measure_until_precise` asks for; by the lessons' indices.
        """
        chosen = self.settings.evaluate
        return measuring.measure_until_precise(
            self.lessons if only is None else [self.lessons[i] for i in only],
            {who: self.player(who, params) for who in ("random", "expert", "student")},
            self.protocol(lessons.REPORT),
            self.mesh,
            self.known,
            episodes=chosen.report_episodes,
            width=chosen.report_width,
            expert_ratio=chosen.expert_ratio,
        )

    def student_policy(self, params: Any) -> rollouts.Policy:
        """The student as it is evaluated, in this process."""
        return functools.partial(self.student_act, meshes.take_local(self.mesh, params))

    def expert_policy(self) -> rollouts.AnyPolicy:
        """The experts as they are evaluated, before their games; compiled once for all calls."""
        policy = self._experts.policy
        return policy.by() if isinstance(policy, rollouts.Recurrent) else policy

    @functools.cached_property
    def _experts(self) -> players.Player:
        chosen = self.settings.evaluate
        return players.Player.experts(
            self.experts,
            mesh=self.mesh,
            epsilon=chosen.epsilon,
            sample_logits=chosen.sample_logits,
        )

    def log_info(self) -> dict[str, Any]:
        """What a dataset of these experts says of itself."""
        collect, dtype = self.settings.collect, self.suite.frame_dtype
        action = self.suite.form.action_shape
        return {
            "games": [lesson.name for lesson in self.taught],
            "num_envs": collect.num_envs,
            "frame_shape": list(self.stored.shape[1:]),
            **({} if dtype == "uint8" else {"frame_dtype": dtype}),
            **({"action_shape": list(action)} if action else {}),
            "num_actions": int(self.masks.shape[1]),
            "views": [lesson.stored.to_dict() for lesson in self.taught],
            **({"expert_views": others} if (others := self._other_views()) else {}),
            **({"rules": rules} if (rules := self.settings.rules.to_dict()) else {}),
            "experts": self.fingerprints()[: len(self.taught)],
            READ_AS: [
                players.read_as(lesson.teacher, in_training=collect.follow)
                for lesson in self.taught
            ],
            "seed": self.settings.seed,
            "expert_epsilon": collect.expert_epsilon,
            RENEWED: _RENEWED_EVERY,
        }

    def _other_views(self) -> list[dict[str, Any]]:
        """What the experts see, where one sees a screen in another way than the student."""
        if all(
            lesson.view == lesson.stored or lesson.teacher.view == lesson.seen
            for lesson in self.taught
        ):
            return []
        return [lesson.teacher.view.to_dict() for lesson in self.taught]


def _lessons(settings: Settings, experts: Sequence[Teacher]) -> tuple[Lesson, ...]:
    return lessons.of_experts(
        experts, settings.seed, distill_settings.student_views(settings, experts)
    )


def _check_outputs(settings: Settings, experts: Sequence[Teacher]) -> None:
    """The experts' outputs must suit the run's loss."""
    learn = settings.learn
    form = experts[0].task.suite.form
    known = losses.of(form)
    logits = [expert.game for expert in experts if expert.outputs == "logits"]
    for name, loss in (("loss", learn.loss), ("first_loss", learn.first_loss)):
        if loss and loss not in known:
            raise ValueError(
                f"learn.{name} is {loss!r}, which is not for outputs of {experts[0].game}; "
                f"expected one of {', '.join(known)}"
            )
        if loss:
            losses.check(f"learn.{name} {loss!r}", form, known[loss])
        if loss and known[loss].of_q and logits:
            raise ValueError(
                f"learn.{name} is {loss!r}, but the expert of {logits[0]} holds logits, not "
                f"Q-values: their absolute size means nothing; use 'kl', or 'log_prob_mse'"
            )


def records_of(
    settings: Settings,
    workdir: pathlib.Path,
    cache_dir: str | os.PathLike[str] | None,
    *,
    writes: bool = True,
) -> records.Records:
    """As `records_in`, and games of experts that come with the package are looked for there too.

    Beside files of others is what others say of them.
    """
    folders = {shipped.found(source.path).resolve().parent for source in settings.experts}
    given = (shipped.EXPERTS / _PLAYED,) if shipped.EXPERTS.resolve() in folders else ()
    return records_in(workdir, cache_dir, given, writes=writes)


def records_in(
    workdir: pathlib.Path,
    cache_dir: str | os.PathLike[str] | None,
    given: Sequence[pathlib.Path] = (),
    *,
    writes: bool = True,
) -> records.Records:
    """Where games are kept that are played in `workdir`: there and, for all runs, in a cache.

    Args:
      writes: False where the run is only read: its games are known, and none is added.
    """
    shared = None if cache_dir is None else pathlib.Path(cache_dir)
    return records.Records(workdir / _PLAYED, shared, given, writes=writes)


def check_experts(
    experts: Sequence[Teacher],
    scores: Sequence[scoring.Scores],
    random: Sequence[float | None],
    lowest_share: float,
    max_steps: int | None = None,
) -> None:
    """Stops a run whose expert plays wildly below its claim, before anything expensive.

    A claim is of games as they are published: of others, such as cut ones, nothing can be said.

    Args:
      random: what random play scores; None where that is not known, and nothing can be said.
      max_steps: step limit of one game; by default the task's.

    Raises:
      ValueError: an expert keeps less than `lowest_share`, if that is above 0, of its advertised
        score above random.
    """
    for expert, s, r in zip(experts, scores, random, strict=True):
        # Whoever advertises no more than random play scores promises nothing to be held to.
        if r is None or expert.advertised_score is None or expert.advertised_score <= r:
            continue
        if not expert.task.as_published(max_steps):
            continue
        share = scoring.retention(s.mean, expert.advertised_score, r)
        if lowest_share and share < lowest_share:
            raise ValueError(
                f"{expert.name} scores {s.mean:.1f} in {expert.game}, {share:.0%} of the "
                f"{expert.advertised_score:g} it advertises (random: {r:.1f}): what it sees "
                f"or does differs from training. Likely: {hints.likely(expert)}. Mend the spec, or "
                f"set evaluate.lowest_expert_share to 0 to go on"
            )
