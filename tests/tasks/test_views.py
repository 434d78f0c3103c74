"""Tests for the description of what a network sees."""

import json

import numpy as np
import pytest

from jaxdistill.tasks.views import Vector, View, described, from_dict


def test_the_default_is_the_usual_atari_view():
    view = View()
    assert view.shape == (4, 84, 84)
    assert (view.resize, view.gray, view.crop, view.steps) == ("area", "luminance", None, ())
    assert view.native


@pytest.mark.parametrize(
    ("fields", "native"),
    [
        ({"height": 42, "width": 40, "stack": 1}, True),
        ({"resize": "linear"}, True),
        ({"crop": (34, 194)}, False),
        ({"gray": "mean"}, False),
        ({"steps": ((105, 80),)}, False),
    ],
)
def test_native_says_whether_envpool_makes_the_view(fields, native):
    assert View(**fields).native is native


def test_the_shape_is_stack_height_width():
    assert View(height=80, width=60, stack=2).shape == (2, 80, 60)


@pytest.mark.parametrize(
    "view",
    [
        View(),
        View(42, 40, 1, "linear", "mean", (34, 194), ((80, 80), (42, 42))),
    ],
)
def test_a_view_survives_json(view):
    again = View.from_dict(json.loads(json.dumps(view.to_dict())))
    assert again == view
    assert hash(again) == hash(view)


def test_fields_left_out_have_their_defaults():
    assert View.from_dict({"resize": "linear"}) == View(resize="linear")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 0}, "height is 0"),
        ({"width": -1}, "width is -1"),
        ({"stack": 0}, "stack is 0"),
        ({"resize": "bicubic"}, "'bicubic', expected one of area, linear"),
        ({"gray": "red"}, "'red', expected one of luminance, mean"),
        ({"heigth": 84}, "unknown field 'heigth'; known fields: .*height"),
    ],
)
def test_a_bad_view_names_the_field_and_what_is_possible(fields, message):
    with pytest.raises(ValueError, match=message):
        View.from_dict(fields)


def test_a_vector_is_one_frame_of_numbers():
    vector = Vector(8)
    assert vector.shape == (1, 8) and vector.stack == 1 and vector.native
    assert vector != Vector(9) and hash(vector) == hash(Vector(8))


@pytest.mark.parametrize("size", [0, -1, 4097, 8.0, True, "8", None, (8,)])
def test_a_vector_of_nonsense_is_refused(size):
    with pytest.raises(ValueError, match=r"view: size is .*, expected a whole number of 1\.\.4096"):
        Vector(size)


def test_a_part_is_seen_of_what_a_pool_shows():
    part, shown = Vector(2, start=1, of=5), np.arange(2 * 5).reshape(2, 1, 5)
    np.testing.assert_array_equal(part.see(shown), [[[1, 2]], [[6, 7]]])
    assert part.shape == (1, 2) and part.stack == 1 and part.native
    assert part.whole == Vector(5) and part.whole.whole == Vector(5)
    np.testing.assert_array_equal(part.whole.see(shown), shown)
    # Frames without a stack, as a dataset holds them, are seen alike.
    np.testing.assert_array_equal(part.see(shown[:, 0]), [[1, 2], [6, 7]])
    np.testing.assert_array_equal(Vector(5).see(shown), shown)
    assert Vector(5).whole == Vector(5)
    np.testing.assert_array_equal(Vector(3, start=2, of=5).see(shown)[0, 0], [2, 3, 4])
    assert {part, Vector(2, start=1, of=5)} == {part} and part != Vector(2, start=2, of=5)
    assert part != Vector(2) and part != Vector(2, start=1, of=6)


def test_a_screen_is_seen_whole():
    shown = np.zeros((2, 4, 84, 84), np.uint8)
    assert View().see(shown) is shown and View(42, 40).whole == View(42, 40)


def test_a_view_says_what_it_is_in_messages():
    assert repr(Vector(8)) == "Vector(size=8)"
    assert repr(Vector(2, start=1, of=5)) == "Vector(size=2, start=1, of=5)"
    assert described(Vector(2, start=1, of=5)) == "a vector of 2 numbers"
    assert described(View()) == "a screen"


@pytest.mark.parametrize(
    ("start", "of"),
    [(-1, 5), (4, 5), (0, 1), (1, None), (1.0, 5), (True, 5), (0, 5.0), ("0", 5), (0, 4097)],
)
def test_a_part_of_nothing_that_is_shown_is_refused(start, of):
    with pytest.raises(ValueError, match=r"^view: numbers .*, expected a part of those shown$"):
        Vector(2, start=start, of=of)


def test_parts_survive_json_and_a_whole_is_written_as_it_always_was():
    part = Vector(2, start=1, of=5)
    assert part.to_dict() == {"size": 2, "start": 1, "of": 5}
    assert Vector(8).to_dict() == {"size": 8}
    assert from_dict({"size": 8}) == Vector(8)


@pytest.mark.parametrize(
    "view",
    [
        Vector(8),
        Vector(2, start=1, of=5),
        View(),
        View(42, 40, 1, "linear", "mean", (34, 194)),
    ],
)
def test_either_kind_of_view_survives_json(view):
    again = from_dict(json.loads(json.dumps(view.to_dict())))
    assert again == view and type(again) is type(view)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 8, "height": 84}, "unknown field 'size'"),
        ({"sise": 8}, "unknown field 'sise'"),
        ({"start": 1, "of": 5}, "unknown field 'of'"),
        ({"size": 2, "start": 4, "of": 5}, r"numbers 4\.\. of 5"),
        ({"size": 2, "start": "1", "of": 5}, r"numbers '1'\.\. of 5"),
    ],
)
def test_plain_values_of_neither_kind_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        from_dict(fields)
