"""A whole run, done again by hand: who drives, what is learnt, which student is reported, and how.

The run is killed twice, and what it had collected since is still there: it must end as if nothing
had happened. Two games that score within a few steps, experts of fixed numbers, a linear student.
"""

import dataclasses
import functools
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, metrics, networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import checkpoints, dataset, learner, windows
from jaxdistill.play import (
    clips,
    collection,
    evaluation,
    lessons,
    protocols,
    records,
    rollouts,
    scoring,
)
from jaxdistill.play.lessons import Lesson
from jaxdistill.report import hints, page
from jaxdistill.run import (
    choosing,
    closing,
    common,
    distill,
    distill_settings,
    evaluating,
    students,
)
from jaxdistill.tasks import atari
from jaxdistill.tasks.actions import Choices, Discrete
from jaxdistill.tasks.task import seed_for
from jaxdistill.tasks.views import Vector

pytestmark = pytest.mark.usefixtures("without_page")
GAMES = ("asterix", "carnival")
LINEAR = networks.Network(convs=())
ENVS, INITIAL, ROUND, WINDOW, ROUNDS = 4, 24, 8, 28, 4
SHARES = [1.0, 0.75, 0.5, 0.5]
MASKS = np.stack([tasks.get(name).mask for name in GAMES])
CHOICES = Choices(Discrete(18), jnp.asarray(MASKS), [tasks.get(name).number for name in GAMES])


@pytest.fixture(scope="module", autouse=True)
def _linear():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "linear", LINEAR)
        yield


@pytest.fixture(scope="module")
def settings(_linear, watcher, tmp_path_factory):
    root = tmp_path_factory.mktemp("watchers")
    watcher("asterix", 1, "q").save(root / "asterix")
    watcher("carnival", 2, "logits").save(root / "carnival")
    return distill_settings.Settings(
        experts=tuple(ExpertSource(str(root / name)) for name in GAMES),
        network="linear",
        seed=5,
        collect=distill_settings.Collect(
            num_envs=ENVS,
            initial_steps=ENVS * INITIAL,
            steps_per_round=ENVS * ROUND,
            window_steps=ENVS * WINDOW,
            expert_share_rounds=2,
            final_expert_share=0.5,
            change_drivers=True,
            expert_epsilon=0.5,
            student_epsilon=0.0,
        ),
        learn=distill_settings.Learn(
            rounds=ROUNDS,
            updates_per_round=2,
            batch_per_game=8,
            loss="kl",
            first_loss="nll",
            first_rounds=2,
            q_temperature=0.05,
            logits_temperature=2.0,
            entropy_weight=0.05,
            ema_decay=0.7,
            learning_rate=0.015,
            weight_decay=0.01,
        ),
        evaluate=distill_settings.Evaluate(
            every_rounds=1,
            select_episodes=4,
            report_episodes=4,
            epsilon=0.25,
            sample_logits=True,
            max_steps=40,
        ),
    )


