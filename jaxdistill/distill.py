"""The run: experts -> dataset -> student -> best checkpoint -> measured result; resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdistill import (
    checkpoints,
    clips,
    collection,
    dataset,
    envs,
    evaluation,
    games,
    learner,
    losses,
    metrics,
    networks,
    page,
    report,
    rollouts,
)
from jaxdistill import (
    mesh as meshes,
)
from jaxdistill import (
    settings as settings_lib,
)
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.views import View

# Purposes of pool seeds: states to learn from, episodes to choose by, to report, to look at.
_COLLECT, _SELECT, _REPORT, _SHOW = 0, 1, 2, 3
_PAGE_STATES = 2048  # states per game whose outputs the report compares


@dataclasses.dataclass(frozen=True)
class Collect:
    """Which states the student is taught on.

    Attributes:
      num_envs: environments per game (N).
      initial_steps: steps per game the experts play before the first update.
      steps_per_round: steps per game played before each later round; 0 keeps to the first ones.
      window_steps: the most recent steps per game that minibatches are drawn from.
      expert_share_rounds, final_expert_share: over so many rounds the share of environments the
        experts drive falls linearly from 1 to this, where it stays (DAgger; Ross et al. 2011).
      change_drivers: every round draws anew which environments the experts drive: in each of them
        expert and student take turns, and the expert goes on from where the student has got to.
        False leaves them to the same ones.
      expert_epsilon, student_epsilon: chance of a uniformly random valid action.
      dataset: a dataset made by `launch/collect.py` to learn from instead of collecting first.
      follow: the experts are still in training (`launch/train_expert.py` replaces its
        `experts/GAME` whenever one plays better): they are read again before every evaluation
        (online distillation; Rusu et al. 2015, section 5). Such a run resumes too, but with the
        experts as they are by then.
    """

    num_envs: int = 32
    initial_steps: int = 8192
    steps_per_round: int = 1024
    window_steps: int = 81_920
    expert_share_rounds: int = 20
    final_expert_share: float = 0.0
    change_drivers: bool = False
    expert_epsilon: float = 0.05
    student_epsilon: float = 0.05
    dataset: str | None = None
    follow: bool = False


@dataclasses.dataclass(frozen=True)
class Learn:
    """How the student learns.

    Attributes:
      rounds: how often steps are collected and learnt from.
      updates_per_round: minibatches in one round.
      batch_per_game: rows of each game in one minibatch.
      loss: a key of `losses.LOSSES`.
      q_temperature, logits_temperature: the softmax temperature of experts with either.
      entropy_weight: how much of the student's entropy is taken off its loss: above 0 it keeps
        trying what its expert would not, which matters where the student drives.
      warm_start: name of the game whose expert the student begins as a copy of, or a file of any
        expert of its shape; None begins fresh.
      ema_decay: the student that plays is the exponential moving average of the parameters with
        this decay per update (Polyak averaging); 0 plays with the parameters as they are.
      optimiser, learning_rate, final_rate_fraction, weight_decay, clip_norm: see
        `learner.optimiser`; the schedule is a cosine.
    """

    rounds: int = 100
    updates_per_round: int = 16
    batch_per_game: int = 128
    loss: str = "kl"
    q_temperature: float = 0.01
    logits_temperature: float = 1.0
    entropy_weight: float = 0.0
    warm_start: str | None = None
    ema_decay: float = 0.0
    optimiser: str = "adamw"
    learning_rate: float = 3e-4
    final_rate_fraction: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 10.0


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How play is measured; episodes are whole games.

    Attributes:
      every_rounds: rounds between two evaluations of the student that the best is chosen by.
      select_episodes: episodes per game in each of those.
      report_episodes: episodes per game in the closing table, from seeds of their own.
      epsilon: chance of a uniformly random valid action, for experts and student alike.
      sample_logits: experts with logits sample their policy here too; False takes the likeliest.
      max_steps: step limit of one game (27,000 is ALE's half hour).
      opening_steps, opening_by: steps that "random" or the "expert" plays first, before the policy
        that is measured takes over; what they score does not count.
      lowest_expert_share: the run stops if an expert scores less than this share of its advertised
        score (above random): then what it sees or does is wrong, and distilling it is futile.
      baselines: `baselines.json` of another run of the same experts, seed and evaluation, whose
        measured experts and random play this run takes over.
    """

    every_rounds: int = 20
    select_episodes: int = 32
    report_episodes: int = 100
    epsilon: float = 0.05
    sample_logits: bool = False
    max_steps: int = envs.MAX_STEPS
    opening_steps: int = 0
    opening_by: str = "random"
    lowest_expert_share: float = 0.25
    baselines: str | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """One distillation run.

    Attributes:
      experts: one per game; their order is the order of the games.
      network: a key of `networks.NETWORKS`, the student's.
      compute_dtype: what the student computes in, "float32" or, on accelerators, "bfloat16";
        parameters, outputs and losses are float32 all the same.
      seed: of everything random.
    """

    experts: tuple[ExpertSource, ...]
    network: str = "dueling"
    compute_dtype: str = "float32"
    seed: int = 0
    collect: Collect = Collect()
    learn: Learn = Learn()
    evaluate: Evaluate = Evaluate()

    def __post_init__(self) -> None:
        if not self.experts:
            raise ValueError("experts is empty; name at least one")
        networks.create(self.network, self.compute_dtype)
        if self.learn.loss not in losses.LOSSES:
            raise ValueError(
                f"learn.loss {self.learn.loss!r} is not one of {', '.join(losses.LOSSES)}"
            )
        c, lrn, e = self.collect, self.learn, self.evaluate
        for name, value in (
            ("collect.num_envs", c.num_envs),
            ("collect.window_steps", c.window_steps),
            ("learn.rounds", lrn.rounds),
            ("learn.updates_per_round", lrn.updates_per_round),
            ("learn.batch_per_game", lrn.batch_per_game),
            ("evaluate.every_rounds", e.every_rounds),
            ("evaluate.select_episodes", e.select_episodes),
            ("evaluate.report_episodes", e.report_episodes),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        for name, value in (
            ("collect.initial_steps", c.initial_steps),
            ("collect.steps_per_round", c.steps_per_round),
            ("collect.window_steps", c.window_steps),
        ):
            if value % c.num_envs:
                raise ValueError(
                    f"{name} {value} is not divisible by collect.num_envs {c.num_envs}"
                )
        if not 0 <= c.final_expert_share <= 1:
            raise ValueError(
                f"collect.final_expert_share is {c.final_expert_share}, expected 0 to 1"
            )
        if not c.initial_steps and not c.steps_per_round and not c.dataset:
            raise ValueError(
                "collect.initial_steps and collect.steps_per_round are both 0: nothing to learn"
            )
        if not 0 <= lrn.ema_decay < 1:
            raise ValueError(f"learn.ema_decay is {lrn.ema_decay}, expected 0 or more, less than 1")
        if e.opening_by not in ("random", "expert"):
            raise ValueError(f"evaluate.opening_by {e.opening_by!r} is not one of random, expert")
        if not 0 <= e.opening_steps < e.max_steps:
            raise ValueError(
                f"evaluate.opening_steps is {e.opening_steps}, expected 0 or more, and less than "
                f"evaluate.max_steps {e.max_steps}"
            )
        _optimiser(self)  # refuses an unknown one
        if c.follow and not c.steps_per_round:
            raise ValueError("collect.follow needs new steps: set collect.steps_per_round above 0")
        if c.dataset and c.steps_per_round:
            raise ValueError(
                "collect.dataset is fixed: set collect.steps_per_round to 0, or collect afresh"
            )


def game_names(settings: Settings) -> list[str]:
    """Names of the run's games, in its order."""
    return [str(expert.game) for expert in load_experts(settings.experts)]


def _load_experts(settings: Settings) -> list[Expert]:
    """The run's experts, whose outputs must suit its loss."""
    experts = load_experts(settings.experts)
    loss = settings.learn.loss
    logits = [expert.game for expert in experts if expert.outputs == "logits"]
    if losses.LOSSES[loss].of_q and logits:
        raise ValueError(
            f"learn.loss is {loss!r}, but the expert of {logits[0]} holds logits, not Q-values: "
            f"their absolute size means nothing; use 'kl', or 'log_prob_mse'"
        )
    return experts


class _Run:
    """What every stage of a run needs, made once from the settings."""

    def __init__(self, settings: Settings, mesh: Mesh):
        self.settings, self.mesh = settings, mesh
        self.experts = _load_experts(settings)
        self.games = [games.get(str(expert.game)) for expert in self.experts]
        self.names = tuple(game.name for game in self.games)
        self.views = [expert.view or View() for expert in self.experts]
        self.masks = jnp.asarray(np.stack([expert.mask for expert in self.experts]))
        self.network = networks.for_games(
            networks.create(settings.network, settings.compute_dtype), self.games
        )
        self.key = jax.random.key(settings.seed)
        self.student_act = rollouts.network_actor(
            self.network, self.masks, epsilon=settings.evaluate.epsilon
        )

    def fingerprints(self) -> list[str]:
        """What tells these experts from others: their parameters, or where they are in training."""
        if self.settings.collect.follow:
            return [source.path for source in self.settings.experts]
        return [fingerprint(expert) for expert in self.experts]

    def follow(self) -> bool:
        """Reads the experts again; returns whether one has become another."""
        try:
            new = _load_experts(self.settings)
        except FileNotFoundError:  # one is being replaced this very moment
            return False
        changed = list(map(fingerprint, new)) != list(map(fingerprint, self.experts))
        if changed and [e.network for e in new] != [e.network for e in self.experts]:
            raise ValueError("an expert that is followed has become another network; begin anew")
        self.experts = new
        return changed

    @functools.cached_property
    def opening(self) -> evaluation.Opening:
        """Who plays an evaluation's first steps, and how many."""
        chosen = self.settings.evaluate
        by_expert = chosen.opening_by == "expert"
        policy = self.expert_policy() if by_expert else rollouts.random_policy(self.masks)
        return evaluation.Opening(policy, chosen.opening_steps)

    def seeds(self, purpose: int) -> list[int]:
        """Pool seeds of one purpose, one per game."""
        return [envs.seed_for(self.settings.seed, purpose, i) for i in range(len(self.games))]

    def measure(
        self,
        policy: rollouts.Policy,
        purpose: int,
        episodes: int,
        advance: Callable[[int], object] | None = None,
    ) -> list[evaluation.Scores]:
        """Plays whole games with `policy`: always from the same starts for the same purpose."""
        return evaluation.play_everywhere(
            self.games,
            episodes,
            policy,
            jax.random.fold_in(self.key, purpose),
            self.mesh,
            seeds=self.seeds(purpose),
            views=self.views,
            max_steps=self.settings.evaluate.max_steps,
            opening=self.opening,
            advance=advance,
        )

    def play_reported(self, policy: rollouts.Policy, what: str) -> list[evaluation.Scores]:
        """The episodes that are reported, with a progress bar."""
        episodes = self.settings.evaluate.report_episodes
        with metrics.progress(what, episodes * len(self.games), "games") as advance:
            return self.measure(policy, _REPORT, episodes, advance)

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
        collect = self.settings.collect
        return {
            "games": list(self.names),
            "num_envs": collect.num_envs,
            "frame_shape": list(self.views[0].shape[1:]),
            "num_actions": int(self.masks.shape[1]),
            "views": [view.to_dict() for view in self.views],
            "experts": self.fingerprints(),
            "seed": self.settings.seed,
            "expert_epsilon": collect.expert_epsilon,
        }


def fingerprint(expert: Expert) -> str:
    """SHA-256 of an expert's parameters: the same expert, whatever file it came from."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(expert.params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _seat(run: _Run, history: np.ndarray | None = None) -> collection.Collector:
    """Fresh pools to collect in, in which `history` has been played."""
    collect = run.settings.collect
    seating = collection.Seating(
        games=run.games,
        experts=run.experts,
        views=run.views,
        seeds=run.seeds(_COLLECT),
        network=run.network,
        masks=run.masks,
        num_envs=collect.num_envs,
        expert_epsilon=collect.expert_epsilon,
        student_epsilon=collect.student_epsilon,
        change_drivers=collect.change_drivers,
        key=jax.random.fold_in(run.key, 101),
        mesh=run.mesh,
    )
    return collection.Collector(seating, history)


_CHUNK_STEPS = 64


def collect(
    settings: Settings, directory: str | os.PathLike[str], mesh: Mesh | None = None
) -> dict:
    """Lets the experts play `collect.initial_steps` steps per game into a dataset on disk.

    Resumes where a killed call stopped; the result is the same.

    Returns:
      What the dataset says of itself, with its `length` in steps per environment.
    """
    run = _Run(settings, mesh or meshes.create())
    with meshes.leader_first("dataset"):
        log = dataset.Log(directory, run.log_info(), writes=meshes.leads())
    _collect_initial(run, log)
    return log.info | {"length": log.length}


def _collect_initial(run: _Run, log: dataset.Log) -> collection.Collector:
    collector = _seat(run, log.actions(log.length))
    per_env = run.settings.collect.initial_steps // run.settings.collect.num_envs
    each = run.settings.collect.num_envs * len(run.games)
    with metrics.progress(
        f"collect {', '.join(run.names)}", per_env * each, "steps", done=log.length * each
    ) as advance:
        while log.length < per_env:
            length = min(_CHUNK_STEPS, per_env - log.length)
            log.append(collector.collect(length, advance=advance))
    return collector


def distill(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    stop_after: str | None = None,
    command: str = "",
    profile: str | None = None,
) -> dict[str, Any]:
    """Distils the experts into one student, and measures it.

    A killed run called again with the same settings and `workdir` goes on where it stopped and ends
    with the same student:

    1. no run there: everything begins;
    2. experts measured, no checkpoint: collection goes on after its last whole chunk;
    3. a checkpoint: its state is restored, the dataset cut to what it had seen, the pools brought
       to the same emulator states by replaying their actions;
    4. a result: it is returned as it stands.

    Args:
      stop_after: "baselines", "collect", "round:K" (after round K, saved) or "train" ends the call
        there, as a kill at that point would; for tests.
      command: what the report says began the run.
      profile: directory for a trace of a few rounds.

    Returns:
      What is written to `result.json`: see `_result`.

    Raises:
      ValueError, FileNotFoundError: something the user can mend, in one line.
    """
    workdir = pathlib.Path(workdir)
    mesh = mesh or meshes.create()
    meshes.check_divisible(mesh, "learn.batch_per_game", settings.learn.batch_per_game)
    if settings.collect.follow and jax.process_count() > 1:
        raise ValueError(
            "collect.follow is for one process: several could follow different experts"
        )
    run = _Run(settings, mesh)
    _initial_params(run)  # a warm start that cannot be is refused before anything is played
    with meshes.leader_first("claim"):
        settings_lib.claim(
            workdir, settings, ignore=("evaluate.lowest_expert_share", "evaluate.baselines")
        )
    result_path = workdir / "result.json"
    if result_path.is_file():
        return json.loads(result_path.read_text())
    timer = metrics.Timer()

    baselines = _baselines(run, workdir, timer)
    report.print_experts(run.experts, baselines["expert"], baselines["random"])
    check_experts(
        run.experts,
        baselines["expert"],
        baselines["random"],
        settings.evaluate.lowest_expert_share,
    )
    if stop_after == "baselines":
        return {}
    state, best_step = _train(run, workdir, baselines, timer, stop_after, profile)
    if stop_after is not None:
        return {}

    with timer.phase("report"):
        if settings.collect.follow:
            baselines["expert"] = run.play_reported(run.expert_policy(), "experts")
        scores = run.play_reported(run.student_policy(state.playing), "student")
    with meshes.leader_first("result"):
        if meshes.leads():
            result = _result(run, _rows(run, baselines, scores), workdir, best_step, timer)
            _write_page(run, workdir, state.playing, result, command)
            settings_lib.write_json(result_path, result)
    return json.loads(result_path.read_text())


def _write_page(
    run: _Run, workdir: pathlib.Path, params: Any, result: dict[str, Any], command: str
) -> None:
    """Everything the run has to show, as `report.html`; by one process, on its own devices."""
    params = meshes.take_local(run.mesh, params)
    log = dataset.open_log(run.settings.collect.dataset or workdir / "dataset")
    per_env = min(log.length, _PAGE_STATES // run.settings.collect.num_envs)
    buffer = _window(run, log, per_env, meshes.local(run.mesh))
    size = int(np.asarray(buffer.window.counts).min())
    rows = buffer.window.rows[:, :size]
    stacks, labels = jax.device_get(dataset.gather(buffer.window, rows))
    forward = jax.jit(functools.partial(networks.forward, run.network))
    outputs, plays = {}, {}
    for index, game in enumerate(run.games):
        outputs[game.name] = page.Outputs(
            labels[index],
            np.asarray(forward(params, stacks[index], index)),
            np.asarray(run.masks[index]),
        )
        expert, student = (
            clips.record(
                game,
                policy,
                index=index,
                view=run.views[index],
                seed=envs.seed_for(run.settings.seed, _SHOW, index),
                steps=page.clip_steps(),
            )
            for policy in (run.expert_policy(), functools.partial(run.student_act, params))
        )
        plays[game.name] = (expert, student)
    page.write(
        workdir,
        result,
        settings=dataclasses.asdict(run.settings),
        outputs=outputs,
        plays=plays,
        command=command,
    )


def evaluate_student(
    workdir: str | os.PathLike[str],
    *,
    episodes: int,
    epsilon: float,
    seed: int,
    opening_steps: int = 0,
    opening_by: str = "random",
) -> list[dict[str, Any]]:
    """Measures a run's chosen student again, with its experts and random play beside it.

    For the arguments see `Evaluate`.

    Returns:
      One row per game, as in `result.json`.

    Raises:
      FileNotFoundError, ValueError: the run is not there or has chosen no student yet.
    """
    settings, student, _ = load_student(workdir)
    settings = dataclasses.replace(
        settings,
        evaluate=dataclasses.replace(
            settings.evaluate,
            report_episodes=episodes,
            epsilon=epsilon,
            opening_steps=opening_steps,
            opening_by=opening_by,
        ),
        seed=seed,
    )
    run = _Run(settings, meshes.create())
    return _rows(
        run,
        {
            "random": run.play_reported(rollouts.random_policy(run.masks), "random"),
            "expert": run.play_reported(run.expert_policy(), "experts"),
        },
        run.play_reported(run.student_policy(student.playing), "student"),
    )


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
        state = _create_state(settings, params, meshes.create())
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
    name = games.get(game).name if game else next(iter(experts))
    if name not in experts:
        raise ValueError(f"{workdir} distilled {', '.join(experts)}, not {name}")
    network, params, actions = networks.for_one_game(
        network, jax.device_get(state.playing), list(experts).index(name)
    )
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


def _optimiser(settings: Settings) -> optax.GradientTransformation:
    lrn = settings.learn
    return learner.optimiser(
        lrn.optimiser,
        learning_rate=lrn.learning_rate,
        updates=lrn.rounds * lrn.updates_per_round,
        final_fraction=lrn.final_rate_fraction,
        clip_norm=lrn.clip_norm,
        weight_decay=lrn.weight_decay,
    )


def _create_state(settings: Settings, params: networks.Params, mesh: Mesh) -> learner.TrainState:
    averaged = settings.learn.ema_decay > 0
    return learner.create_state(params, _optimiser(settings), mesh, averaged=averaged)


def _baselines(
    run: _Run, workdir: pathlib.Path, timer: metrics.Timer
) -> dict[str, list[evaluation.Scores]]:
    """Experts and random play, measured first; read back where a run has done so."""
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
                "random": run.play_reported(rollouts.random_policy(run.masks), "random"),
                "expert": run.play_reported(run.expert_policy(), "experts"),
            }
    if meshes.leads():  # which played with the others: none of them still looks for the file
        settings_lib.write_json(
            path,
            {who: [x.to_dict() for x in rows] for who, rows in scores.items()}
            | {"timer": timer.state(), **_protocol(run)},
        )
    return scores


def _protocol(run: _Run) -> dict[str, Any]:
    """What experts' scores depend on."""
    chosen = dataclasses.asdict(run.settings.evaluate)
    for name in ("every_rounds", "select_episodes", "lowest_expert_share", "baselines"):
        del chosen[name]
    return {"experts": run.fingerprints(), "seed": run.settings.seed, "evaluate": chosen}


def _read_baselines(
    run: _Run, path: pathlib.Path
) -> tuple[dict[str, list[evaluation.Scores]], dict[str, dict[str, float]]]:
    """The scores in `path`, and the seconds of the run that measured them."""
    try:
        standing = json.loads(path.read_text())
        scores = {
            who: [evaluation.Scores.from_dict(x) for x in standing[who]]
            for who in ("expert", "random")
        }
        measured, seconds = {k: standing[k] for k in _protocol(run)}, standing["timer"]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there; expected a run's baselines.json") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it to measure again"
        ) from error
    for name, value in json.loads(json.dumps(_protocol(run))).items():
        if measured[name] != value:
            raise ValueError(
                f"{path} was measured with other {name} than this run's; measure again, in another "
                f"--workdir and without evaluate.baselines"
            )
    return scores, seconds


