"""What `tasks.check` says of pools: of ours nothing, of broken ones what is broken."""

import dataclasses
import re
from typing import ClassVar

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.task import Played, Pool, Suite, Task
from jaxdistill.tasks.views import Vector

LINE = Suite(
    "line",
    ("LEFT", "RIGHT"),
    Vector(2),  # the place, and the wind there is
    "float32",
    frames_per_second=1,
    opening_steps=0,
    facts=("far",),
)
LENGTH = 5


@pytest.mark.parametrize("dtype", ["int32", "float64", "bool"])
def test_frames_that_no_dataset_holds_are_refused(dtype):
    said = f"suite line: frame_dtype is '{dtype}', expected one of uint8, float32"
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(LINE, frame_dtype=dtype)


class LinePool(Pool):
    """Walk from a place of one's own, with a wind that is drawn where the game begins."""

    def __init__(self, task, num_envs, seed, max_steps):
        super().__init__(task, num_envs, None, max_steps)
        self.seed, self.limit = seed, max_steps
        self.games, self.steps = np.full(num_envs, -1), np.zeros(num_envs, int)
        self.numbers = np.zeros((num_envs, 2), np.float32)
        self.start(np.arange(num_envs))
        self._begin(self.seen(np.arange(num_envs)), np.zeros(num_envs))

    def draw(self, row):
        words = (self.seed + int(row), int(self.games[row]))
        return np.random.default_rng(words).uniform(0, LENGTH, 2)

    def start(self, rows):
        self.games[rows] += 1
        self.steps[rows] = 0
        for row in rows:
            self.numbers[row] = self.draw(row)

    def seen(self, rows):
        return self.numbers[rows][:, None]

    def _send(self, actions, rows):
        self.actions = actions

    def _receive(self):
        rows = np.arange(self.num_envs) if self._sent is None else self._sent
        return self.played(rows, self.last.over[rows])

    def played(self, rows, over):
        self.start(rows[over])
        moved = rows[~over]
        self.numbers[moved, 0] += 2 * self.actions[~over] - 1
        self.steps[moved] += 1
        door, cut = self.numbers[rows, 0] > LENGTH, self.steps[rows] >= self.limit
        nothing = np.zeros(len(rows))
        ended = (door | cut) & ~over
        return Played(self.seen(rows), door * 1.0, nothing, ended, cut & ~door, self._sent)

    def skip(self, counts):
        rows = np.flatnonzero(counts)
        self.games[rows] = counts[rows] - 1
        self.start(rows)
        self._begin(self.seen(rows), np.zeros(len(rows)), rows)

    @property
    def states(self):
        return (1000 * self.games).astype(np.uint32) + self.numbers.sum(1).view(np.uint32)

    @property
    def facts(self):
        return {"far": self.numbers[:, 0]}


class LineCamera:
    """A white pixel on its way."""

    def __init__(self, pool):
        self.pool = pool
        self.frame = self.drawn()

    def step(self, action):
        self.pool.step(np.asarray([action]))
        self.frame = self.drawn()
        return self.frame

    def drawn(self):
        frame = np.zeros((1, 4 * LENGTH, 3), np.uint8)
        frame[0, int(self.pool.numbers[0, 0])] = 255
        return frame


@dataclasses.dataclass(frozen=True)
class Line(Task):
    suite: ClassVar[Suite] = LINE

    name: str = "line"
    actions: tuple[int, ...] = (0, 1)
    max_steps: int = 30
    made: type[LinePool] = LinePool
    filmed: type[LineCamera] = LineCamera

    def pool(self, num_envs, *, seed, view=None, max_steps=None, threads=None):
        return self.made(self, num_envs, seed, max_steps or self.max_steps)

    def camera(self, *, seed, max_steps=None):
        return self.filmed(self.pool(1, seed=seed, max_steps=max_steps))


def test_a_pool_that_keeps_its_promises_is_not_complained_of():
    assert tasks.check(Line()) == []
    assert tasks.check(Line(), max_steps=7, num_envs=5, seed=3) == []


@pytest.mark.parametrize(
    "name",
    [
        "pong",
        "combat/clicking",
        pytest.param("lander/windy", marks=pytest.mark.filterwarnings("ignore")),
    ],
)
def test_so_are_ours(name):
    if name.startswith("lander"):
        pytest.importorskip("Box2D")
    assert tasks.check(tasks.get(name), max_steps=6, num_envs=3) == []


def test_so_is_one_that_skips_nothing():
    sticky = tasks.under(tasks.get("pong"), Rules(repeat_action_probability=0.25))
    assert tasks.check(sticky, max_steps=6, num_envs=2) == []


class NoStack(LinePool):
    def seen(self, rows):
        return self.numbers[rows]


