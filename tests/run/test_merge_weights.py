"""A merge of weights from its settings to its table, and read back as a student is."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest

from configs import reference
from jaxdistill import clocks, meshes, networks, preemption, tasks, terminal
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import checkpoints, dataset, weight_merging
from jaxdistill.learn.weight_merging import Merge
from jaxdistill.play import protocols, scoring
from jaxdistill.play.lessons import Lesson
from jaxdistill.report import tables
from jaxdistill.run import (
    common,
    data,
    distill,
    distill_settings,
    evaluating,
    merge_settings,
    merge_weights,
    students,
    warm_start,
)
from jaxdistill.tasks.atari import Rules

ONE = meshes.create(jax.devices()[:1])
TINY = networks.Network(convs=(networks.ConvLayer(3, 8, 8),), hidden=(5,), num_outputs=18)
SHAPE = (4, 84, 84)
GAMES = ("asterix", "carnival")


def an_expert(game, seed=0, network=TINY, **fields):
    wanted = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), SHAPE))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype) / 8, wanted)
    given = {"outputs": "q", "actions": tuple(range(18)), "game": game} | fields
    return Expert(name=f"tiny {game}", network=network, params=params, **given)


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "tiny", TINY)
        yield


@pytest.fixture(scope="module")
def settings(_tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    for i, game in enumerate(GAMES):
        an_expert(game, i).save(root / game)
    return merge_settings.Settings(
        experts=tuple(ExpertSource(str(root / game)) for game in GAMES),
        method="htcl",
        collect=merge_settings.Collect(num_envs=4, initial_steps=64),
        merge=Merge(batch_size=16, catch_up_rounds=0),
        evaluate=distill_settings.Measure(report_episodes=2, max_steps=24, opening_steps=4),
    )


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    """A merge stopped twice on its way and killed once its weights were merged.

    Where it is, and its result.
    """
    workdir = tmp_path_factory.mktemp("merge") / "run"
    with pytest.MonkeyPatch.context() as patch:

        def appended(*args):
            patch.setattr(preemption, "_asked", True)
            append(*args)

        append = dataset.Log.append
        patch.setattr(dataset.Log, "append", appended)
        patch.setattr(data, "_CHUNK_STEPS", 4)
        with pytest.raises(preemption.Preempted, match=r"^$"):
            merge_weights.merge(settings, workdir, mesh=ONE)
    assert dataset.open_log(workdir / "dataset").length == 4, "of 16"
    with pytest.MonkeyPatch.context() as patch:

        def stopped(*args):
            patch.setattr(preemption, "_asked", True)
            return htcl(*args)

        htcl = weight_merging.htcl
        patch.setattr(weight_merging, "htcl", stopped)
        again = r"^merges the weights from the beginning: states and games are kept$"
        with pytest.raises(preemption.Preempted, match=again):
            merge_weights.merge(settings, workdir, mesh=ONE)
    with checkpoints.Checkpoints(workdir / "checkpoints") as saved:
        assert saved.latest_step() is None, "it has stopped before its weights were merged"
    assert merge_weights.merge(settings, workdir, mesh=ONE, stop_after="merge") == {}
    assert not (workdir / "result.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_weights, "_merged", None)  # what was merged is read back
        result = merge_weights.merge(settings, workdir, mesh=ONE)
    return workdir, result


@pytest.fixture(scope="module")
def merged(done):
    """What it has made, as students are read."""
    return jax.device_get(students.load_student(done[0]).state.eval_params)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, dict(one), dict(other))


def test_a_merge_is_measured_shown_and_not_made_twice(settings, done, contents, capsys, tmp_path):
    workdir, result = done
    assert result["method"] == "htcl" and [row["game"] for row in result["games"]] == [*GAMES]
    for row in result["games"]:
        assert row["student"]["episodes"] == row["expert"]["episodes"] == 2
        assert 0 <= row["agreement"] <= 1 and row["shared_starts"] == 0
    assert {"merge", "collect", "report"} <= result["seconds"].keys()
    assert json.loads((workdir / "result.json").read_text()) == json.loads(json.dumps(result))
    tables.print_result(result)
    printed = " ".join(capsys.readouterr().out.split())
    assert "retention" in printed and "weights merged by htcl" in printed
    assert "none helped to choose the student" in printed
    before = contents(workdir)
    assert merge_weights.merge(settings, workdir, mesh=ONE)["games"] == result["games"]
    assert contents(workdir) == before
    moved = tuple(
        dataclasses.replace(x, path=str(shutil.copytree(x.path, tmp_path / game)))
        for x, game in zip(settings.experts, GAMES, strict=True)
    )
    run = shutil.copytree(workdir, tmp_path / "run")
    assert (
        merge_weights.merge(dataclasses.replace(settings, experts=moved), run, mesh=ONE) == result
    )
    assert students.load_settings(run).experts == moved, "where they are asked from now on"
    other = dataclasses.replace(settings, method="mean", merge=Merge())
    with pytest.raises(
        ValueError, match=r"holds a run with merge\.batch_size 16, this one has 256"
    ):
        merge_weights.merge(other, workdir, mesh=ONE)


def test_a_merge_that_was_stopped_and_killed_is_the_uninterrupted_one(
    settings, done, merged, tmp_path
):
    workdir, result = done
    whole = merge_weights.merge(settings, tmp_path, mesh=ONE)
    assert result["games"] == whole["games"]
    assert_same(merged, jax.device_get(students.load_student(tmp_path).state.eval_params))
    logs = [dataset.open_log(path / "dataset") for path in (workdir, tmp_path)]
    assert [log.length for log in logs] == [16, 16]
    for one, other in zip(*(log.read(0, 16) for log in logs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_expert_whose_own_game_is_another_is_named(settings, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(terminal, "say", said.append)
    asterix, carnival = settings.experts
    carnival = dataclasses.replace(carnival, rules="noop_max=1")
    chosen = dataclasses.replace(settings, experts=(asterix, carnival))
    merge_weights.merge(chosen, tmp_path, mesh=ONE, stop_after="merge")
    assert [line for line in said if line.startswith("carnival: tiny carnival learnt with")]


def test_it_is_the_equation_on_the_states_that_were_collected(settings, done, merged):
    """HTCL by hand: a Taylor step from the first expert to the second."""
    workdir, _ = done
    chosen = merge_settings.resolve_defaults(settings, _experts(settings))
    assert chosen.merge.reward_limit == 1.0, "the suite's"
    spelled = dataclasses.replace(settings.merge, base="Carnival")
    spelled = dataclasses.replace(settings, merge=spelled)
    assert merge_settings.resolve_defaults(spelled, _experts(settings)).merge.base == "carnival"
    run = common.Run(chosen.as_run(), ONE)
    seen = merge_weights._seen(run, chosen, dataset.open_log(workdir / "dataset"))
    assert seen.played.shape == (2, 64) and seen.window.frames.shape[:3] == (2, 16, 4)
    loss = weight_merging.td_loss(TINY, run.view, 0.99)
    states = weight_merging.States(seen, loss, settings.merge)
    one, two = (expert.params for expert in run.experts)
    step = weight_merging.taylor_step(
        one, two, states.slope(one, [0, 1]), damping=None, rate=0.9, clip_norm=1.0
    )
    assert_same(merged, jax.device_get(step))


def _experts(settings):
    return [Expert.load(source.path) for source in settings.experts]


def test_it_is_read_as_a_students_run_is(done, merged):
    workdir, result = done
    alone = students.student_as_expert(workdir, "carnival")
    assert alone.outputs == "q" and alone.game == "carnival"
    stacks = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
    whole = networks.forward(TINY, merged, stacks)
    mask = tasks.get("carnival").mask
    said = np.asarray(alone.suite_outputs(stacks))[:, mask]
    np.testing.assert_allclose(said, np.asarray(whole)[:, mask], atol=1e-6)
    terms = protocols.Terms(2, epsilon=0.05, seed=0, opening_steps=4)
    (row,) = evaluating.find(workdir).measure(terms, game="asterix")
    assert row["student"] == result["games"][0]["student"]
    made = students.how_made(workdir, 0)
    assert made["method"] == "htcl" and made["rate"] == 0.9 and made["base"] is None
    assert "scale" not in made, "it is another method's"
    assert students.load_settings(workdir).network == "tiny"


def test_a_distillation_begins_from_it_or_from_another_run(settings, done, merged):
    workdir, _ = done
    run = settings.as_run()
    learn = dataclasses.replace(run.learn, warm_start=str(workdir))
    begun = common.Run(dataclasses.replace(run, network="tiny", learn=learn), ONE)
    assert_same(warm_start.initial_params(begun), merged)
    other = common.Run(dataclasses.replace(run, network="net3", learn=learn), ONE)
    with pytest.raises(ValueError, match=r"learn.warm_start: the student of .* \(18 outputs\) is "):
        warm_start.initial_params(other)
    with pytest.raises(ValueError, match="nor a file or a run"):
        warm_start.params_of(begun, "nowhere", "merge.base")
    with pytest.raises(
        ValueError, match=r"program .*\.method is unknown\); choose another --workdir$"
    ):
        distill.distill(dataclasses.replace(run, network="tiny"), workdir, mesh=ONE)
    with pytest.raises(ValueError, match=r"config\.json\.method is missing"):
        (workdir.parent / "distillation").mkdir()
        config = json.dumps({"experts": [{"path": "x"}]})
        (workdir.parent / "distillation" / "config.json").write_text(config)
        merge_weights.merge(settings, workdir.parent / "distillation", mesh=ONE)


def test_a_merge_is_read_where_its_base_is_gone(settings, done, tmp_path):
    base = tmp_path / "base"
    an_expert("asterix", 9).save(base)
    chosen = dataclasses.replace(
        settings, method="task_arithmetic", merge=Merge(base=str(base), scale=0.5)
    )
    merge_weights.merge(chosen, tmp_path / "run", mesh=ONE, stop_after="merge")
    shutil.rmtree(base)
    result = merge_weights.merge(chosen, tmp_path / "run", mesh=ONE)
    assert merge_weights.merge(chosen, tmp_path / "run", mesh=ONE) == result
    with pytest.raises(ValueError, match="nor a file or a run"):
        merge_weights.merge(chosen, tmp_path / "other", mesh=ONE)


def _far_below(run, player):
    nothing = scoring.Scores(np.zeros(2), np.full(2, 9), np.arange(2), np.zeros(2, bool))
    return [nothing] * len(run.lessons)


def test_a_merge_goes_on_below_its_claims_where_it_is_told_to(settings, tmp_path):
    for i, game in enumerate(GAMES):
        own = Rules(frame_skip=8, full_actions=True)  # in which no step limit counts here
        an_expert(game, i, rules=own, advertised_score=1e6).save(tmp_path / game)
    measure = distill_settings.Measure(report_episodes=2, opening_steps=4)
    chosen = dataclasses.replace(
        settings,
        method="mean",
        merge=Merge(),
        experts=tuple(ExpertSource(str(tmp_path / game)) for game in GAMES),
        evaluate=measure,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common.Run, "play_first", _far_below)  # whole games would take minutes
        with pytest.raises(ValueError, match=r"lowest_expert_share to 0 to go on"):
            merge_weights.merge(chosen, tmp_path / "run", mesh=ONE)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert config["evaluate"]["max_steps"] == 27_000
        chosen = dataclasses.replace(
            chosen, evaluate=dataclasses.replace(measure, lowest_expert_share=0.0)
        )
        merge_weights.merge(chosen, tmp_path / "run", mesh=ONE, stop_after="merge")
        merge_weights.merge(chosen, tmp_path / "new", mesh=ONE, stop_after="merge")


def test_one_step_of_each_environment_is_too_little(settings, tmp_path):
    short = dataclasses.replace(
        settings, collect=merge_settings.Collect(num_envs=4, initial_steps=4)
    )
    with pytest.raises(ValueError, match=r"none of its 4 steps in 4 .*collect\.initial_steps"):
        merge_weights.merge(short, tmp_path / "run", mesh=ONE)


def test_states_that_no_device_can_hold_are_refused_before_anything_is_played(
    settings, done, tmp_path
):
    shutil.copytree(done[0] / "dataset", tmp_path / "data")
    info = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(info | {"length": 2**28}))
    large = merge_settings.Collect(num_envs=4, dataset=str(tmp_path / "data"))
    many = merge_settings.Collect(num_envs=4, initial_steps=2**30)
    for collect, name in (
        (large, r"the length of collect\.dataset, in steps per game,"),
        (many, r"collect\.initial_steps"),
    ):
        chosen = dataclasses.replace(settings, collect=collect)
        with pytest.raises(ValueError, match=rf"^{name} is 1073741824, which takes .* GB;"):
            merge_weights.merge(chosen, tmp_path / "run", mesh=ONE)
    assert not (tmp_path / "run").exists()
    # Who looks at no states needs no room for them.
    simple = dataclasses.replace(settings, collect=large, method="mean", merge=Merge())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(merge_weights, "_stages", lambda *_: 1 // 0)
        merge_weights.merge(simple, tmp_path / "run", mesh=ONE)


def test_simple_methods_need_no_states(settings, done, merged, tmp_path):
    experts = _experts(settings)
    run = common.Run(merge_settings.resolve_defaults(settings, experts).as_run(), ONE)

    def made(method, **merge):
        chosen = dataclasses.replace(settings, method=method, merge=Merge(**merge))
        return merge_weights._merged(merge_weights._given(run, chosen, experts, tmp_path), None)

    one, two = (expert.params for expert in experts)
    assert_same(made("mean"), jax.tree.map(lambda a, b: (a + b) / 2, one, two))
    tripled = jax.tree.map(lambda a, b: b + 2 * ((a - b) + (b - b)), one, two)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        dict(made("task_arithmetic", scale=2.0, base="carnival")),
        dict(tripled),
    )
    from_run = made("task_arithmetic", scale=1e-30, base=str(done[0]))
    assert_same(from_run, merged)


def test_other_methods_count_what_each_expert_saw(settings, done, tmp_path):
    """Fisher information of each in its own game; Newton's step by hand, on the states of all."""
    experts = _experts(settings)
    run = common.Run(merge_settings.resolve_defaults(settings, experts).as_run(), ONE)
    log, view = dataset.open_log(done[0] / "dataset"), run.view
    one, two = (expert.params for expert in experts)

    def made(method, judged, **merge):
        chosen = dataclasses.replace(settings, method=method, merge=Merge(batch_size=16, **merge))
        states = weight_merging.States(merge_weights._seen(run, chosen, log), judged, chosen.merge)
        return merge_weights._merged(
            merge_weights._given(run, chosen, experts, tmp_path), log
        ), states

    likelihood = weight_merging.likelihood_loss(TINY, view, Merge().q_temperature)
    merged, states = made("fisher", likelihood)
    fishers = [weight_merging.fisher(states, own, game) for game, own in enumerate((one, two))]
    assert_same(merged, weight_merging.fisher_mean([one, two], fishers))
    squared = weight_merging.imitation_loss(TINY, view, "mse", 1.0)
    merged, states = made("taylor_one_shot", squared, loss="mse", damping=0.5)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
    slope = states.slope(middle, [0, 1])
    step = jax.tree.map(lambda w, g, h: w - g / (h + 0.5), middle, slope.gradient, slope.curvature)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), dict(merged), dict(step))


