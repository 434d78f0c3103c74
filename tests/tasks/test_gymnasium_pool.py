"""Environments of Gymnasium as tasks: counted, seeded, flattened, filmed, and refused in a line."""

import functools
import math

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.tasks.gymnasium_pool import GymnasiumPool
from jaxdistill.tasks.views import Vector

gymnasium = pytest.importorskip("gymnasium")


class Walk(gymnasium.Env):
    """Right is 1, left is -1; ends at `length`. Where it begins is drawn by its own generator."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12.4}  # noqa: RUF012 - Gymnasium's
    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, length=3, render_mode=None):
        self.length, self.render_mode, self.seeds = length, render_mode, []
        self.screen = np.zeros((2, 3, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.place = int(self.np_random.integers(2))
        return self._seen(), {}

    def step(self, action):
        self.place += 2 * action - 1
        return self._seen(), float(self.place), self.place >= self.length, False, {}

    def _seen(self):
        return np.asarray([self.place], np.float64)

    def render(self):
        assert self.render_mode == "rgb_array"
        self.screen[:] = 10 + self.place  # into the same array again
        return self.screen


def a_walk(name="walk/three", make=Walk, max_steps=5):
    return tasks.gymnasium_task(name, make, max_steps=max_steps)


def test_what_an_environment_says_is_counted():
    task = a_walk()
    assert (task.actions, task.max_steps, task.suite.frames_per_second) == ((0, 1), 5, 12)
    assert task.suite.name == "walk (1 numbers, 2 actions)"
    assert (task.suite.view, task.suite.epsilon) == (Vector(1), 0.0)
    pool = task.pool(2, seed=0)
    first = pool.last.observations[:, 0, 0]
    assert pool.last.observations.dtype == np.float32
    for step in range(1, 5):  # one goes right until the door, the other to and fro until the limit
        last = pool.step(np.asarray([1, step % 2]))
        door = first[0] + step == 3
        np.testing.assert_array_equal(last.over, [door, False])
        if door:
            break
    assert not last.truncated.any()
    assert last.scores[0] == sum(range(int(first[0]) + 1, 4))
    while not last.over[1]:
        last = pool.step(np.asarray([0, 0]))
    assert last.ages[1] == 5 and last.truncated[1]
    last = pool.step(np.asarray([0, 0]))
    assert not last.valid[1] and last.ages[1] == last.scores[1] == last.rewards[1] == 0
    assert last.observations[1, 0, 0] in (0, 1)


def test_chance_comes_from_the_pools_seed_alone():
    assert tasks.check(a_walk()) == []
    pool = a_walk().pool(2, seed=7)
    for _ in range(12):
        pool.step(np.ones(2, int))
    seeds = [world.seeds for world in pool._worlds]
    assert len({*seeds[0], *seeds[1]}) == len(seeds[0]) + len(seeds[1]) > 4
    again = a_walk().pool(1, seed=8)  # environment i draws from seed + i
    assert again._worlds[0].seeds == seeds[1][:1]


def test_a_limit_of_the_environments_own_cuts_too():
    def limited(render_mode=None):
        return gymnasium.wrappers.TimeLimit(Walk(100, render_mode), 3)

    pool = a_walk(make=limited, max_steps=50).pool(1, seed=0)
    for _ in range(3):
        last = pool.step(np.asarray([0]))
    assert last.over[0] and last.truncated[0] and last.ages[0] == 3


def test_the_registration_says_the_limit_unless_it_is_said():
    assert tasks.gymnasium_task("pole", "CartPole-v1").max_steps == 500
    task = tasks.gymnasium_task("car", "MountainCar-v0", max_steps=210)  # of its own 200
    assert (task.max_steps, task.size, task.actions) == (210, 2, (0, 1, 2))
    pool = task.pool(1, seed=0)
    assert [bool(pool.step(np.ones(1, int)).over[0]) for _ in range(210)] == [False] * 209 + [True]
    assert task.pool(1, seed=0, max_steps=1).step(np.ones(1, int)).truncated[0]
    longer = task.pool(1, seed=0, max_steps=220)
    assert [bool(longer.step(np.ones(1, int)).over[0]) for _ in range(220)] == [False] * 219 + [1]


def test_a_limit_that_the_environment_ends_before_is_refused():
    made = functools.partial(gymnasium.make, "CartPole-v1")
    words = "pole: max_steps is 501, and the environment is made to end after 500; make it with"
    with pytest.raises(ValueError, match=f"^{words}"):
        tasks.gymnasium_task("pole", made, max_steps=501)
    task = tasks.gymnasium_task("pole", made)
    assert task.max_steps == 500
    with pytest.raises(ValueError, match=f"^{words}"):
        task.pool(1, seed=0, max_steps=501)


def test_an_environment_is_told_by_the_file_of_its_class(own_tasks, monkeypatch):
    def content():
        tasks.add(task := tasks.gymnasium_task("pole", "CartPole-v1"))
        return tasks.content(task)

    first = content()
    file_of = tasks._file_of
    changed = functools.partial(lambda module, files: f"{module} {file_of(module, files)}")
    monkeypatch.setattr(tasks, "_file_of", changed)
    second = content()
    assert "CartPoleEnv" in first["fields"]["make"]
    assert "gymnasium.envs.classic_control.cartpole " in second["fields"]["make"]


def test_a_large_screen_is_filmed_at_every_nth_pixel():
    class Wide(Walk):
        def __init__(self, **options):
            super().__init__(**options)
            self.screen = np.zeros((200, 601, 3), np.uint8)

    frame = a_walk(make=Wide).camera(seed=0).frame
    assert frame.shape == (67, 201, 3)


def test_spaces_are_seen_as_gymnasium_flattens_them():
    task = tasks.gymnasium_task("lake", "FrozenLake-v1")
    world = gymnasium.make("FrozenLake-v1")
    pool = task.pool(1, seed=3)
    assert task.size == 16
    one = np.zeros(16, np.float32)
    one[0] = 1
    np.testing.assert_array_equal(pool.last.observations[0, 0], one)
    seen, *_ = world.reset(seed=0)
    np.testing.assert_array_equal(gymnasium.spaces.flatten(world.observation_space, seen), one)


def test_one_student_learns_what_is_named_and_shaped_alike():
    short, long = a_walk(), a_walk("walk/nine", functools.partial(Walk, 9))
    assert short.suite == long.suite
    assert a_walk("run/three").suite != short.suite
    wide = gymnasium.wrappers.FrameStackObservation
    stacked = a_walk("walk/wide", lambda **options: wide(Walk(**options), 2))  # (2, 1)
    assert stacked.suite != short.suite
    np.testing.assert_array_equal(*stacked.pool(1, seed=0).last.observations[0, 0])


def test_the_camera_films_the_game_of_a_pool():
    pool, camera = a_walk().pool(1, seed=5), a_walk().camera(seed=5)
    frames = [camera.frame]
    for action in (1, 0, 0, 1):
        pool.step(np.asarray([action]))
        frames.append(camera.step(action))
        assert frames[-1].shape == (2, 3, 3)
        assert (frames[-1] == 10 + int(pool.last.observations[0, 0, 0])).all()
    assert not np.array_equal(frames[0], frames[1])


def test_what_makes_no_pictures_is_filmed_by_its_numbers():
    class Blind(Walk):
        metadata = {"render_modes": ["human"]}  # noqa: RUF012 - Gymnasium's

    task = a_walk(make=Blind)
    assert not task.drawn and task.speed == 30
    camera = task.camera(seed=0)
    while (place := int(camera._pool.last.observations[0, 0, 0])) > -1:
        camera.step(0)
    assert place == -1 and camera.frame.shape == (8, 128, 3)
    np.testing.assert_array_equal(np.flatnonzero(camera.frame[4, :, 0]), np.arange(32, 65))
    assert not camera.frame[0].any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("Nowhere-v0", r"Nowhere-v0 cannot be made \(NameNotFound: .*Nowhere"),
        ("Pendulum-v1", r"walk: acts in Box\(.*\), expected Discrete, from 0 on"),
        (lambda: Picture(), r"walk: shows Box\(0, 255, \(96, 96, 3\).*a row of at most 4096 n"),
        (lambda: Late(), r"walk: acts in Discrete\(2, start=1\), expected Discrete, from 0 on"),
        (lambda: Many(), r"walk: acts in Discrete\(300\), expected Discrete.* at most 256 actions"),
        (Walk, "walk: has no step limit of its own; give max_steps"),
        (lambda: int("none"), r"walk: cannot be made \(ValueError: invalid literal"),
        (lambda: gymnasium.make("CartPole-v1"), "walk: cannot be filmed .*render_mode"),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_a_line(make, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        tasks.gymnasium_task("walk", make)


class Picture(Walk):
    """Shows an image."""

    observation_space = gymnasium.spaces.Box(0, 255, (96, 96, 3), np.uint8)


class Late(Walk):
    """Has actions from 1 on."""

    action_space = gymnasium.spaces.Discrete(2, start=1)


class Many(Walk):
    """Has more actions than are told apart."""

    action_space = gymnasium.spaces.Discrete(300)


def test_a_limit_below_one_is_refused():
    for limit in (0, -3):
        with pytest.raises(ValueError, match=f"walk/three: max_steps is {limit}, expected at"):
            a_walk(max_steps=limit)


def test_a_pool_of_none_and_another_view_are_refused():
    with pytest.raises(ValueError, match="num_envs is 0, expected at least 1"):
        a_walk().pool(0, seed=0)
    with pytest.raises(ValueError, match=r"walk/three shows .*1\), not .*2\)"):
        a_walk().pool(1, seed=0, view=Vector(2))
    assert isinstance(a_walk().pool(3, seed=0), GymnasiumPool)


class Faulty(Walk):
    """Walks in two numbers, and says at its second step what it is told to."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, seen=None, reward=None, render_mode=None):
        super().__init__(render_mode=render_mode)
        self._says, self._steps = (seen, reward), 0

    def step(self, action):
        self._steps += 1
        seen, reward, *rest = super().step(action)
        if self._steps == 2:
            seen, reward = (
                x if y is None else y for x, y in zip((seen, reward), self._says, strict=True)
            )
        return seen, reward, *rest

    def _seen(self):
        return np.full(2, self.place, np.float64)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"reward": math.nan}, "faulty: rewards are NaN or infinite"),
        ({"reward": 1e300}, "faulty: rewards are NaN or infinite"),
        ({"seen": np.array([np.nan, 0.0])}, "faulty: observations are NaN or infinite"),
        ({"seen": np.array([1e200, 0.0])}, "faulty: observations are NaN or infinite"),
        ({"seen": np.array([1.0])}, r"faulty: step shows \(1,\), expected \(2,\)"),
    ],
)
def test_what_is_no_number_or_of_another_shape_is_refused_where_it_arises(says, words):
    """Else an expert or a rate is blamed for it, or a whole run is learnt and cannot be read."""
    task = tasks.gymnasium_task("faulty", functools.partial(Faulty, **says), max_steps=9)
    pool = task.pool(2, seed=0)
    pool.step(np.zeros(2, int))
    with pytest.raises(ValueError, match=words):
        pool.step(np.zeros(2, int))