def check_experts(
    experts: Sequence[Expert],
    scores: Sequence[evaluation.Scores],
    random: Sequence[evaluation.Scores],
    lowest_share: float,
) -> None:
    """Stops a run whose expert plays wildly below its claim, before anything expensive.

    Raises:
      ValueError: an expert keeps less than `lowest_share` of its advertised score above random.
    """
    for expert, s, r in zip(experts, scores, random, strict=True):
        if expert.advertised_score is None:
            continue
        share = evaluation.retention(s.mean, expert.advertised_score, r.mean)
        if share < lowest_share:
            raise ValueError(
                f"{expert.name} scores {s.mean:.1f} in {expert.game}, {share:.0%} of the "
                f"{expert.advertised_score:g} it advertises (random: {r.mean:.1f}): what it sees "
                f"or does differs from training. Likely: the resize (area or linear), the order "
                f"of its actions, the stack order, pixels 0..1 or 0..255. Mend the spec, or set "
                f"evaluate.lowest_expert_share to 0 to go on"
            )


def _train(
    run: _Run,
    workdir: pathlib.Path,
    baselines: dict[str, list[evaluation.Scores]],
    timer: metrics.Timer,
    stop_after: str | None,
    profile: str | None,
) -> tuple[learner.TrainState, int]:
    """All rounds; returns the state that played best, and its round."""
    settings, lrn, collect = run.settings, run.settings.learn, run.settings.collect
    transform = _optimiser(settings)
    state = _create_state(settings, _initial_params(run), run.mesh)
    update = learner.make_update(
        run.network,
        transform,
        run.mesh,
        loss=lrn.loss,
        masks=run.masks,
        temperatures=jnp.asarray(
            [
                lrn.q_temperature if expert.outputs == "q" else lrn.logits_temperature
                for expert in run.experts
            ]
        ),
        batch_per_game=lrn.batch_per_game,
        minibatches=lrn.updates_per_round,
        entropy_weight=lrn.entropy_weight,
        ema_decay=lrn.ema_decay,
    )
    update_key = meshes.put(run.mesh, jax.random.fold_in(run.key, 102))

    with checkpoints.Checkpoints(workdir / "checkpoints") as saved:
        begun = saved.latest_step()
        done, best = 0, float("-inf")
        if begun is not None:
            restored = saved.restore(begun, state)
            state, done, best = restored.state, begun, restored.progress["best"]
            timer.restore(restored.progress["timer"])
        log, collector = _states(run, workdir, begun, timer)
        if stop_after == "collect":
            return state, 0
        buffer = _window(run, log)

        total = lrn.rounds * lrn.updates_per_round
        with (
            contextlib.ExitStack() as stack,
            _writer(workdir, -1 if begun is None else done * lrn.updates_per_round) as writer,
            metrics.progress(
                "learn", total, "updates", done=done * lrn.updates_per_round
            ) as advance,
        ):
            last_saved = time.monotonic()
            trace = metrics.Profile(profile)
            stack.callback(trace.close)
            for index in range(done, lrn.rounds):
                trace.step()
                share = 1.0
                if collector is not None:
                    early = max(0.0, 1.0 - index / max(1, collect.expert_share_rounds))
                    share = early + (1.0 - early) * collect.final_expert_share
                    with timer.phase("collect"):
                        chunk = collector.collect(
                            collect.steps_per_round // collect.num_envs,
                            meshes.take_local(run.mesh, state.playing),
                            share,
                        )
                    with timer.phase("store"):
                        log.append(chunk)
                        buffer.append(chunk)
                if index == done:
                    _check_usable(run, buffer)
                with timer.phase("learn"):
                    state, numbers = update(state, buffer.window, update_key)
                    row = learner.host_metrics(numbers, run.names)
                advance(lrn.updates_per_round)
                step = (index + 1) * lrn.updates_per_round
                row["expert_share"] = share
                row["steps_per_game"] = float(log.length * collect.num_envs)
                advance.status(
                    f"loss {row['loss']:.4f} "
                    + " ".join(f"{n} {row[f'agreement/{n}']:.1%}" for n in run.names)
                )
                writer.write(step, row | {f"seconds/{k}": v for k, v in timer.seconds().items()})

                value = None
                if (index + 1) % settings.evaluate.every_rounds == 0 or index + 1 == lrn.rounds:
                    with timer.phase("evaluate"):
                        if collect.follow and collector is not None and run.follow():
                            collector.replace_experts(run.experts)
                        value = _select(run, state, baselines, writer, step, advance)
                    best = max(best, value)
                stopping = stop_after == f"round:{index + 1}"
                # When to save for resuming is a matter of time alone: it changes no result.
                due = meshes.agree(time.monotonic() - last_saved > 60)
                if value is not None or stopping or due:
                    with timer.phase("save"):
                        saved.save(
                            index + 1,
                            state,
                            progress={"best": best, "timer": timer.state(), "length": log.length},
                            value=value,
                        )
                    last_saved = time.monotonic()
                if stopping:
                    return state, 0
        best_step = saved.best_step()
        assert best_step is not None  # the last round always evaluates
        return saved.restore(best_step, state).state, best_step


