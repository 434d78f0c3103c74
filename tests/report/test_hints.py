"""Tests for what a closed run suggests."""

import types

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.play import scoring
from jaxdistill.report import hints


def _result(kept=0.7, high=0.8, agreement=0.9, **row):
    game = {
        "game": "pong",
        "retention": kept,
        "retention_interval": [kept - 0.1, high],
        "agreement": agreement,
    }
    fine = {"game": "breakout", "retention": 0.99, "retention_interval": [0.9, 1.1]}
    return {"games": [fine, game | row]}


def _history(losses=None, agreement=None, regret=None, kept=(0.7, 0.7), share=0.5):
    """Twenty rounds, and an evaluation after every tenth."""
    rows = []
    for i in range(20):
        rows.append(
            {
                "step": i,
                "loss": 1.0,
                "game_loss/pong": losses[i] if losses else 1.0,
                "agreement/pong": agreement[i] if agreement else 0.9,
                "regret/pong": regret[i] if regret else 0.5,
                "expert_share": share,
            }
        )
    rows[9:9] = [{"step": 9, "retention/pong": kept[0]}]
    return [*rows, {"step": 20, "retention/pong": kept[1]}]


def hint(result=None, history=None, loss="q_values", of_q=True, begins=(), steps=320):
    result = result or _result()
    more = {"pong": "pong=2", "breakout": "pong=2,breakout=3"}
    evidence = hints.Evidence(
        history=history or _history(),
        rounds=20,
        loss=loss,
        of_q=of_q,
        steps_per_round=steps,
        begins=dict(begins),
        shares={row["game"]: more[row["game"]] for row in result["games"]},
    )
    return hints.closing_hint(result, evidence)


STILL = (
    "hint: pong keeps 70%; nothing that was logged of it still moves: try a larger share of the "
    "rows and more rounds, by the same command, --config.learn.shares=pong=2 and "
    "--config.learn.rounds=40"
)


def test_where_nothing_moves_a_task_among_others_may_have_more_of_the_rows():
    assert hint() == STILL
    alone = {"games": _result()["games"][1:]}
    assert hint(alone) is None


FALLING = [1.0] * 12 + [0.8] * 4 + [0.6] * 4
RISING = [0.8] * 16 + [0.9] * 4


@pytest.mark.parametrize(
    ("kept", "high", "said"),
    [(0.89, 0.94, True), (0.91, 0.94, False), (0.89, 0.96, False), (None, None, False)],
)
def test_only_a_game_that_is_far_below_has_a_hint(kept, high, said):
    row = {"retention": kept, "retention_interval": [0.1, high]}
    assert (hint(_result(**row), _history(FALLING)) is not None) == said


def test_a_loss_that_still_falls_suggests_more_rounds():
    assert hint(history=_history(FALLING)) == (
        "hint: pong keeps 70%; its loss still fell in the last fifth of the rounds: try more "
        "rounds, by the same command and --config.learn.rounds=40"
    )
    assert hint(history=_history(FALLING[::-1])) == STILL, "it rises"
    assert hint(history=_history([1.0] * 16 + [0.96] * 4)) == STILL, "by 4%"
    noisy = [1.0, 2.0] * 8 + [0.8, 1.9] * 2
    assert hint(history=_history(noisy)) == STILL, "by 10%, which its noise does as well"


def test_agreement_that_still_rises_suggests_more_rounds():
    assert "its agreement still rose in the last fifth" in hint(history=_history(None, RISING))
    small = [0.9] * 16 + [0.904] * 4
    assert hint(history=_history(None, small)) == STILL


def test_scores_that_still_rise_suggest_more_rounds():
    rising = _history(kept=(0.6, 0.7))
    assert "its score still rose at the last evaluation: try more rounds" in hint(history=rising)
    assert hint(history=_history(kept=(0.7, 0.74))) == STILL
    assert hint(history=_history(kept=(0.7, 0.6))) == STILL


