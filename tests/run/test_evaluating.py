"""What is told of a student that was measured without its run; see also `test_students.py`."""

import types

import pytest

from jaxdistill.play import protocols
from jaxdistill.run import evaluating, training

TERMS = protocols.Terms(2, epsilon=0.05, seed=0, opening_steps=10, max_steps=20)


@pytest.mark.parametrize(
    ("told", "kept"), [({"expert": {"mean": 5.0}}, {"retention": 0.5}), ({}, {})]
)
def test_what_it_keeps_is_of_its_expert_s_mean_where_that_is_known(monkeypatch, told, kept):
    """Student 3, expert 5, random play 1."""
    played = {"game": "pong", "network": {"mean": 3.0}, "random": {"mean": 1.0}}
    asked = []

    def measure(experts, terms, *, told_by, only, **how):
        asked.append((experts, terms, told_by, only))
        return [played | told]

    monkeypatch.setattr(training, "measure", measure)
    student = types.SimpleNamespace(
        name="it", games=("qbert", "pong"), max_steps=None, experts=lambda: ["a", "b"]
    )
    (row,) = evaluating._measure_exported(student, TERMS, game="pong")
    assert asked == [(["a", "b"], TERMS, student, 1)]
    wanted = {"game": "pong", "student": {"mean": 3.0}, "random": {"mean": 1.0}}
    assert row == wanted | told | kept