def test_an_aligned_copy_is_merged_to_itself(settings, done, tmp_path):
    """Two experts of one network whose units are in another order."""
    one = an_expert("asterix", 4)
    rng = np.random.default_rng(0)
    orders = {"conv1": rng.permutation(3), "fc1": rng.permutation(5)}
    copy = dataclasses.replace(
        one, params=weight_merging.permuted(TINY, one.params, orders), game="carnival"
    )
    chosen = dataclasses.replace(settings, method="aligned_mean", merge=Merge(batch_size=64))
    experts = [one, copy]
    run = common.Run(merge_settings.resolve_defaults(settings, _experts(settings)).as_run(), ONE)
    given = merge_weights._Given(run, chosen, [x.params for x in experts], one.params)
    log = dataset.open_log(done[0] / "dataset")
    assert_same(merge_weights._merged(given, log), one.params)


@dataclasses.dataclass(frozen=True, eq=False)
class Scripted(Lesson):
    """A lesson whose pool is given."""

    made: object = None

    def pool(self, num_envs, *words, first=0, max_steps=None, threads=None):
        return self.made(self.seed, num_envs)


def test_rewards_are_those_of_the_same_actions_in_fresh_pools(scripted_pool):
    class Lives(scripted_pool):
        """Of three lives one is lost at the second step of every game."""

        def _receive(self):
            played = super()._receive()
            return played._replace(lives=np.where(self._ages >= 2, 2, 3))

    episodes = [[(3, 5.0), (2, 7.0, True)], [(9, 1.0)]]
    seeds = []

    def made(seed, num_envs):
        seeds.append((seed, num_envs))
        return Lives(episodes)

    lesson = Scripted(0, tasks.get("pong"), None, 1, made=made)
    run = types.SimpleNamespace(lessons=[lesson])
    played = np.arange(14).reshape(1, 7, 2).astype(np.int32)
    states = np.uint32([[0, 7]])
    log = types.SimpleNamespace(length=7, info={"seed": 4}, states=lambda length: states)
    rewards, ended = merge_weights._replayed(run, log, played)
    assert seeds == [(4, 2)]
    # A game of three steps, its successor begun by the fourth and cut after two, the next begun.
    assert rewards[0, :, 0].tolist() == [0, 0, 5, 0, 0, 7, 0]
    assert ended[0, :, 0].tolist() == [False, True, True, False, False, True, False]
    assert rewards[0, :, 1].tolist() == [0] * 7
    assert ended[0, :, 1].tolist() == [False, True] + [False] * 5
    log.states = lambda length: np.uint32([[0, 6]])
    with pytest.raises(ValueError, match="pong: what the dataset holds cannot be played again"):
        merge_weights._replayed(run, log, played)
    log.states = lambda length: None
    assert (merge_weights._replayed(run, log, played)[0] == rewards).all()