class Doubles(LinePool):
    def seen(self, rows):
        return self.numbers[rows][:, None].astype(float)


class ThreeNumbers(LinePool):
    def seen(self, rows):
        return np.zeros((len(rows), 1, 3), np.float32)


class ScalarReward(LinePool):
    def played(self, rows, over):
        return super().played(rows, over)._replace(rewards=1.0)


class NumberedEnds(LinePool):
    def played(self, rows, over):
        played = super().played(rows, over)
        return played._replace(ended=played.ended.astype(int))


class NumberedCuts(LinePool):
    def played(self, rows, over):
        played = super().played(rows, over)
        return played._replace(truncated=played.truncated * 1.0)


class NoRows(LinePool):
    def played(self, rows, over):
        return super().played(rows, over)._replace(rows=None)


class StepsAll(LinePool):
    """And shows those that were asked for."""

    def _receive(self):
        rows, everyone = self._sent, np.arange(self.num_envs)
        if rows is None:
            return super()._receive()
        own = np.zeros(self.num_envs, int)
        own[rows] = self.actions
        self.actions = own
        played = super().played(everyone, self.last.over)
        return Played(*(x[rows] for x in played[:-1]), rows)


class RowsInOrder(LinePool):
    """As if rows always came in their order."""

    def played(self, rows, over):
        return super().played(np.sort(rows), over)


class Unseeded(LinePool):
    def draw(self, row):
        return np.random.default_rng().uniform(0, LENGTH, 2)


class OneGenerator(LinePool):
    """Of the whole pool, in the order in which its games begin."""

    def draw(self, row):
        if not hasattr(self, "rng"):
            self.rng = np.random.default_rng(self.seed)
        return self.rng.uniform(0, LENGTH, 2)


class OwnGenerators(LinePool):
    """One of each environment, which goes on from game to game."""

    def draw(self, row):
        if not hasattr(self, "rngs"):
            self.rngs = [np.random.default_rng(self.seed + i) for i in range(self.num_envs)]
        return self.rngs[row].uniform(0, LENGTH, 2)


class Endless(LinePool):
    def played(self, rows, over):
        self.limit = 10**6
        return super().played(rows, over)


class WrittenTo(LinePool):
    def seen(self, rows):
        return self.numbers[:, None] if len(rows) == self.num_envs else super().seen(rows)


class OtherFacts(LinePool):
    facts: ClassVar = {"near": np.zeros(3)}


class LongFacts(LinePool):
    @property
    def facts(self):
        return {"far": self.numbers}


class Int64States(LinePool):
    @property
    def states(self):
        return self.games


class NotANumber(LinePool):
    def draw(self, row):
        return np.nan


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (NoStack, "observations are (3, 2) of float32, expected (3, 1, 2) of float32"),
        (Doubles, "observations are (3, 1, 2) of float64, expected (3, 1, 2) of float32"),
        (ThreeNumbers, "observations are (3, 1, 3) of float32, expected (3, 1, 2) of float32"),
        (ScalarReward, "rewards are (), expected (3,)"),
        (NumberedEnds, "ended are int64, expected bool"),
        (NumberedCuts, "truncated are float64, expected bool"),
        (NoRows, "expected (3, 1, 2) of float32.*; give Played the rows that have stepped"),
        (StepsAll, "states of environment 1 after its 0 steps are not what they are where all"),
        (RowsInOrder, "observations of environment 2 after its 1 steps are not what they are"),
        (Unseeded, "same seed and actions play otherwise, observations after 0 steps; all chance"),
        (OneGenerator, "environment 1 of seed 0 is not environment 0 of seed 1, observations"),
        (OwnGenerators, "game 2 of environment 2 is another where those before it are skipped"),
        (Endless, "goes on after 20 steps; expected ended and truncated"),
        (WrittenTo, "observations after 0 steps were written to by a later step"),
        (OtherFacts, "facts are near, expected those of its suite: far"),
        (LongFacts, "fact 'far' is (3, 2), expected (3,)"),
        (Int64States, "states are (3,) of int64, expected (3,) of uint32"),
        (NotANumber, "observations are NaN or infinite"),
    ],
)
def test_what_is_broken_is_said_in_one_line(made, said):
    with pytest.raises(ValueError) as error:
        tasks.check(Line(made=made))
    message = str(error.value)
    assert message.startswith("line: ") and "\n" not in message
    assert re.search(re.escape(said).replace(r"\.\*", ".*"), message), message


class NoFilm(LineCamera):
    def drawn(self):
        raise NotImplementedError("a line\nis long")


class FilmBreaks(LineCamera):
    def step(self, action):
        if self.pool.last.ages[0] == 1:
            raise RuntimeError("no more film")
        return super().step(action)