def test_agreement_that_is_high_suggests_the_student_s_own_states():
    alike = _result(agreement=0.98)
    said = hint(alike, _history(FALLING))
    assert "agrees with its expert in 98.0% of the states" in said and "drove 50% of them" in said
    assert "--config.collect.final_expert_share" in said and "rounds=" not in said
    assert "more rounds" in hint(_result(agreement=0.96), _history(FALLING))


def test_what_is_known_by_heart_suggests_more_states():
    """The last fifth of the rounds against the states collected last."""
    early = _history(None, [0.99] * 16 + [0.75, 0.73, 0.75, 0.73])
    assert hint(_result(agreement=0.69), early) == (
        "hint: pong keeps 70%; it agrees with its expert in 74% of the states it has learnt from "
        "and in 69% of those collected last, so it knows some by heart: try more states, by the "
        "same command and --config.learn.rounds=40 --config.collect.steps_per_round=640"
    )
    assert hint(_result(agreement=0.69), early, steps=0).endswith(", of a larger dataset")
    assert hint(_result(agreement=0.71), early) == STILL


def test_a_loss_of_choices_suggests_another():
    cheap = _history(regret=[1.0] + [0.1] * 19)
    assert hint(history=cheap, loss="kl").endswith("try --config.learn.loss=q_values in a new run")
    logits = hint(history=cheap, loss="nll", of_q=False)
    assert logits.endswith("try --config.learn.loss=log_prob_mse in a new run")
    assert "agrees in 90.0%" in logits
    assert hint(history=cheap, loss="mse") == STILL
    assert hint(history=_history(regret=[1.0] + [0.3] * 19), loss="kl") == STILL, "dear choices"


def test_who_could_have_begun_otherwise_is_told_how():
    begins = {"pong": "begin as it: --config.learn.warm_start=pong"}
    said = hint(history=_history(FALLING), begins=begins)
    assert said.endswith("in a new run, " + begins["pong"])
    assert "more rounds" in hint(history=_history(FALLING), begins={"breakout": "another"})


def test_the_hint_is_of_the_game_that_keeps_least():
    both = _result()
    both["games"][0] |= {"retention": 0.5, "retention_interval": [0.4, 0.6]}
    history = [row | {"agreement/breakout": 0.8 + row["step"] / 100} for row in _history()]
    assert hint(both, history).startswith("hint: breakout keeps 50%; its agreement still rose")
    told = hint(both, _history(FALLING))
    assert told.startswith("hint: pong keeps 70%"), "nothing is known of the other"


def test_experts_that_drive_all_along_suggest_the_student_s_own_states():
    said = hint(history=_history(share=1.0))
    assert "alone: let it drive too, in a new run (--config.collect.final_expert_share" in said
    assert "more rounds" in hint(history=_history(FALLING, share=1.0))


def test_what_is_not_logged_of_a_task_says_nothing():
    """As of a task in which only angles are pressed, or that nothing is learnt from."""
    del (bare := _result())["games"][1]["agreement"]
    assert hint(bare, [{"step": 1, "loss": 1.0}], loss="kl") is None
    assert hint(bare, _history(FALLING)) is not None


def _scores(*scores):
    ones = np.ones(len(scores), int)
    return scoring.Scores(np.array(scores, float), ones, np.arange(len(scores)), ones == 0)


@pytest.mark.parametrize(
    ("scores", "random", "said"),
    [
        ((-20.5, -20.5), -20.3, "not better than random play (-20.3)"),
        ((-20.0, -20.0), -20.3, None),
        # Their mean is above, and two games so far apart say nothing.
        ((-21.0, 21.0), -20.3, "not clearly better than random play (-20.3)"),
        ((-21.0, -21.0), None, None),
        ((-21.0,), -20.3, None),  # what another game would score is not known
    ],
)
def test_an_expert_that_plays_no_better_than_at_random(scores, random, said):
    expert = types.SimpleNamespace(name="champion", task=tasks.get("pong"))
    warning = hints.no_better_than_random(expert, _scores(*scores), random)
    if said is None:
        assert warning is None
    else:
        assert warning.startswith(f"warning: champion scores {np.mean(scores):.1f} [")
        assert f"in pong, {said}: what it sees or does may differ" in warning
        assert "\n" not in warning