@dataclasses.dataclass
class Done:
    """A finished run: where, what it returned, what it saved after each round, what was shown.

    Of every round stands who was chosen too, or None.
    """

    workdir: object
    result: dict
    states: dict
    chosen: dict
    clips: list


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    done = Done(workdir, {}, {}, {}, [])
    save, record, select = checkpoints.Checkpoints.save, clips.record, choosing.select

    def keep(self, step, state, **options):
        done.states[step] = jax.device_get(state)
        return save(self, step, state, **options)

    def choose(run, state, *arguments):
        number = int(state.step) // settings.learn.updates_per_round
        done.states[number] = jax.device_get(state)
        selection = select(run, state, *arguments)
        done.chosen[number] = selection.chosen
        return selection

    def show(lesson, policy, **options):
        done.clips.append((lesson, options))
        return record(lesson, policy, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", keep)
        patch.setattr(choosing, "select", choose)
        # Four games do not tell these experts from random play: they count as if they did.
        patch.setattr(choosing, "without_unknown_retention", lambda baselines: baselines)
        patch.setattr(clips, "record", show)
        patch.setattr(page, "CLIP_SECONDS", 3 / 15)
        patch.setattr(closing, "COMPARED_STATES", 8)
        distill.distill(settings, workdir, stop_after="baselines")
        distill.distill(settings, workdir, stop_after="round:2")
        # Killed when half of the third round was collected, and written down.
        log = dataset.Log(workdir / "dataset", dataset.open_log(workdir / "dataset").info)
        log.append(log.read(log.length - 4, log.length))
        assert dataset.open_log(workdir / "dataset").length == INITIAL + 2 * ROUND + 4
        done.result = distill.distill(settings, workdir)
    return done


def _log(done):
    log = dataset.open_log(done.workdir / "dataset")
    return log.read(0, log.length)


def _stacks(chunk, game, time):
    """What all environments of a game saw at a time, `(N, 4, H, W)`."""
    ages = chunk.ages[game, time].astype(int)
    back = [np.maximum(time - k, time - ages) for k in (3, 2, 1, 0)]
    return np.stack([chunk.frames[game, t, np.arange(ENVS)] for t in back], axis=1)


def _greedy(params, stacks, game):
    outputs = np.asarray(jax.jit(LINEAR.apply)(params, stacks))
    return np.where(MASKS[game], outputs, -np.inf).argmax(axis=1)


def test_everything_collected_is_there_once(done):
    chunk = _log(done)
    assert chunk.frames.shape[:3] == (2, INITIAL + ROUNDS * ROUND, ENVS)
    log = dataset.open_log(done.workdir / "dataset")
    for count in range(ROUNDS + 1):  # where a run may go on without playing what came before
        assert log.states(INITIAL + count * ROUND).shape == (2, ENVS)
    for index, name in enumerate(GAMES):
        pool = atari.AtariPool(tasks.get(name), ENVS, seed=seed_for(5, lessons.COLLECT, index))
        for time, actions in enumerate(chunk.actions[index]):
            np.testing.assert_array_equal(chunk.frames[index, time], pool.last.observations[:, -1])
            np.testing.assert_array_equal(chunk.ages[index, time], pool.last.ages)
            np.testing.assert_array_equal(chunk.usable[index, time], ~pool.last.over)
            pool.step(actions)


def test_the_experts_drive_their_share_with_their_epsilon_and_the_student_the_rest(settings, done):
    chunk = _log(done)
    rows = [row for row in metrics.read(done.workdir) if "loss" in row]
    assert [row["expert_share"] for row in rows] == pytest.approx(SHARES)
    assert [row["steps_per_game"] for row in rows] == [
        ENVS * (INITIAL + ROUND * n) for n in (1, 2, 3, 4)
    ]
    by_expert, apart, seated = [], 0, []
    for index, share in enumerate(SHARES):
        times = range(INITIAL + index * ROUND, INITIAL + (index + 1) * ROUND)
        played = chunk.actions[0, times]
        expert = np.where(MASKS[0], chunk.labels[0, times], -np.inf).argmax(axis=-1)
        if index:
            state = done.states[index]
            student, raw = (
                np.stack([_greedy(p, _stacks(chunk, 0, t), 0) for t in times])
                for p in (state.eval_params, state.params)
            )
            # The student is never in doubt: it is where all that is done is what it would do.
            drives = (played == student).all(axis=0)
            apart += (raw != student)[:, drives].sum()
        else:
            drives = np.zeros(ENVS, bool)
        assert drives.sum() == round((1 - share) * ENVS)
        seated.append(drives.tolist())
        by_expert.append((played == expert)[:, ~drives])
    assert apart > 0, "were another student at the wheel, nothing here would show it"
    # Half of what the experts do is drawn from nine actions: 5/9 is what they would choose.
    first = chunk.actions[0, :INITIAL]
    expert = np.where(MASKS[0], chunk.labels[0, :INITIAL], -np.inf).argmax(axis=-1)
    kept = np.concatenate([(first == expert).ravel(), *(x.ravel() for x in by_expert)])
    assert 0.4 < kept.mean() < 0.7
    changes = itertools.pairwise(seated)
    assert any(a and not b for before, after in changes for a, b in zip(before, after, strict=True))


def _updates(params, first_updates):
    """An update as the settings say, and the state of `params` that it begins with."""
    devices = meshes.create()
    transform = learner.optimiser(
        "adamw",
        learning_rate=0.015,
        updates=ROUNDS * 2,
        final_fraction=0.1,
        weight_decay=0.01,
        clip_norm=10.0,
    )
    update = learner.make_update(
        LINEAR,
        transform,
        devices,
        objective=learner.Objective(
            loss="kl",
            first_loss="nll",
            first_updates=first_updates,
            masks=jnp.asarray(MASKS),
            temperatures=jnp.array([0.05, 2.0]),  # Q-values, logits
            entropy_weight=0.05,
        ),
        minibatches=learner.Minibatches(per_game=8, number=2),
        ema_decay=0.7,
    )
    key = meshes.put(devices, jax.random.fold_in(jax.random.key(5), 102))
    state = learner.create_state(params, transform, devices, averaged=True)
    return lambda state, window: update(state, window, key)[0], state


def _assert_close(state, other):
    for a, b in zip(
        *(jax.tree.leaves((x.params, x.eval_params)) for x in (state, other)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _fill(buffer, chunk, start, stop):
    buffer.append(collection.Chunk(*(x[:, start:stop] for x in chunk)))


def test_what_is_learnt_is_what_the_settings_say(done):
    """Every round again, from the log alone."""
    chunk = _log(done)
    params = networks.init(LINEAR, jax.random.fold_in(jax.random.key(5), 100), (4, 84, 84))
    update, state = _updates(params, [4, 4])
    buffer = windows.WindowBuffer(2, ENVS, WINDOW, (84, 84), 18, meshes.create())
    _fill(buffer, chunk, 0, INITIAL)
    for number in range(1, ROUNDS + 1):
        _fill(buffer, chunk, INITIAL + (number - 1) * ROUND, INITIAL + number * ROUND)
        state = update(state, buffer.window)
        _assert_close(state, done.states[number])


def test_a_game_begun_with_has_its_loss_from_the_start(settings, done, tmp_path):
    warm = dataclasses.replace(
        settings,
        learn=dataclasses.replace(settings.learn, warm_start="asterix"),
        evaluate=dataclasses.replace(settings.evaluate, every_rounds=9),
    )
    distill.distill(warm, tmp_path / "warm", stop_after="round:1")
    assert not any("mean_retention" in row for row in metrics.read(tmp_path / "warm")), "not yet"
    chunk = dataset.open_log(tmp_path / "warm/dataset").read(0, INITIAL + ROUND)
    update, state = _updates(common.Run(warm, meshes.create()).experts[0].params, [0, 4])
    buffer = windows.WindowBuffer(2, ENVS, WINDOW, (84, 84), 18, meshes.create())
    _fill(buffer, chunk, 0, INITIAL + ROUND)
    state = update(state, buffer.window)
    with checkpoints.Checkpoints(tmp_path / "warm/checkpoints") as saved:
        _assert_close(saved.restore(1, state).state, state)


def test_choices_are_compared_where_the_run_was_last(done):
    """On eight states of the last eight steps, the first and the last whole stack among them."""
    chunk, length = _log(done), INITIAL + ROUNDS * ROUND
    best = done.states[done.result["best_round"]].eval_params
    for game, row in enumerate(done.result["games"]):
        seen = [
            (_stacks(chunk, game, time)[env], chunk.labels[game, time, env])
            for time in range(length - 8, length)
            for env in range(ENVS)
            if time - min(chunk.ages[game, time, env], 3) >= length - 8
            and chunk.usable[game, time, env]
        ]
        chosen = np.linspace(0, len(seen) - 1, 8).astype(int)
        stacks, labels = (np.stack([seen[i][k] for i in chosen]) for k in (0, 1))
        valid = np.where(MASKS[game], labels, -np.inf)
        own = _greedy(best, stacks, game)
        assert row["agreement"] == np.mean(own == valid.argmax(axis=1))
        cost = valid.max(axis=1) - valid[np.arange(8), own]
        assert row["regret"] == pytest.approx(cost.mean(), abs=1e-4)


@pytest.fixture(scope="module")
def base(settings):
    """Measures what the settings say."""
    return common.Run(settings, meshes.create())


@pytest.fixture(scope="module")
def act(settings):
    """A student that is measured."""
    return rollouts.network_actor(LINEAR, CHOICES, epsilon=settings.evaluate.epsilon)


def _means(scores):
    return [s.mean for s in scores]


def test_the_student_is_chosen_by_what_the_one_that_plays_scores(base, act, done):
    """By mean retention, of which what is above 1 counts a tenth, and never more than a tenth."""
    expert, random = (
        np.array(_means(base.play_first(base.player(who)))) for who in ("expert", "random")
    )
    rows = [row for row in metrics.read(done.workdir) if "mean_retention" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert {row["select_games"] for row in rows} == {4.0}
    kept = np.array([[row[f"retention/{name}"] for name in GAMES] for row in rows])
    scores = np.array([[row[f"score/{name}"] for name in GAMES] for row in rows])
    np.testing.assert_allclose(kept, (scores - random) / (expert - random))
    np.testing.assert_allclose([row["mean_retention"] for row in rows], kept.mean(axis=1))
    values = np.where(kept > 1, 1.1 - 0.1 / np.maximum(kept, 1), kept).mean(axis=1)
    np.testing.assert_allclose([row["chosen_by"] for row in rows], values)
    chosen = {number: x.value for number, x in done.chosen.items() if x is not None}
    assert [*done.chosen] == [1, 2, 3, 4] and len(chosen) > 1
    np.testing.assert_allclose([*chosen.values()], [values[number - 1] for number in chosen])
    assert (kept > 1).any(), "or a tenth of nothing was counted"
    for number in (1, ROUNDS):
        policy = functools.partial(act, done.states[number].eval_params)
        played = base.measure(policy, lessons.SELECT, 4)
        assert _means(played) == scores[number - 1].tolist()


def test_the_student_that_was_chosen_is_reported_not_the_last(base, act, done):
    best = max(number for number, chosen in done.chosen.items() if chosen is not None)
    assert best < ROUNDS, "the last would be the best: nothing here would show which is reported"
    assert (done.result["best_round"], done.result["rounds"]) == (best, ROUNDS)
    reported = [row["student"]["mean"] for row in done.result["games"]]
    assert [row["student"]["episodes"] for row in done.result["games"]] == [4, 4]
    own, *others = (
        _means(base.measure(functools.partial(act, params), lessons.REPORT, 4))
        for params in (
            done.states[best].eval_params,
            done.states[ROUNDS].eval_params,
            done.states[best].params,
        )
    )
    assert reported == own
    assert reported not in others


def test_the_closing_table_by_hand(done):
    kept = []
    for row in done.result["games"]:
        student, expert, random = (row[who]["mean"] for who in ("student", "expert", "random"))
        kept.append((student - random) / (expert - random))
        assert row["retention"] == pytest.approx(kept[-1])
    # Four games do not tell whether one of these experts is better than random play.
    assert any(None in row["retention_interval"] for row in done.result["games"])
    assert {done.result[f"{which}_retention"] for which in ("mean", "geometric", "worst")} == {None}
    assert done.result["epsilon"] == 0.25 and done.result["episodes"] == 4
    assert len(set(kept)) == 2


def test_experts_and_random_play_are_measured_as_the_student_is(base, done):
    sampling = rollouts.expert_actor(base.experts, epsilon=0.25, sample_logits=True)
    chance = rollouts.random_policy(CHOICES)
    for who, policy in (("expert", sampling), ("random", chance)):
        played = base.measure(policy, lessons.REPORT, 4)
        first = base.play_first(base.player(who))
        assert [s.to_dict() for s in first] == [s.first(4).to_dict() for s in played]
        assert [row[who]["mean"] for row in done.result["games"]] == _means(played)


@pytest.mark.parametrize(
    ("purpose", "side", "by"), [(lessons.SELECT, 0, "random"), (lessons.REPORT, 1, "expert")]
)
def test_games_are_measured_from_starts_of_their_purpose(settings, purpose, side, by):
    changed = dataclasses.replace(settings.evaluate, opening_by=by, opening_steps=7)
    base = common.Run(dataclasses.replace(settings, evaluate=changed), meshes.create())
    assert {lessons.SELECT: 1, lessons.REPORT: 2}[purpose] == purpose, (
        "seeds that runs were made with"
    )
    chance = rollouts.random_policy(CHOICES)
    expert = rollouts.expert_actor(base.experts, epsilon=0.25, sample_logits=True)
    played = base.measure(expert, purpose, 2)
    by_hand = evaluation.measure(
        [
            Lesson(index, tasks.get(name), expert.view, 5)
            for index, (name, expert) in enumerate(zip(GAMES, base.experts, strict=True))
        ],
        expert,
        protocols.Protocol(
            purpose,
            0 if purpose == lessons.REPORT else 5,  # what is reported is alike in every run
            protocols.Opening({"random": chance, "expert": expert}[by], 7, chance, side),
            max_steps=40,
        ),
        2,
        meshes.create(),
    )
    assert [s.to_dict() for s in played] == [s.to_dict() for s in by_hand]
    assert all(s.unfinished for s in played), "games that the step limit cuts"
    assert [s.to_dict() for s in base.measure(expert, purpose, 2, only=[1])] == [
        played[1].to_dict()
    ]


@pytest.mark.parametrize("sample", [False, True])
def test_experts_that_are_measured_sample_if_they_are_told_to(settings, sample):
    changed = dataclasses.replace(settings.evaluate, sample_logits=sample, epsilon=0.0)
    base = common.Run(dataclasses.replace(settings, evaluate=changed), meshes.create())
    pool = atari.AtariPool(tasks.get("carnival"), 1, seed=0)
    seen = jnp.asarray(pool.last.observations).repeat(64, axis=0)
    (actions,), _ = base.expert_policy()((seen,), jax.random.key(0), (1,), (np.arange(64),))
    assert (len(np.unique(actions)) > 1) == sample


def test_clips_show_games_that_were_neither_learnt_nor_chosen_nor_reported_in(done):
    seeds = [seed_for(5, lessons.SHOW, index) for index in (0, 1)]
    assert [(lesson.name, options["seed"]) for lesson, options in done.clips] == [
        (name, seed) for name, seed in zip(GAMES, seeds, strict=True) for _ in range(2)
    ]
    assert [lesson.index for lesson, _ in done.clips] == [0, 0, 1, 1]
    # As long as a clip may be, and no game is longer than those that are measured.
    assert {(options["steps"], options["max_steps"]) for _, options in done.clips} == {(3, 40)}


def test_the_seconds_of_all_three_sittings_are_told(done):
    seconds = done.result["seconds"]
    # Four rounds were learnt; a sitting that forgot the first would tell of two.
    rows = [row for row in metrics.read(done.workdir) if "loss" in row]
    learnt = [row["seconds/learn"] for row in rows]
    assert learnt == sorted(learnt) and seconds["learn"] >= learnt[-1]
    # And all phases together of the whole, which is on disk too, with what came after the result.
    wall = json.loads((done.workdir / "wall.json").read_text())["seconds"]
    assert seconds["other"] > 0 < seconds["compile"]
    assert wall - 1 < sum(seconds.values()) <= wall


def test_a_result_holds_what_its_log_suggests(done):
    evidence = hints.Evidence(
        history=metrics.read(done.workdir),
        rounds=ROUNDS,
        loss="kl",
        of_q=False,
        steps_per_round=ENVS * ROUND,
        begins={},
        shares={row["game"]: f"{row['game']}=2" for row in done.result["games"]},
    )
    assert done.result.get("hint") == hints.closing_hint(done.result, evidence)


def test_a_student_is_measured_again_as_it_is_asked_for(settings, done):
    terms = protocols.Terms(3, epsilon=0.75, seed=11, opening_steps=9, opening_by="expert")
    rows = evaluating.find(done.workdir).measure(terms)
    other = dataclasses.replace(
        settings,
        evaluate=dataclasses.replace(
            settings.evaluate, epsilon=0.75, opening_steps=9, opening_by="expert"
        ),
    )
    best = done.states[done.result["best_round"]].eval_params
    act = rollouts.network_actor(LINEAR, CHOICES, epsilon=0.75)
    played = common.Run(other, meshes.create(), report_seed=11).measure(
        functools.partial(act, best), lessons.REPORT, 3
    )
    assert [row["student"] for row in rows] == [s.summary() for s in played]


def test_a_finished_run_that_has_lost_its_student_is_not_told_to_run_on(done, tmp_path):
    for name in ("config.json", "student.json", "result.json"):
        shutil.copy(done.workdir / name, tmp_path)
    with pytest.raises(ValueError, match=r"has ended, and its student, in .*/checkpoints, is not"):
        students.read(tmp_path)


def test_a_finished_run_is_told_by_its_settings(settings, done, capsys):
    """Those that say nothing of what it did may differ."""
    evaluate = dataclasses.replace(settings.evaluate, lowest_expert_share=0.1)
    same = dataclasses.replace(settings, evaluate=evaluate)
    assert distill.distill(same, done.workdir, profile="trace") == done.result
    assert capsys.readouterr().out.startswith("no profile in trace: the run has ended")
    for change in (
        {"seed": 6},
        {"learn": dataclasses.replace(settings.learn, learning_rate=0.01)},
        {"evaluate": dataclasses.replace(settings.evaluate, select_episodes=1)},
        {"collect": dataclasses.replace(settings.collect, student_epsilon=0.1)},
    ):
        with pytest.raises(ValueError, match="holds a run with"):
            distill.distill(dataclasses.replace(settings, **change), done.workdir)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"every_rounds": 2, "lowest_expert_share": 0.1, "report_episodes": 3, "seed": 6}, ""),
        ({"select_episodes": 1}, ""),
        ({"epsilon": 0.2}, "expert"),
        ({"sample_logits": False}, "expert"),
        ({"max_steps": 41}, "expert, random"),
        ({"opening_steps": 3}, "expert, random"),
        ({"opening_by": "expert"}, "expert, random"),
        ({"experts": "another"}, "expert"),
    ],
    ids=str,
)
def test_only_what_was_measured_alike_is_taken_over(
    settings, done, watcher, tmp_path, changes, again
):
    fields = {k: v for k, v in changes.items() if k not in ("seed", "experts")}
    other = dataclasses.replace(
        settings,
        seed=changes.get("seed", 5),
        evaluate=dataclasses.replace(settings.evaluate, **fields),
    )
    if "experts" in changes:
        watcher("carnival", 9, "logits").save(tmp_path / "other")
        sources = (settings.experts[0], ExpertSource(str(tmp_path / "other")))
        other = dataclasses.replace(other, experts=sources)
    base = common.Run(other, meshes.create())
    known = records.Records(given=[done.workdir / "played"])
    missing = [
        who
        for who in ("expert", "random")
        for lesson in base.lessons[1:]
        if known.find(lesson, base.protocol(lessons.REPORT), base.player(who)) is None
    ]
    assert ", ".join(missing) == again


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, None),
        ({"expert_epsilon": 0.9, "seed": 6}, None),  # other play of the same experts will do
        ({"games": ["carnival", "asterix"]}, "games"),
        ({"experts": ["a", "b"]}, "experts"),
        ({"views": []}, "views"),
        ({"num_envs": 8}, "num_envs"),
        ({"frame_shape": [42, 84]}, "frame_shape"),
    ],
    ids=str,
)
def test_only_a_dataset_of_the_same_experts_is_learnt_from(
    settings, done, tmp_path, changes, differs
):
    info = dataset.open_log(done.workdir / "dataset").info
    dataset.Log(tmp_path / "data", info | changes)
    fixed = dataclasses.replace(
        settings,
        collect=distill_settings.Collect(
            num_envs=ENVS,
            window_steps=ENVS * WINDOW,
            steps_per_round=0,
            dataset=str(tmp_path / "data"),
        ),
    )
    message = f"collected with other {differs} " if differs else "no usable step of asterix"
    shutil.copytree(done.workdir / "played", tmp_path / "cache")  # or experts would play again
    with pytest.raises(ValueError, match=message):
        distill.distill(fixed, tmp_path / "run", cache_dir=tmp_path / "cache")