def _writer(workdir: pathlib.Path, resume_step: int) -> metrics.Writer | metrics.NoWriter:
    return metrics.Writer(workdir, resume_step) if meshes.leads() else metrics.NoWriter()


def _initial_params(run: _Run) -> networks.Params:
    warm = run.settings.learn.warm_start
    if warm is None:
        key = jax.random.fold_in(run.key, 100)
        return networks.init(run.network, key, run.views[0].shape)
    if pathlib.Path(warm).exists():
        expert = formats.load(warm)
    else:
        if warm not in run.names:
            raise ValueError(
                f"learn.warm_start {warm!r} is neither a game of this run "
                f"({', '.join(run.names)}) nor a file"
            )
        expert = run.experts[run.names.index(warm)]
    # Compared without what they compute in, which is no part of a shape.
    same = networks.to_dict(expert.network) == networks.to_dict(run.network)
    if not same or expert.actions != tuple(range(games.NUM_ACTIONS)):
        raise ValueError(
            f"learn.warm_start: {expert.name} ({expert.network.num_outputs} outputs) is not of the "
            f"student's shape (network {run.settings.network!r}); begin fresh instead"
        )
    return expert.params


def _states(
    run: _Run, workdir: pathlib.Path, begun: int | None, timer: metrics.Timer
) -> tuple[dataset.Log, collection.Collector | None]:
    """The dataset as the restored state had seen it, and pools to go on collecting in."""
    collect = run.settings.collect
    if collect.dataset:
        log = dataset.open_log(collect.dataset)
        for name, value in json.loads(json.dumps(run.log_info())).items():
            if name in ("games", "frame_shape", "views", "experts", "num_envs") and (
                log.info.get(name) != value
            ):
                raise ValueError(
                    f"{collect.dataset} was collected with other {name} ({log.info.get(name)!r}) "
                    f"than this run's ({value!r}); collect again, or use the same"
                )
        return log, None
    with timer.phase("collect"):
        with meshes.leader_first("dataset"):
            log = dataset.Log(workdir / "dataset", run.log_info(), writes=meshes.leads())
        initial = collect.initial_steps // collect.num_envs
        per_round = collect.steps_per_round // collect.num_envs
        log.truncate(min(log.length, initial + (begun or 0) * per_round))
        collector = None
        if log.length < initial:
            collector = _collect_initial(run, log)
        elif per_round:
            collector = _seat(run, log.actions(log.length))
    return log, collector if per_round else None


