"""Tests for the description of what a network sees."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdistill import meshes
from jaxdistill.tasks import views
from jaxdistill.tasks.views import Screen, Shown, Vector, View, described, from_dict, shown

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "views.npz"


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
        ({"resize": "nearest"}, False),
        ({"gray": "none"}, False),
        ({"gray_last": True}, False),
        ({"maximum": "after"}, False),
        ({"maximum": "none"}, False),
        ({"spacing": 1}, False),
        ({"padding": "zero"}, False),
        ({"difference": True}, False),
        ({"channels_last": True}, False),
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
        View(gray_last=True, maximum="none", spacing=2, padding="zero", difference=True),
        View(gray="none", channels_last=True, maximum="after"),
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
        ({"resize": "bicubic"}, "'bicubic', expected one of area, linear, nearest, smooth"),
        ({"gray": "red"}, "'red', expected one of luminance, mean, stretched, none"),
        ({"maximum": True}, "maximum is True, expected one of before, after, none"),
        ({"padding": "black"}, "'black', expected one of repeat, zero"),
        ({"spacing": 0}, "spacing is 0, expected a whole number of 1"),
        ({"difference": 1}, "difference is 1, expected true or false"),
        ({"gray_last": True, "gray": "none"}, "gray_last has no effect where gray is 'none'"),
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
    assert repr(View(2, 3, padding="zero")).startswith("View(height=2, width=3, stack=4, ")
    assert repr(View(padding="zero")) == f"{repr(View())[:-1]}, padding='zero')"
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


def test_what_is_usual_is_written_as_it_always_was():
    assert list(View(resize="linear").to_dict()) == [
        *("height", "width", "stack", "resize", "gray", "crop", "steps")
    ]
    assert View(padding="zero").to_dict()["padding"] == "zero"


def test_colours_and_places_of_channels_are_in_the_shape():
    assert View(gray="none").shape == (12, 84, 84)
    assert View(80, 70, 2, channels_last=True).shape == (80, 70, 2)
    assert View(80, 80, 1, difference=True).shape == (1, 80, 80)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_sizes_are_those_of_opencv_to_one_grey_level(golden):
    compared = [name.split() for name in golden if " " in name]
    assert len(compared) == 30
    for image, kind, height, width in compared:
        old = golden["screen"][..., 1] if image == "screen" else golden["noise"]
        new = np.asarray(views._resized(old, (int(height), int(width)), kind), int)
        wanted = golden[f"{image} {kind} {height} {width}"]
        assert np.abs(new - wanted).max() <= (kind != "nearest"), (image, kind, height, width)
        assert (new == wanted).mean() > 0.8


def test_sizes_are_those_of_the_opencv_that_is_installed():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    for kind in ("area", "linear", "nearest"):
        for _ in range(6):
            height, width, *old = rng.integers(5, 120, 4)
            image = rng.integers(0, 256, old).astype(np.uint8)
            number = getattr(cv2, f"INTER_{kind.upper()}")
            wanted = cv2.resize(image, (int(width), int(height)), interpolation=number)
            new = np.asarray(views._resized(image, (int(height), int(width)), kind), int)
            assert np.abs(new - wanted).max() <= 1, (kind, old, height, width)


def test_smooth_sizes_are_those_of_pillow_to_one_grey_level(golden):
    for height, width in ((80, 80), (84, 84), (33, 190)):
        picture = Image.fromarray(golden["screen"][..., 1])
        wanted = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), int)
        new = np.asarray(views._resized(np.asarray(picture), (height, width), "smooth"), int)
        assert np.abs(new - wanted).max() <= 1, (height, width)


def test_a_plain_image_keeps_its_level_whatever_its_size():
    image = np.full((37, 53), 201, np.uint8)
    for kind in views.RESIZES:
        assert (np.asarray(views._resized(image, (17, 90), kind)) == 201).all()


def test_tones_by_hand():
    pixels = np.array([[255, 255, 255], [100, 0, 0], [0, 100, 0], [0, 1, 1]], np.uint8)
    image = pixels.T.reshape(3, 1, 4)
    # 0.2989, 0.587 and 0.114 of a hundred; and whole levels, halves up.
    assert np.asarray(views._gray(image, "luminance")).tolist() == [[255, 30, 59, 1]]
    assert np.asarray(views._gray(image, "mean")).tolist() == [[255, 33, 33, 1]]
    # Sums of 765, 100, 100 and 2, of which 763 are stretched over 255: 98 of them are 32.75.
    assert np.asarray(views._gray(image, "stretched")).tolist() == [[255, 33, 33, 0]]
    assert not np.asarray(views._gray(image[..., :1], "stretched")).any(), "one level alone is 0"


@pytest.mark.parametrize(
    ("seen", "skip", "wanted"),
    [
        ([View(), View()], 4, View()),
        ([Vector(2, start=1, of=5), Vector(5)], 1, Vector(5)),
        ([View(resize="linear"), View()], 4, Screen((12, 8, 4, 0), gray=True)),
        ([View(gray="mean", stack=1), View(stack=2)], 4, Screen((5, 4, 1, 0), maximum=False)),
        ([View(gray="mean", stack=1), View(stack=2)], 1, Screen((1, 0), skip=1)),
        ([View(gray="mean", stack=1), View(gray="none", stack=2)], 4, Screen((4, 0))),
        ([View(stack=1), View(gray_last=True, stack=1)], 4, Screen((1, 0), maximum=False)),
        ([View(gray_last=True)], 3, Screen((9, 6, 3, 0), skip=3)),
        ([View(difference=True, stack=1)], 4, Screen((4, 0), gray=True)),
        ([View(spacing=8, stack=2)], 4, Screen((8, 4, 0), gray=True)),
        ([View(maximum="none", stack=2)], 4, Screen((4, 0), gray=True, maximum=False)),
        (
            [View(maximum="none", stack=2), View(stack=2)],
            4,
            Screen((5, 4, 1, 0), gray=True, maximum=False),
        ),
        (
            [View(maximum="after", stack=1), View(spacing=1, maximum="none", stack=3)],
            4,
            Screen((2, 1, 0), gray=True, maximum=False),
        ),
        ([View(maximum="none", stack=2)], 1, Screen((1, 0), skip=1, gray=True)),
    ],
)
def test_a_pool_shows_what_it_takes_to_see_every_view(seen, skip, wanted):
    assert shown(seen, skip) == wanted
    assert shown([wanted], skip) == wanted == wanted.whole


def test_a_crop_beyond_the_screen_is_refused():
    with pytest.raises(ValueError, match=r"crop is \(30, 211\), and the screen has 210 rows"):
        shown([View(crop=(30, 211))], 4)


def _screens(screen, rows=2, ages=(100, 100), seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (rows, *screen.shape))
    return Shown(frames.astype(np.uint8), np.asarray(ages, np.int32), screen)


def _see(view, shown):
    seen = np.asarray(jax.jit(view.see)(shown))
    assert seen.shape == (len(shown.frames), *view.shape)
    return seen


FULL = {"height": 210, "width": 160}


def test_frames_are_found_where_they_are_shown():
    screen = Screen((5, 4, 1, 0), gray=True, maximum=False)
    seen = _screens(screen)
    last = _see(View(**FULL, stack=2, maximum="none"), seen)
    np.testing.assert_array_equal(last, seen.frames[:, [1, 3]])
    pairs = np.maximum(seen.frames[:, [0, 2]], seen.frames[:, [1, 3]])
    np.testing.assert_array_equal(_see(View(**FULL, stack=2), seen), pairs)
    two = _see(View(**FULL, stack=2, spacing=1, maximum="none"), seen)
    np.testing.assert_array_equal(two, seen.frames[:, 2:])
    steps = Screen((8, 4, 0), gray=True)
    seen = _screens(steps)
    np.testing.assert_array_equal(_see(View(**FULL, stack=2), seen), seen.frames[:, 1:])
    np.testing.assert_array_equal(
        _see(View(**FULL, stack=2, spacing=8), seen), seen.frames[:, [0, 2]]
    )


def test_the_maximum_may_be_taken_of_what_is_resized():
    screen = Screen((1, 0), gray=True, maximum=False)
    seen = _screens(screen)
    plain = View(84, 84, 1, maximum="none")
    older = _see(plain, Shown(seen.frames[:, ::-1], seen.ages, screen))
    after = _see(View(84, 84, 1, maximum="after"), seen)
    np.testing.assert_array_equal(after, np.maximum(_see(plain, seen), older))
    assert (after != _see(View(84, 84, 1), seen)).any()


def test_the_maximum_is_of_luminances_or_of_colours_by_hand():
    """A red pixel, then a blue one: of the brighter gray, or of both colours together."""
    frames = np.zeros((1, 2, 3, *views.SCREEN), np.uint8)
    frames[0, 0, 0], frames[0, 1, 2] = 200, 200
    view, coloured = View(84, 84, 1), View(84, 84, 1, gray="mean")
    screen = shown([view, coloured], 4)
    seen = Shown(frames, np.array([9], np.int32), screen)
    # 0.2989 of 200 is 60, 0.114 of it 23, and both together are 83.
    assert (_see(view, seen) == 60).all()
    assert (_see(View(84, 84, 1, maximum="none"), seen) == 23).all()
    assert (_see(View(84, 84, 1, maximum="after"), seen) == 60).all()
    assert (_see(View(84, 84, 1, gray_last=True), seen) == 83).all()
    assert (_see(coloured, seen) == 133).all()  # 400 / 3


def test_colours_are_kept_or_made_gray_before_or_after_resizing():
    seen = _screens(Screen((4, 0)))
    colours = _see(View(84, 84, 2, gray="none"), seen)
    by_hand = views._resized(seen.frames, (84, 84), "area")
    np.testing.assert_array_equal(colours, np.asarray(by_hand).reshape(2, 6, 84, 84))
    last = _see(View(84, 84, 2, gray="mean", gray_last=True), seen)
    np.testing.assert_array_equal(last, views._gray(by_hand, "mean"))
    first = _see(View(84, 84, 2, gray="mean"), seen)
    assert np.abs(last.astype(int) - first).max() == 1
    assert np.abs(first.astype(int) - _see(View(84, 84, 2), seen)).max() > 5


def test_a_crop_is_cut_and_steps_are_taken_one_by_one():
    seen = _screens(Screen((0,), gray=True))
    view = View(84, 84, 1, "linear", crop=(8, 196), steps=((94, 84),))
    once = views._resized(seen.frames[:, :, 8:196], (94, 84), "linear")
    np.testing.assert_array_equal(_see(view, seen), views._resized(once, (84, 84), "linear"))


def test_the_first_frames_are_repeated_by_the_pool_or_zero():
    screen = Screen((8, 4, 0), gray=True)
    seen = _screens(screen, rows=3, ages=(0, 1, 2))
    padded = _see(View(**FULL, stack=3, padding="zero"), seen)
    there = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1]], np.uint8)
    np.testing.assert_array_equal(padded, seen.frames * there[..., None, None])
    np.testing.assert_array_equal(_see(View(**FULL, stack=3), seen), seen.frames)


def test_differences_are_of_frames_that_follow_each_other():
    screen = Screen((4, 0), gray=True)
    seen = _screens(screen, ages=(5, 0))
    changes = _see(View(**FULL, stack=1, difference=True), seen)
    frames = seen.frames.astype(np.float32)
    np.testing.assert_allclose(changes[:, 0], (frames[:, 1] - frames[:, 0]) / 255, atol=1e-6)
    assert changes.dtype == np.float32 and changes.min() < 0
    from_nothing = _see(View(**FULL, stack=1, difference=True, padding="zero"), seen)
    np.testing.assert_allclose(from_nothing[1, 0], frames[1, 1] / 255, atol=1e-6)


def test_channels_may_stand_last():
    seen = _screens(Screen((4, 0), gray=True))
    last = _see(View(**FULL, stack=2, channels_last=True), seen)
    np.testing.assert_array_equal(last, np.moveaxis(seen.frames, 1, -1))


def test_what_is_seen_has_the_same_bits_beside_whatever_and_on_several_devices():
    """What is seen is stored, and compared where a run resumes: on another machine too."""
    view = View(gray="mean", resize="linear", crop=(8, 196), steps=((94, 84),))
    seen = _screens(shown([view], 4), rows=4, ages=[9] * 4)
    whole = _see(view, seen)
    alone = _see(view, Shown(seen.frames[2:3], seen.ages[2:3], seen.screen))
    np.testing.assert_array_equal(whole[2:3], alone)
    split = [meshes.put_rows(meshes.create(), x) for x in (seen.frames, seen.ages)]
    assert len(split[0].sharding.device_set) == 4
    np.testing.assert_array_equal(_see(view, Shown(*split, seen.screen)), whole)