IMPALA = networks.create("impala")


@pytest.mark.parametrize(
    ("second", "chosen", "message"),
    [
        (
            {"network": TINY.clone(hidden=(6,))},
            {},
            r"^experts of one shape are merged, and asterix's has 2,384 parameters and 18 outputs, "
            r"carnival's 2,703 parameters and 18 outputs; distil them instead",
        ),
        ({"outputs": "logits"}, {}, "^the expert of carnival holds logits, and Q-values are"),
        ({}, {"network": "net3"}, "^network is 'net3', and the experts' is 'tiny'; leave it out$"),
    ],
)
def test_experts_that_cannot_be_merged_are_refused(settings, second, chosen, message):
    experts = [an_expert("asterix"), an_expert("carnival", 1, **second)]
    with pytest.raises(ValueError, match=message):
        merge_settings.resolve_defaults(dataclasses.replace(settings, **chosen), experts)


@pytest.mark.parametrize(
    ("network", "fields", "method", "message"),
    [
        (
            TINY.clone(num_outputs=4),
            {"actions": (0, 1, 3, 4)},
            "mean",
            "^the experts have outputs for 4 actions in their own order; expected all 18 of atari",
        ),
        (TINY.clone(hidden=(7,)), {}, "mean", r"^the experts' network \(.*\) is none of dueling, "),
        (IMPALA, {}, "aligned_mean", "convolutions and dense layers alone"),
    ],
)
def test_networks_that_cannot_be_merged_are_refused(settings, network, fields, method, message):
    tiny = (an_expert(game) for game in ("breakout", "carnival"))
    experts = [dataclasses.replace(expert, network=network, **fields) for expert in tiny]
    chosen = dataclasses.replace(settings, method=method, merge=Merge())
    with pytest.raises(ValueError, match=message):
        merge_settings.resolve_defaults(chosen, experts)
    assert merge_settings.resolve_defaults(settings, [an_expert("asterix"), an_expert("carnival")])


