"""What the closing table says of all games together, and how its page is made."""

import base64
import dataclasses
import math
import pathlib
import types
import weakref

import numpy as np
import pytest

from jaxdistill import meshes, metrics, networks, tasks
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.play import clips
from jaxdistill.play.scoring import Comparison, Scores
from jaxdistill.report import hints, page, tables
from jaxdistill.run import closing, data, distill_settings

EVALUATE = distill_settings.Evaluate(epsilon=0.0, opening_steps=0)
LESSONS = [types.SimpleNamespace(task=tasks.get("pong"))]
RUN = types.SimpleNamespace(settings=types.SimpleNamespace(evaluate=EVALUATE), lessons=LESSONS)


def _row(game, share, interval):
    played = {"mean": 1.0, "interval": [0.0, 2.0], "episodes": 16, "distinct_starts": 9}
    players = dict.fromkeys(("random", "expert", "student"), played)
    return {"game": game, **players, "retention": share, "retention_interval": interval}


def test_a_row_says_who_is_held_against_whom():
    """Student 5, expert 10, random play 0, give or take 1 in 16 games; in Pong chance has -20.7."""

    def scored(mean):
        games, ends = np.arange(16), np.zeros(16, bool)
        return Scores(mean + np.tile([-1.0, 1.0], 8), games, games, ends)

    run = types.SimpleNamespace(
        settings=distill_settings.Settings(experts=(ExpertSource("x"),)),
        names=("pong",),
        experts=[types.SimpleNamespace(name="it", source="it.pth")],
        lessons=[types.SimpleNamespace(task=tasks.get("pong"))],
    )
    means = {"student": 5.0, "expert": 10.0, "random": 0.0}
    scores = {0: Comparison(**{who: scored(mean) for who, mean in means.items()})}
    (row,) = closing.rows_of(run, scores)
    assert {who: row[who]["mean"] for who in means} == means
    low, high = row["retention_interval"]
    assert 0.4 < low < row["retention"] == 0.5 < high < 0.6
    assert row["human_normalised"] == pytest.approx((5 + 20.7) / (14.6 + 20.7))
    # People have played whole games.
    cut = dataclasses.replace(run.settings.evaluate, max_steps=100)
    run.settings = dataclasses.replace(run.settings, evaluate=cut)
    (row,) = closing.rows_of(run, scores)
    assert row["human_normalised"] is None and row["retention"] == 0.5


def test_a_share_of_what_may_be_nothing_is_in_no_mean():
    """Random play 0.1, expert 0.2, student 2.1: 2000%, of what these games do not tell."""
    pong = _row("pong", 0.25, [0.2, 0.3])
    untold = _row("qbert", (2.1 - 0.1) / (0.2 - 0.1), [math.nan, math.nan])
    result = closing.result_of(RUN, [pong, untold], {})
    shares = [result[f"{which}_retention"] for which in ("mean", "geometric", "worst")]
    assert np.isnan(shares).all() and result["games"][1]["retention"] == pytest.approx(20)
    said = tables.summary(result | {"best_round": 1, "rounds": 2})
    assert said.startswith("mean retention -, geometric mean -, worst game -;")
    known = closing.result_of(RUN, [pong, _row("qbert", 1.0, [0.9, 1.1])], {})
    shares = [known[f"{which}_retention"] for which in ("mean", "geometric", "worst")]
    assert shares == pytest.approx([0.625, 0.5, 0.25])


def test_games_that_were_cut_are_said_to_be():
    def told(limit, lessons=LESSONS):
        evaluate = dataclasses.replace(EVALUATE, max_steps=limit)
        settings = types.SimpleNamespace(evaluate=evaluate)
        run = types.SimpleNamespace(settings=settings, lessons=lessons)
        return tables.protocol(closing.result_of(run, [_row("pong", 0.5, [0.4, 0.6])], {}))

    assert told(200).startswith("16 whole games per score, of at most 200 steps, ")
    assert told(200).replace("of at most 200 steps, ", "") == told(None)
    assert told(27_000) == told(None), "Pong's own"
    assert "of at most 54000 steps, " in told(54_000), "and longer ones to be longer"
    standard, windy = (
        types.SimpleNamespace(task=tasks.get(f"lander/{name}")) for name in ("standard", "windy")
    )
    assert told(1000, [standard]) == told(400, [windy]) == told(None, [standard, windy])
    for limit in (400, 1000):
        assert f"of at most {limit} steps, " in told(limit, [standard, windy])
    assert "of at most 1000 steps, " in told(1000, [windy])


