"""Tests for a training's report: what the best network scores, in games that did not choose it."""

import dataclasses
import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes
from jaxdistill.learn import train_settings
from jaxdistill.learn import training as learning
from jaxdistill.play import evaluation, lessons, protocols, records, rollouts
from jaxdistill.report import page, tables
from jaxdistill.run import evaluating, kinds, training
from jaxdistill.tasks.atari import Rules

pytestmark = pytest.mark.usefixtures("without_page")
ASKED = protocols.Terms(4, epsilon=0.0, seed=protocols.REPORT_SEED, opening_steps=0)
"""As `lander_training` was measured, but for its step limit."""


@pytest.fixture
def measured(monkeypatch):
    """What is measured from now on: `(protocol, scores)` of each call."""
    seen, measure = [], evaluation.measure

    def look(chosen, policy, protocol, *arguments, **options):
        scores = measure(chosen, policy, protocol, *arguments, **options)
        seen.append((protocol, scores))
        return scores

    monkeypatch.setattr(evaluation, "measure", look)
    return seen


def _rows(result, *names):
    """Its rows, as they are measured again, of all tasks or of some."""
    left_out = ("best_step", "shared_starts")  # which are of the training alone
    return [
        {name: value for name, value in row.items() if name not in left_out}
        for row in result["games"]
        if not names or row["game"] in names
    ]


def _untimed(result):
    return {name: value for name, value in result.items() if name != "seconds"}