def _window(
    run: _Run, log: dataset.Log, per_env: int | None = None, mesh: Mesh | None = None
) -> dataset.WindowBuffer:
    """A window over the tail of the log, filled as if the run had never stopped."""
    collect = run.settings.collect
    if per_env is None:
        per_env = collect.window_steps // collect.num_envs
        if not collect.steps_per_round:
            per_env = min(per_env, log.length)
    buffer = dataset.WindowBuffer(
        len(run.games),
        collect.num_envs,
        per_env,
        run.views[0].shape[1:],
        games.NUM_ACTIONS,
        mesh or run.mesh,
        depth=run.views[0].stack,
    )
    buffer.skip(max(0, log.length - per_env))
    for start in range(max(0, log.length - per_env), log.length, 256):
        buffer.append(log.read(start, min(log.length, start + 256)))
    return buffer


def _check_usable(run: _Run, buffer: dataset.WindowBuffer) -> None:
    for name, count in zip(run.names, np.asarray(buffer.window.counts), strict=True):
        if not count:
            raise ValueError(f"the window holds no usable step of {name}; collect more")


def _select(
    run: _Run,
    state: learner.TrainState,
    baselines: dict[str, list[evaluation.Scores]],
    writer: metrics.Writer | metrics.NoWriter,
    step: int,
    advance: metrics.Advance,
) -> float:
    """What the best is chosen by: mean retention over games, of episodes that are never reported.

    What a game keeps beyond 100 % counts a tenth: it shall not pay for another game's loss.
    """
    episodes = run.settings.evaluate.select_episodes
    scores = run.measure(run.student_policy(state.playing), _SELECT, episodes)
    kept = [
        evaluation.retention(s.mean, e.mean, r.mean)
        for s, e, r in zip(scores, baselines["expert"], baselines["random"], strict=True)
    ]
    known = np.nan_to_num(kept)
    value = float(np.minimum(known, 0.9 + 0.1 * known).mean())
    row = {f"score/{name}": s.mean for name, s in zip(run.names, scores, strict=True)}
    if run.settings.collect.follow:
        # What the experts of the beginning scored is no measure any more: the best student is.
        value = evaluation.normalised_mean(run.games, scores)
        experts = run.measure(run.expert_policy(), _SELECT, episodes)
        row |= {f"expert_score/{n}": s.mean for n, s in zip(run.names, experts, strict=True)}
    row |= {f"retention/{name}": k for name, k in zip(run.names, kept, strict=True)}
    writer.write(step, row | {"mean_retention": float(known.mean())})
    advance.status(" ".join(f"{n} {s.mean:.1f}" for n, s in zip(run.names, scores, strict=True)))
    return value