class Gray(LineCamera):
    def drawn(self):
        return super().drawn()[..., 0]


class Floats(LineCamera):
    def drawn(self):
        return super().drawn() / 255


class Grows(LineCamera):
    def drawn(self):
        return np.repeat(super().drawn(), 1 + self.pool.last.ages[0], axis=0)


class Nothing(LineCamera):
    def drawn(self):
        return super().drawn()[:0]


class OneBuffer(LineCamera):
    def drawn(self):
        frame = super().drawn()
        if not hasattr(self, "frame"):
            return frame
        self.frame[:] = frame
        return self.frame


@pytest.mark.parametrize(
    ("filmed", "said"),
    [
        (NoFilm, "fails after 0 frames (NotImplementedError: a line is long); every run shows"),
        (FilmBreaks, "camera fails after 2 frames (RuntimeError: no more film); every run"),
        (Gray, "camera's frame after 0 steps is (1, 20) of uint8, expected (height, width, 3) of"),
        (Floats, "camera's frame after 0 steps is (1, 20, 3) of float64, expected (height, width"),
        (Grows, "camera's frame after 1 steps is (2, 20, 3) of uint8, expected (height, width, 3)"),
        (Nothing, "camera's frame after 0 steps is (0, 20, 3) of uint8, expected (height, width"),
        (OneBuffer, "camera's frame after 0 steps was written to by a later step; hand out arrays"),
    ],
)
def test_a_camera_that_cannot_film_a_game_is_said_in_one_line(filmed, said):
    with pytest.raises(ValueError) as error:
        tasks.check(Line(filmed=filmed))
    message = str(error.value)
    assert message.startswith("line: ") and "\n" not in message
    assert said in message


class Strict(LineCamera):
    def step(self, action):
        assert not self.pool.last.over[0], "as a clip's, it is not stepped past a game's end"
        return super().step(action)


def test_a_camera_is_stepped_to_the_end_of_a_game_and_no_further():
    assert tasks.check(Line(filmed=Strict)) == []


def test_a_pool_that_says_it_skips_nothing_may_go_on_drawing():
    made = type("Own", (OwnGenerators,), {"skips": False})
    assert tasks.check(Line(made=made)) == []


class Alike(LinePool):
    states = property(lambda self: np.zeros(self.num_envs, np.uint32))

    def draw(self, row):
        return 1.0


def test_what_is_no_error_is_told():
    other, states = tasks.check(Line(made=Alike))
    assert "another seed plays no other game" in other and "states never change" in states


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Line(actions=(0, 2)), r"actions are \(0, 2\), expected some of 0 to 1"),
        (Line(actions=()), r"actions are \(\), expected some"),
    ],
)
def test_actions_that_are_none_are_refused(task, said):
    with pytest.raises(ValueError, match=said):
        tasks.check(task)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"action_names": tuple(map(str, range(257)))},
            "suite line: 257 actions of which one is chosen, expected 256 at most; say kinds",
        ),
        ({"kinds": ("key", "knob")}, "suite line: kinds of outputs are ['key', 'knob'], expected"),
    ],
)
def test_a_suite_of_what_cannot_be_chosen_is_refused_where_it_is_made(changes, said):
    """Actions are kept as bytes: the 256th counted from 0 would be read back as the first."""
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        dataclasses.replace(LINE, **changes)
    assert "\n" not in str(error.value)


def test_as_many_actions_as_a_byte_holds_are_kept_as_they_are():
    suite = dataclasses.replace(LINE, action_names=tuple(map(str, range(256))))
    assert np.asarray([255], suite.form.action_dtype).tolist() == [255]


def test_one_environment_is_not_enough():
    with pytest.raises(ValueError, match="num_envs is 1, expected at least 2"):
        tasks.check(Line(), num_envs=1)


@pytest.mark.parametrize("made", [NoStack, Doubles, ThreeNumbers])
def test_a_pool_of_other_shapes_is_refused_where_it_is_made(made):
    with pytest.raises(ValueError, match="line: observations are"):
        Line(made=made).pool(2, seed=0)


def test_a_step_of_other_shapes_is_refused_where_it_is_made():
    with pytest.raises(ValueError, match=r"line: rewards are \(\), expected \(2,\)"):
        Line(made=ScalarReward).pool(2, seed=0).step(np.zeros(2, int))
    with pytest.raises(ValueError, match="line: ended are int64, expected bool"):
        Line(made=NumberedEnds).pool(2, seed=0).step(np.zeros(2, int))
    with pytest.raises(ValueError, match="give Played the rows that have stepped"):
        Line(made=NoRows).pool(2, seed=0).step(np.zeros(1, int), np.array([1]))