def test_a_training_ends_with_a_result_of_every_task(lander_training):
    settings, workdir, result = lander_training
    assert json.loads((workdir / "result.json").read_text()) == result
    assert [row["game"] for row in result["games"]] == list(settings.games)
    for row in result["games"]:
        assert row["human_normalised"] is None and row["max_steps"] == 90
        for player in ("random", "network"):
            scores = row[player]
            assert scores["episodes"] == scores["distinct_starts"] == 4
            assert list(scores["facts"]) == ["rest", "pad", "crash"]
            low, high = scores["steps_interval"]
            assert low <= scores["mean_steps"] <= high <= 90
    assert result["networks"] == 1 and result["steps"] == 96
    # 2 vectors of 8; 16 inputs, 256, 128, 4 outputs; scale and bias of two LayerNorms.
    layers = (16 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 4
    assert result["parameters"] == 2 * 8 + layers + 2 * (256 + 128)
    phases = {"collect", "learn", "evaluate", "compile", "report", "other"}
    assert phases == set(result["seconds"])


def test_the_best_network_is_what_is_measured(lander_training):
    """As its experts, of which each is the whole network with one task's vector."""
    settings, workdir, result = lander_training
    with learning.Training.of(settings, workdir) as finished:
        params, best = finished.best_params(), finished.best["step"]
        network, mesh = finished.network, finished._mesh
    assert {row["best_step"] for row in result["games"]} == {best}
    vectors = params["params"]["task_embedding"]["embedding"]
    assert list(result["embeddings"]) == list(settings.games)
    np.testing.assert_allclose(list(result["embeddings"].values()), vectors, rtol=1e-6)
    chosen = lessons.of_tasks(settings.tasks, settings.seed)
    choices = lessons.choices(chosen)
    random = rollouts.random_policy(choices)
    opening = protocols.Opening(random, 0, random, protocols.REPORTING)
    protocol = protocols.Protocol(lessons.REPORT, 0, opening, 90)
    act = rollouts.network_actor(network, choices, epsilon=0.0)
    direct, chance = (
        evaluation.measure(chosen, policy, protocol, 4, mesh)
        for policy in (functools.partial(act, params), random)
    )
    for row, scores, by_chance in zip(result["games"], direct, chance, strict=True):
        assert row["network"]["mean"] == pytest.approx(scores.mean, rel=1e-4)
        assert row["random"] == by_chance.summary()


def test_a_report_reads_what_was_learnt_and_plays_nothing_again_for_it(
    lander_training, monkeypatch
):
    settings, workdir, result = lander_training
    monkeypatch.setattr(lessons.Lesson, "pool", None)
    learnt = training._read_learnt(
        train_settings.resolve_defaults(settings), workdir, meshes.create(), None
    )
    assert {row["best_step"] for row in result["games"]} == {learnt.best_step}
    with learning.Training.of(settings, workdir) as finished:
        assert finished._collector.log.shape == (2, 24, 4), "of games that could be"


def test_no_reported_game_helped_to_choose(lander_training, measured):
    settings, workdir, _ = lander_training
    with learning.Training.of(settings, workdir) as finished:
        finished.evaluate()
        finished.best = {**finished.best, "decided": False}
        finished.decide()
    chose = list(measured)
    measured.clear()
    # What is reported stands there; without it, it is played.
    shutil.rmtree(workdir / "played")
    evaluating.find(workdir).measure(ASKED)
    assert len(chose) >= 2 and len(measured) == 2
    assert {protocol.opening.side for protocol, _ in chose} == {protocols.CHOOSING}
    assert {protocol.opening.side for protocol, _ in measured} == {protocols.REPORTING}
    sides = [
        {start for _, scores in calls for s in scores for start in s.starts.tolist()}
        for calls in (chose, measured)
    ]
    assert len(sides[1]) == 8 and not sides[0] & sides[1]
    assert {start for starts in finished.starts_seen.values() for start in starts} == sides[0]
    assert [len(starts) for starts in finished.starts_seen.values()] == [2 + 4] * 2


def test_starts_that_helped_to_choose_are_counted(lander_training, measured):
    _, workdir, result = lander_training
    assert [row["shared_starts"] for row in result["games"]] == [0, 0]
    measure = functools.partial(
        training.measure,
        training.load_experts(workdir),
        mesh=meshes.create(),
        known=records.Records(),
    )
    terms = dataclasses.replace(ASKED, max_steps=90)
    assert measure(terms) == _rows(result)
    _, (standard, _) = measured[-1]
    seen = {"lander/standard": [*standard.starts.tolist()[:3], 1]}
    standard, windy = measure(terms, starts_seen=seen)
    assert standard["shared_starts"] == 3 and "shared_starts" not in windy, "of it nothing is known"


def test_a_measured_training_is_read_back_and_nothing_is_played_or_written(
    lander_training, monkeypatch, capsys, contents
):
    """Whoever may only read it is shown its table all the same."""
    settings, workdir, result = lander_training
    before = contents(workdir)

    def never(*_, **__):
        raise AssertionError("played again")

    monkeypatch.setattr(evaluation, "measure", never)
    assert training.train(settings, workdir) == result
    assert not capsys.readouterr().out
    assert training.train(settings, workdir, profile="trace") == result
    assert "no profile in trace: the run has ended" in capsys.readouterr().out
    assert contents(workdir) == before
    tables.print_training(result)
    printed = capsys.readouterr().out
    assert "4 whole games per score, of at most 90 steps, epsilon 0, " in printed
    assert "how games ended" in printed and "None" not in printed and "human" not in printed
    with pytest.raises(ValueError, match="seed 0, this one has 1"):
        training.train(dataclasses.replace(settings, seed=1), workdir)
    assert contents(workdir) == before


def test_a_finished_training_writes_an_expert_that_it_has_lost_again(lander_training, tmp_path):
    settings, workdir, result = lander_training
    shutil.copytree(workdir, tmp_path / "run")
    lost = tmp_path / "run" / "experts" / "lander" / "windy"
    shutil.rmtree(lost)
    assert training.train(settings, tmp_path / "run") == result
    kept = workdir / "experts" / "lander" / "windy"
    name = "weights.safetensors"
    assert (lost / name).read_bytes() == (kept / name).read_bytes()


def test_a_finished_training_that_has_lost_what_it_learnt_is_not_begun_again(
    lander_training, tmp_path, contents
):
    settings, workdir, result = lander_training
    run = shutil.copytree(workdir, tmp_path / "run")
    assert training.missing_path(run) is None
    shutil.rmtree(run / "checkpoints")
    assert training.missing_path(run) == run / "checkpoints"
    assert training.train(settings, run) == result, "it is read"
    shutil.rmtree(run / "experts" / "lander" / "windy")
    for ended in (True, False):
        if not ended:
            (run / "result.json").unlink()
        before = contents(run)
        with pytest.raises(ValueError, match=r"^.*/run has learnt already, and .*/run/checkpoints"):
            training.train(settings, run)
        assert contents(run) == before
    with pytest.raises(ValueError, match="seed 0, this one has 1"):
        training.train(dataclasses.replace(settings, seed=1), run)
    shutil.rmtree(run / "experts")  # a kill before anything was saved leaves as much
    assert training.missing_path(run) is None


@pytest.mark.parametrize("rule", ["mode", "difficulty"])
def test_rules_that_a_game_does_not_have_are_refused_before_anything_is_claimed(tmp_path, rule):
    settings = train_settings.Settings(games=("pong",), rules=Rules(**{rule: 99}))
    with pytest.raises(ValueError, match=r"^pong: Invalid .*99.*the game's own$"):
        training.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_that_was_stopped_ends_with_the_same_result(lander_training, tmp_path):
    settings, _, result = lander_training
    assert training.train(settings, tmp_path / "run", stop_at=2) == {}
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = training.train(settings, tmp_path / "run")
    assert _untimed(resumed) == _untimed(result)


def test_what_is_reported_are_the_games_of_every_training(
    lander_training, tmp_path, measured, monkeypatch
):
    """Their seed is nobody's own, neither that of the settings nor another."""
    settings, workdir, _ = lander_training
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setattr(protocols, "REPORT_SEED", 7)
    training.train(settings, tmp_path / "run")
    assert [protocol.seed for protocol, _ in measured] == [7, 7], "of random play and the network"


def test_a_profile_is_a_trace_of_a_training_s_iterations(lander_training, tmp_path):
    settings = dataclasses.replace(lander_training[0], total_steps=160, eval_every=160)
    for name, traced in (("plain", None), ("traced", tmp_path / "trace")):
        directory = None if traced is None else str(traced)
        training.train(settings, tmp_path / name, stop_at=4, profile=directory)
        assert bool([*(tmp_path / "trace").rglob("*.xplane.pb")]) == (traced is not None)


def test_the_page_shows_tables_clips_curves_and_vectors(lander_training):
    _, workdir, result = lander_training
    text = (workdir / "report.html").read_text()
    assert "One network for lander/standard, lander/windy" in text
    assert text.count("data:image/gif;base64,") == 2 and text.count("<svg") == 2
    assert "None" not in text.split("<h2>Settings")[0] and "train &lt;it&gt;" in text
    assert "; of their starts none helped to choose the network" in text
    for name, cells in (
        ("scores", tables.network_cells(result["games"])),
        ("endings", tables.ending_cells(result["games"])),
        ("vectors", tables.embedding_cells(result["embeddings"])),
    ):
        for row in cells[1]:
            line = "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
            assert line in text, name


@pytest.mark.page
def test_independent_networks_have_one_table_and_page(lander_training, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "CLIP_SECONDS", 4 / 50)
    settings, _, _ = lander_training
    apart = dataclasses.replace(settings, independent=True, network="mlp_layer_norm")
    result = training.train(apart, tmp_path / "run", command="x")
    assert result["networks"] == 2 and result["embeddings"] == {}
    layers = (8 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 4
    assert result["parameters"] == 2 * (layers + 2 * (256 + 128))
    assert [row["game"] for row in result["games"]] == list(settings.games)
    assert len([*tmp_path.rglob("result.json")]) == len([*tmp_path.rglob("report.html")]) == 1
    text = (tmp_path / "run" / "report.html").read_text()
    assert "A network each for lander/standard, lander/windy" in text
    assert "The vector learnt" not in text and text.count("<svg") == 1
    assert "2 networks, one per task" in tables.training_summary(result)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    for row in result["games"]:
        (again,) = evaluating.find(tmp_path / "run").measure(ASKED, game=row["game"])
        assert [again] == _rows(result, row["game"])
    evaluating.find(tmp_path / "run").measure(dataclasses.replace(ASKED, episodes=1, seed=3))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert after == before, "it is read"
    assert training.train(apart, tmp_path / "run") == result
    gone = tmp_path / "run" / "tasks" / "lander" / "windy" / "checkpoints"
    shutil.rmtree(gone)
    shutil.rmtree(tmp_path / "run" / "experts" / "lander" / "standard")  # which could be had again
    # As while the first still learns: the second is measured without it.
    (windy,) = evaluating.find(tmp_path / "run").measure(ASKED, game="Lander_Windy")
    assert [windy] == _rows(result, "lander/windy")
    with pytest.raises(ValueError, match=f"and what it has learnt, in {gone}, is not there any mo"):
        training.train(apart, tmp_path / "run")


def test_a_training_is_measured_again_as_it_is_asked_for(lander_training):
    _, workdir, result = lander_training

    def measure(game=None, **changes):
        return evaluating.find(workdir).measure(dataclasses.replace(ASKED, **changes), game=game)

    rows = measure()
    assert rows == _rows(result)
    alone = measure(game="Lander_Windy")
    assert alone == rows[1:], "the same games, with none beside them"
    for other in ({"episodes": 3}, {"epsilon": 0.9}, {"seed": 5}, {"opening_steps": 20}):
        assert [row["network"] for row in measure(**other)] != [row["network"] for row in rows], (
            other
        )
    short = measure(max_steps=30)
    assert all(row["network"]["mean_steps"] <= 30 == row["max_steps"] for row in short)
    assert all(row["network"]["unfinished"] == 4 for row in short)
    with pytest.raises(ValueError, match="learnt lander/standard, lander/windy, not lander/heavy"):
        measure(game="lander/heavy")
    with pytest.raises(ValueError, match=r"opening_steps is 30, expected less than the 30 steps"):
        measure(max_steps=30, opening_steps=30)


def test_the_best_network_is_an_expert_for_each_of_its_tasks(lander_training, tmp_path):
    _, workdir, _ = lander_training
    expert = training.best_as_expert(workdir, "lander/windy")
    assert expert.game == "lander/windy"
    other = training.best_as_expert(workdir, "lander/standard")
    seen = jnp.ones((1, 1, 8))
    assert np.abs(expert.suite_outputs(seen) - other.suite_outputs(seen)).max() > 0
    with pytest.raises(ValueError, match="name one of lander/standard, lander/windy"):
        training.best_as_expert(workdir)
    with pytest.raises(ValueError, match=r"learnt .*, not pong"):
        training.best_as_expert(workdir, "pong")
    with pytest.raises(ValueError, match="unknown task ''"):  # which is not the first one
        training.best_as_expert(workdir, "")
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(ValueError, match="has evaluated nothing of lander/standard yet"):
        training.load_experts(tmp_path)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ('{"experts": [], "network": "net3"}', "distillation"),
        ('{"experts": [], "method": "mean"}', "merge"),
        ('{"games": ["pong"]}', "training"),
        ('{"architectures": ["Net"]}', None),
        ("[]", None),
    ],
)
def test_kinds_of_runs_are_told_apart(fields, kind, tmp_path):
    assert kinds.of(tmp_path) is None
    (tmp_path / "config.json").write_text(fields)
    assert kinds.of(tmp_path) == kind