def _rows(
    run: _Run, baselines: dict[str, list[evaluation.Scores]], students: list[evaluation.Scores]
) -> list[dict[str, Any]]:
    """One row per game: random, expert and student scores, and what the student kept."""
    rows = []
    for i, (student, expert, random) in enumerate(
        zip(students, baselines["expert"], baselines["random"], strict=True)
    ):
        rows.append(
            {
                "game": run.names[i],
                "expert_name": run.experts[i].name,
                "random": random.summary(),
                "expert": expert.summary(),
                "student": student.summary(),
                "retention": evaluation.retention(student.mean, expert.mean, random.mean),
                "retention_interval": list(evaluation.retention_interval(student, expert, random)),
                "human_normalised": run.games[i].human_normalised(student.mean),
            }
        )
    return rows


def _result(
    run: _Run,
    rows: list[dict[str, Any]],
    workdir: pathlib.Path,
    best_round: int,
    timer: metrics.Timer,
) -> dict[str, Any]:
    """Everything the closing table shows, as JSON."""
    agreement = {
        name: [row[f"agreement/{name}"] for row in metrics.read(workdir) if "loss" in row][-1]
        for name in run.names
    }
    kept = np.asarray([row["retention"] for row in rows])
    return {
        "games": [row | {"agreement": agreement[row["game"]]} for row in rows],
        "mean_retention": float(kept.mean()),
        "geometric_retention": float(np.exp(np.log(np.maximum(kept, 1e-9)).mean())),
        "worst_retention": float(kept.min()),
        "episodes": run.settings.evaluate.report_episodes,
        "epsilon": run.settings.evaluate.epsilon,
        "opening_steps": run.settings.evaluate.opening_steps,
        "opening_by": run.settings.evaluate.opening_by,
        "best_round": best_round,
        "rounds": run.settings.learn.rounds,
        "seconds": timer.seconds(),
    }