def _scored(mean):
    scores, ones = np.array([mean - 1.0, mean + 1.0]), np.ones(2, int)
    return scoring.Scores(scores, ones, np.arange(2), ones == 0)


@pytest.mark.parametrize(("lowest", "refused"), [(0.45, False), (0.55, True), (0.0, False)])
def test_an_experts_share_of_its_claim_is_counted_above_random(watcher, lowest, refused):
    """It scores 30 of 50, random play 10: half of what it claims, not three fifths."""
    silent, expert = (
        dataclasses.replace(watcher("asterix", 1), advertised_score=claim) for claim in (None, 50.0)
    )
    arguments = ([silent, expert], [_scored(0.0), _scored(30.0)], [9.0, 10.0])
    if refused:
        with pytest.raises(ValueError, match=r"asterix scores 30\.0 in asterix, 50% of"):
            common.check_experts(*arguments, lowest)
    else:
        common.check_experts(*arguments, lowest)
    common.check_experts(*arguments[:2], [None, None], lowest)  # as long as that is not known


@pytest.mark.parametrize(
    ("limit", "rules"), [(500, atari.USUAL), (27_000, atari.Rules(end_at_life=True))]
)
def test_an_expert_s_claim_is_of_whole_usual_games(watcher, limit, rules):
    """It advertises 400 of them, and scores 15 where they are cut."""
    expert = dataclasses.replace(watcher("asterix", 1), advertised_score=400.0)
    common.check_experts([expert.under(rules)], [_scored(15.0)], [2.0], 0.25, limit)
    with pytest.raises(ValueError, match="of the 400 it advertises"):
        common.check_experts([expert], [_scored(15.0)], [2.0], 0.25, 27_000)