def test_a_training_is_told_from_a_distillation(lander_training):
    _, workdir, _ = lander_training
    assert kinds.of(workdir) == "training"


@pytest.mark.parametrize(
    "change",
    [
        {"games": [{"game": "lander/windy"}]},
        {"games": [{"game": "lander/nowhere"}]},
        {"embeddings": [1]},
        {"seconds": None},
        {"steps": "many"},
    ],
    ids=str,
)
def test_a_damaged_result_is_one_line(lander_training, tmp_path, change):
    _, _, result = lander_training
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result | change))
    with pytest.raises(ValueError, match=r"result.json is damaged \(.*the same command measures"):
        tables.read_training(path)


def test_a_training_of_another_version_is_said_to_be_one(tmp_path):
    (tmp_path / "config.json").write_text('{"games": ["pong"], "of_tomorrow": 1}')
    line = rf"^{tmp_path} holds a run of another program or of another version \(config\.json\.of_"
    with pytest.raises(ValueError, match=f"{line}.*name another directory$") as caught:
        training.load_settings(tmp_path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("limit", "said"), [(None, None), (27_000, None), (200, 200), (54_000, 54_000)]
)
def test_a_step_limit_is_reported_where_it_is_not_the_task_s_own(
    tmp_path, monkeypatch, limit, said
):
    learnt = training._Learnt(1, 1, {}, {}, [], {})
    monkeypatch.setattr(training, "_read_learnt", lambda *_: learnt)
    monkeypatch.setattr(training, "load_experts", lambda _: [])
    monkeypatch.setattr(training, "measure", lambda *_, **__: [{}])
    monkeypatch.setattr(training, "_record", lambda *_: {})
    shown = []
    monkeypatch.setattr(page, "write_training", lambda _, result, **__: shown.append(dict(result)))
    settings = train_settings.Settings(games=("pong",), max_steps=limit)
    training._report(
        train_settings.resolve_defaults(settings), tmp_path, None, "", None, lambda: 0.0
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["max_steps"] == shown[0]["max_steps"] == said
