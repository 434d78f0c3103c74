"""Tests for the description of what a network sees."""

import json

import pytest

from jaxdistill.tasks.views import Vector, View, from_dict


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


@pytest.mark.parametrize("view", [Vector(8), View(), View(42, 40, 1, "linear", "mean", (34, 194))])
def test_either_kind_of_view_survives_json(view):
    again = from_dict(json.loads(json.dumps(view.to_dict())))
    assert again == view and type(again) is type(view)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 8, "height": 84}, "unknown field 'size'"),
        ({"sise": 8}, "unknown field 'sise'"),
    ],
)
def test_plain_values_of_neither_kind_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        from_dict(fields)