def test_a_game_that_stands_still_is_suggested_more_rows_than_it_has(settings):
    for shares, more in (
        (None, "pong=2"),
        ("pong=2", "pong=3"),
        ("breakout=3", "breakout=3,pong=2"),
    ):
        learn = dataclasses.replace(settings.learn, shares=shares)
        assert distill_settings.more_of(dataclasses.replace(settings, learn=learn), "pong") == more


def test_an_expert_that_claims_no_more_than_random_play_is_held_to_nothing(watcher):
    """A share of what lies below 0 would say that playing better is playing worse."""
    expert = dataclasses.replace(watcher("asterix", 1), advertised_score=-300.0)
    common.check_experts([expert], [_scored(-100.0)], [-180.0], 0.25)


def test_what_a_lander_may_see_otherwise_is_not_said_of_screens():
    network = networks.Network(convs=(), num_outputs=4)
    pilot = Expert(
        "pilot", network, {}, "q", (0, 1, 2, 3), Vector(8), "lander/heavy", advertised_score=200.0
    )
    with pytest.raises(ValueError, match=r"pilot scores 0\.0 in lander/heavy, .*order of") as error:
        common.check_experts([pilot], [_scored(0.0)], [-180.0], 0.9)
    assert "pixels" not in str(error.value) and "resize" not in str(error.value)


