"""A run's rounds: play is collected and learnt from, and the best student so far is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import clocks, meshes, metrics, networks, preemption, terminal
from jaxdistill.learn import checkpoints, dataset, divergence, learner, train_settings, windows
from jaxdistill.play import collection, lessons, scoring
from jaxdistill.profiler import Profile
from jaxdistill.report import tables
from jaxdistill.run import choosing, data, distill_settings
from jaxdistill.run.common import Call, Run
from jaxdistill.run.progress import Progress

# What a run whose learning has diverged may change and go on. All else decides what is in its
# checkpoints, or which states were seen.
_CHANGEABLE_AFTER_DIVERGENCE = (
    "learn.learning_rate",
    "learn.clip_norm",
    "learn.q_temperature",
    "learn.logits_temperature",
    "learn.loss",
    "learn.first_loss",
    "learn.first_rounds",
    "learn.entropy_weight",
    "learn.final_rate_fraction",
    "learn.rounds",  # with which the rate changes, and before which a run may end
)


def changeable_after_divergence(run: Run) -> tuple[str, ...]:
    """The settings that a run whose learning has diverged may change, and that change something."""
    idle = distill_settings.idle_fields(run.settings, run.experts)
    return tuple(name for name in _CHANGEABLE_AFTER_DIVERGENCE if name not in idle)


class Trained(NamedTuple):
    """What learning came to.

    Attributes:
      state: of the student that was chosen.
      round: after which it was chosen.
      rounds: how many the run was to have, or has had, if it ends before them.
      starts_seen: the starts that it was chosen by, per game: hashes, see `protocols.start_hash`.
      log: the states that it has learnt from.
    """

    state: learner.TrainState
    round: int
    rounds: int
    starts_seen: list[list[int]]
    log: dataset.Log


@dataclasses.dataclass
class _Standing:
    """How far a run is, beside its state and its log.

    Attributes:
      rounds: that it has done.
      length: steps of each environment that it has learnt from; None before the first round.
      ended: whether its target was reached.
      best: the best student so far; None before one was measured.
      measured: whether the student of now was, if one was due.
      students: how many were measured.
    """

    rounds: int = 0
    length: int | None = None
    ended: bool = False
    best: choosing.Candidate | None = None
    measured: bool = True
    students: int = 0

    @classmethod
    def of(
        cls, run: Run, baselines: scoring.Baselines, rounds: int, progress: Progress
    ) -> _Standing:
        """Of what was saved as `progress` after so many rounds."""
        lrn, best = run.settings.learn, progress.best
        if best is not None and best.played:  # an earlier version may value it otherwise
            means = {index: scores.mean for index, scores in best.played.items()}
            best = dataclasses.replace(best, value=choosing.value_of(run, baselines, means))
        return cls(
            rounds=rounds,
            length=progress.length,
            ended=lrn.target_retention is not None and progress.reached_target(lrn.rounds),
            best=best,
            measured=progress.measured,
            students=progress.students_measured(rounds, run.settings.evaluate.every_rounds),
        )


def train(
    run: Run,
    call: Call,
    initial: networks.Params,
    baselines: scoring.Baselines,
    timer: clocks.Timer,
) -> Trained | None:
    """All rounds, from where they stand; None where `call.stop_after` ended them.

    Args:
      initial: parameters that a student begins with which has learnt nothing yet.
      baselines: how the experts and random play scored.
    """
    lrn = run.settings.learn
    baselines = choosing.without_unknown_retention(baselines)
    state, standing = distill_settings.create_state(run.settings, initial, run.mesh), _Standing()
    with checkpoints.Checkpoints(call.workdir / checkpoints.FOLDER) as saved:
        begun = saved.latest_step()
        if begun is not None:
            restored = saved.restore(begun, state)
            progress = Progress.from_dict(restored.progress)
            state, standing = restored.state, _Standing.of(run, baselines, begun, progress)
            if saved.best_step() is None:  # of an earlier version, or somebody took it away
                standing.best, standing.measured = None, False
            timer.restore(progress.timer)
        done = standing.rounds
        more = done < lrn.rounds and not standing.ended
        log, collector = data.resume(run, call.workdir, standing.length, timer, collects_on=more)
        if call.stop_after == "collect":
            return None
        buffer = data.window_of(run, log)
        updates = done * lrn.updates_per_round
        total = max(lrn.rounds, done) * lrn.updates_per_round
        with (
            contextlib.closing(Profile(call.profile)) as trace,
            _writer(call.workdir, -1 if begun is None else updates) as writer,
            terminal.progress("learn", total, "updates", done=updates) as advance,
        ):
            learning = _Learning(
                run=run,
                call=call,
                baselines=baselines,
                timer=timer,
                writer=writer,
                advance=advance,
                saved=saved,
                log=log,
                buffer=buffer,
                collector=collector,
                state=state,
                standing=standing,
                mark=data.mark_of(run, log),
            )
            if not learning.go_on(trace):
                return None
        best_step = saved.best_step()
        assert best_step is not None  # the first that is measured is chosen
        # None in a run of an earlier version.
        by = {} if standing.best is None else standing.best.played
        return Trained(
            state=saved.restore(best_step, learning.state).state,
            round=best_step,
            rounds=max(lrn.rounds, done),  # it may end before those that it has had
            starts_seen=[by[i].starts.tolist() if i in by else [] for i in range(len(run.lessons))],
            log=log,
        )


@dataclasses.dataclass
class _Learning:
    """The rounds of one session, and what they share.

    Attributes:
      run, call: whose they are, and what the session was called with.
      baselines: as `choosing.without_unknown_retention` has them.
      timer, writer, advance: who is told of them.
      saved: the run's checkpoints.
      log, buffer: the states that are learnt from, all and those on the devices.
      collector: who adds to them, if anyone does.
      state, standing: the student of now, and how far the run is.
      mark: as `data.mark_of` has it of the log.
    """

    run: Run
    call: Call
    baselines: scoring.Baselines
    timer: clocks.Timer
    writer: metrics.Writer | metrics.NoWriter
    advance: terminal.Advance
    saved: checkpoints.Checkpoints
    log: dataset.Log
    buffer: windows.WindowBuffer
    collector: collection.Collector | None
    state: learner.TrainState
    standing: _Standing
    mark: dict[str, Any] | None

    def go_on(self, trace: Profile) -> bool:
        """Learns until all rounds are done or the target is reached; whether it came to that.

        Raises:
          preemption.Preempted: it was asked to end, and has saved where it is.
        """
        lrn, begun = self.run.settings.learn, self.standing.rounds
        update = make_update(self.run)
        key = meshes.put(self.run.mesh, jax.random.fold_in(self.run.key, 102))
        last_saved = time.monotonic()
        if self._due() and not self.standing.measured and not self.standing.ended:
            # Killed before it was saved that it had been measured?
            step = begun * lrn.updates_per_round
            again = meshes.leads() and metrics.tells(self.call.workdir, step, ["chosen_by"])
            self._save(chosen=self._choose(metrics.NoWriter() if again else self.writer))
        while self.standing.rounds < lrn.rounds and not self.standing.ended:
            trace.step()
            index = self.standing.rounds
            share = self._collect()
            if index == begun:
                data.check_usable(self.run, self.buffer)
            self._learn(update, key, share)
            self.standing.rounds += 1

            chosen = self._due() and self._choose(self.writer)
            preempted = meshes.any_of(preemption.asked())
            stopping = self.call.stop_after == f"round:{index + 1}" or preempted
            # When to save for resuming is a matter of time alone: it changes no result.
            late = meshes.agree(time.monotonic() - last_saved > 60)
            if chosen or stopping or late or index + 1 == lrn.rounds:
                self._save(chosen=chosen)
                last_saved = time.monotonic()
            if preempted:
                raise preemption.Preempted
            if stopping:
                return False
        return True

    def _due(self) -> bool:
        """Whether the student of now is to be measured."""
        rounds, settings = self.standing.rounds, self.run.settings
        return rounds % settings.evaluate.every_rounds == 0 or rounds >= settings.learn.rounds

    def _collect(self) -> float:
        """A round's play, where there is any; the share of it that is the experts'."""
        if self.collector is None:
            return 1.0
        collect = self.run.settings.collect
        share = distill_settings.expert_share_at(self.run.settings, self.standing.rounds)
        with self.timer.phase("collect"):
            chunk = self.collector.collect(
                collect.steps_per_round // collect.num_envs,
                meshes.take_local(self.run.mesh, self.state.eval_params),
                share,
            )
        with self.timer.phase("store"):
            self.log.append(chunk, self.collector.states())
            self.buffer.append(chunk)
        return share

    def _learn(self, update: learner.Update, key: jax.Array, share: float) -> None:
        """A round's updates, told with the share of the play before them that was the experts'."""
        run, per_round = self.run, self.run.settings.learn.updates_per_round
        step = (self.standing.rounds + 1) * per_round
        with self.timer.phase("learn"):
            self.state, numbers = update(self.state, self.buffer.window, key)
            row = _without_idle_metrics(
                run, learner.host_metrics(numbers, run.names[: len(run.taught)])
            )
            divergence.check(
                self.call.workdir,
                run.settings,
                changeable_after_divergence(run),
                step=step,
                numbers=row,
                state=self.state,
            )
        self.advance(per_round)
        row["expert_share"] = share
        row["steps_per_game"] = float(self.log.length * run.settings.collect.num_envs)
        self.advance.status(tables.learning_status(row, run.names))
        seconds = {f"seconds/{phase}": x for phase, x in self.timer.seconds().items()}
        self.writer.write(step, row | seconds)

    def _choose(self, writer: metrics.Writer | metrics.NoWriter) -> bool:
        """Measures the student of now; whether it is the one."""
        run, standing = self.run, self.standing
        try:
            with self.timer.phase("evaluate"):
                if run.settings.collect.follow and self.collector is not None and run.follow():
                    self.collector.replace_experts(run.experts)
                chosen, row, status = choosing.select(
                    run, self.state, self.baselines, standing.students, standing.best
                )
        except preemption.Preempted:
            self._save(chosen=False, measured=False)
            raise
        writer.write(standing.rounds * run.settings.learn.updates_per_round, row)
        self.advance.status(status)
        standing.students += 1
        if chosen is None:
            return False
        if standing.best is None or chosen.value >= standing.best.value:
            standing.best = chosen
        standing.ended = chosen.reaches(run.settings.learn.target_retention)
        return True

    def _save(self, *, chosen: bool, measured: bool | None = None) -> None:
        """Saves how far the run is, by default with its student measured where one is due.

        Args:
          chosen: whether the student of now is the one to report. The last one that was is, so the
            value that checkpoints are compared by is the round.
        """
        standing = self.standing
        with self.timer.phase("save"):
            progress = Progress(
                timer=self.timer.state(),
                length=self.log.length,
                dataset=self.mark,
                ended=self.run.settings.learn.rounds if standing.ended else None,
                best=standing.best,
                measured=self._due() if measured is None else measured,
                students=standing.students,
            )
            self.saved.save(
                standing.rounds,
                self.state,
                progress=progress.to_dict(),
                value=standing.rounds if chosen else None,
            )


def make_update(run: Run) -> learner.Update:
    """One round's updates, as the settings say."""
    lrn = run.settings.learn
    return learner.make_update(
        run.network,
        distill_settings.optimiser(run.settings),
        run.mesh,
        objective=learner.Objective(
            form=run.suite.form,
            loss=lrn.loss,
            first_loss=lrn.first_loss,
            first_updates=[
                0 if lesson.name == lrn.begins_as else lrn.first_rounds * lrn.updates_per_round
                for lesson in run.taught
            ],
            masks=lessons.masks(run.taught),
            temperatures=jnp.asarray(
                [train_settings.temperature_of(lesson.teacher, lrn) for lesson in run.taught]
            ),
            entropy_weight=lrn.entropy_weight,
        ),
        minibatches=learner.Minibatches(
            per_game=lrn.batch_per_game, shares=run.shares, number=lrn.updates_per_round
        ),
        view=run.view,
        seen=_seen(run) if lrn.resample_unseen else None,
        ema_decay=lrn.ema_decay,
    )


def _seen(run: Run) -> jax.Array:
    """`(G, D)` bool, which of the numbers that the student sees each expert can know of."""
    everything = np.ones(run.view.shape[-1], bool)
    seen = [lesson.task.seen for lesson in run.taught]
    return jnp.asarray(np.stack([everything if x is None else x for x in seen]))


def _writer(workdir: pathlib.Path, resume_step: int) -> metrics.Writer | metrics.NoWriter:
    return metrics.Writer(workdir, resume_step) if meshes.leads() else metrics.NoWriter()


def _without_idle_metrics(run: Run, row: dict[str, float]) -> dict[str, float]:
    """A round's numbers without those that say nothing of their task."""
    form = run.suite.form
    idle = {
        f"{name}/{lesson.name}"
        for lesson in run.taught
        for name in {"agreement", "angle_error", "regret"} - {*form.compared(lesson.mask)}
    }
    return {name: x for name, x in row.items() if name not in idle}