def test_one_expert_is_no_merge_and_shared_settings_are_checked():
    with pytest.raises(ValueError, match="experts names 1; expected two or more"):
        merge_settings.Settings((ExpertSource("x"),), "mean")
    two = (ExpertSource("x"), ExpertSource("y"))
    with pytest.raises(ValueError, match=r"collect\.initial_steps 5120 is not divisible by"):
        merge_settings.Settings(two, "mean", collect=merge_settings.Collect(num_envs=33))


def test_weights_that_are_not_finite_are_never_saved(settings, tmp_path, monkeypatch):
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), an_expert("asterix").params)
    monkeypatch.setattr(merge_weights, "_merged", lambda *given: broken)
    chosen = dataclasses.replace(settings, method="mean", merge=Merge())
    given = merge_weights._Given(None, chosen, [], None)
    with pytest.raises(ValueError, match="mean has made weights that are not finite"):
        merge_weights._merged_once(given, tmp_path, None, clocks.Timer())
    assert not [*(tmp_path / "checkpoints").iterdir()]


def test_the_references_recipe_goes_through_its_states_sixty_times():
    two = "breakout=experts/breakout.pth,pong=experts/pong.pth"
    for argument, games in ((), 3), ((two,), 2):
        config = reference.get_config(*argument).to_dict()
        chosen = settings_lib.build(distill_settings.Settings, config)
        learn, steps = chosen.learn, chosen.collect.initial_steps
        assert len(chosen.experts) == games and learn.warm_start == "breakout"
        assert 250 <= learn.batch_per_game * games <= 256
        rows = learn.rounds * learn.updates_per_round * learn.batch_per_game
        assert rows == pytest.approx(60 * steps, rel=0.01) and steps == 20_000
        # L2 is in the gradient: where that is 0, Adam's first step is the rate all the same.
        transform = distill_settings.optimiser(chosen)
        weight = {"x": jax.numpy.asarray([2.0])}
        change, _ = transform.update({"x": jax.numpy.zeros(1)}, transform.init(weight), weight)
        assert float(change["x"][0]) == pytest.approx(-3e-4, rel=1e-3)