def test_an_expert_in_training_is_followed(settings, watcher, tmp_path, monkeypatch):
    """Its labels, its place in the table; and what counts in choosing is the score itself."""
    values, select = [], choosing.select
    first, later = watcher("carnival", 2), watcher("carnival", 11)
    first.save(tmp_path / "expert")

    def select_and_replace(*arguments):
        """The training finds a better network after the first evaluation."""
        shutil.rmtree(tmp_path / "expert")
        later.save(tmp_path / "expert")
        *others, _ = arguments
        selection = select(*others, None)  # as the first it is chosen, whatever it scores
        values.append(selection.chosen.value)
        return selection

    monkeypatch.setattr(choosing, "select", select_and_replace)
    monkeypatch.setattr(page, "CLIP_SECONDS", 1 / 15)
    monkeypatch.setattr(lessons, "SELECT", lessons.REPORT)
    following = dataclasses.replace(
        settings,
        experts=(ExpertSource(str(tmp_path / "expert")),),
        collect=dataclasses.replace(settings.collect, follow=True),
        learn=dataclasses.replace(
            settings.learn, rounds=5, first_loss=None, first_rounds=0, logits_temperature=1.0
        ),
        evaluate=dataclasses.replace(settings.evaluate, every_rounds=2, sample_logits=False),
    )
    (row,) = distill.distill(following, tmp_path / "run")["games"]
    # Replaced in the first evaluation, read again before the second: round 5 is the later's.
    length = INITIAL + 5 * ROUND
    chunk = dataset.open_log(tmp_path / "run/dataset").read(0, length)
    replaced = INITIAL + 4 * ROUND
    for time, expert in ((0, first), (replaced - 1, first), (replaced, later), (length - 1, later)):
        said = expert.suite_outputs(_stacks(chunk, 0, time))
        np.testing.assert_allclose(chunk.labels[0, time], said, atol=1e-4)
    base = common.Run(following, meshes.create())
    (played,) = base.measure(base.expert_policy(), lessons.REPORT, 4)
    assert row["expert"] == played.summary() and row["expert"]["episodes"] == 4
    first.save(tmp_path / "first")
    sources = (ExpertSource(str(tmp_path / "first")),)
    begun = common.Run(dataclasses.replace(following, experts=sources), meshes.create())
    (before,) = begun.measure(begun.expert_policy(), lessons.REPORT, 4)
    assert played.scores.tolist() != before.scores.tolist()
    assert row["shared_starts"] == 4, "the games it was chosen by are among those reported"
    rows = [r for r in metrics.read(tmp_path / "run") if "mean_retention" in r]
    assert [r["step"] for r in rows] == [4, 8, 10], "every second round, and the last"
    # No human score of Carnival is known: its own counts, in those of random play.
    (random,) = _means(base.play_first(base.player("random")))
    assert values == pytest.approx([(r["score/carnival"] - random) / random for r in rows])
    assert len({r["expert_score/carnival"] for r in rows}) == 2
