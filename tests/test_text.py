"""Tests for text in messages."""

import tracemalloc

from jaxdistill.text import short_repr


def test_values_in_messages_are_as_python_writes_them_while_they_are_short():
    for value in ("pong", 3, 0.5, None, [1, (2, "a")], {"a": [[1]]}, {1, 2}, "\n"):
        assert short_repr(value) == repr(value)
    assert short_repr("x" * 300) == "'" + "x" * 99 + "..."
    assert short_repr(10**5000) == "int too large to show"


def test_no_more_of_a_value_is_written_out_than_is_shown():
    """1,000 lists of one list, of 1,000 times one text: 100 GB."""
    inner = ["x" * 100_000] * 1000
    tracemalloc.start()
    shown = short_repr([[inner] * 1000] * 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shown) < 110 and peak < 50e6
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert short_repr(nested) == "[[[[...]]]]"