def test_frames_of_one_task_are_gone_when_the_next_is_recorded(monkeypatch):
    """Of dozens of games they would not fit into memory."""
    recorded, shown = [], {}

    def record(lesson, policy, **options):
        alive = [name for name, frames in recorded if frames() is not None]
        assert set(alive) <= {lesson.name}
        frames = np.zeros((3, 4, 5, 3), np.uint8)
        recorded.append((lesson.name, weakref.ref(frames)))
        return clips.Clip(frames, 1.5 if policy is None else 2.5, True, 10)

    monkeypatch.setattr(clips, "record", record)
    monkeypatch.setattr(page, "write", lambda *_, plays, **__: shown.update(plays))
    monkeypatch.setattr(networks, "task_vectors", lambda *_: None)
    task = types.SimpleNamespace(frames_per_second=10)
    run = types.SimpleNamespace(
        mesh=None,
        settings=distill_settings.Settings(experts=(ExpertSource("x"),)),
        network=None,
        lessons=[
            types.SimpleNamespace(name=name, task=task, pool_seed=lambda *_: 0)
            for name in ("pong", "qbert", "asterix")
        ],
        expert_policy=lambda: None,
        student_act=lambda *_: None,
    )
    closing.write_page(run, pathlib.Path(), None, {}, {}, "it")
    assert [name for name, _ in recorded] == [x.name for x in run.lessons for _ in range(2)]
    assert list(shown) == ["pong", "qbert", "asterix"]
    assert {film.scores for film in shown.values()} == {"expert 1.5, student 2.5"}
    assert all(base64.b64decode(film.gif).startswith(b"GIF") for film in shown.values())


def test_a_hint_is_of_the_run_as_it_was(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(hints, "closing_hint", lambda _, evidence: told.append(evidence))
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"loss": 0.5})
    learn = distill_settings.Learn(loss="kl")
    settings = distill_settings.Settings(experts=(ExpertSource("x"),), learn=learn)
    taught = [
        types.SimpleNamespace(teacher=types.SimpleNamespace(outputs=x)) for x in ("q", "logits")
    ]
    run = types.SimpleNamespace(settings=settings, names=("pong",), taught=taught)
    assert closing.hint_of(run, tmp_path, {"rounds": 4, "best_round": 2}) == {}
    steps = settings.collect.steps_per_round
    assert told == [
        hints.Evidence([{"step": 1, "loss": 0.5}], 4, "kl", False, steps, {}, {"pong": "pong=2"})
    ]


@pytest.mark.parametrize(
    ("num_envs", "length", "steps"), [(64, 500, 128), (4096, 500, 5), (64, 9, 9)]
)
def test_states_to_compare_in_have_their_stacks(num_envs, length, steps, monkeypatch):
    """However many environments they are of."""
    monkeypatch.setattr(closing, "COMPARED_STATES", 2048)

    class Asked(Exception):
        pass

    def window_of(run, log, per_env, mesh):
        raise Asked(per_env)

    monkeypatch.setattr(data, "window_of", window_of)
    monkeypatch.setattr(meshes, "take_local", lambda _, params: params)
    monkeypatch.setattr(meshes, "local", lambda mesh: mesh)
    collect = distill_settings.Collect(num_envs=num_envs, window_steps=81920)
    run = types.SimpleNamespace(
        mesh=None,
        settings=types.SimpleNamespace(collect=collect),
        stored=types.SimpleNamespace(stack=4),
    )
    with pytest.raises(Asked) as caught:
        closing.compare_outputs(run, types.SimpleNamespace(length=length), None)
    assert caught.value.args == (steps,)
