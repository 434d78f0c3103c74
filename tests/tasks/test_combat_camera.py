"""Tests for fights seen from above: the picture is of the episode that was played."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdistill.play import clips
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import camera, physics, scripts
from jaxdistill.tasks.combat.state import begin


def standing(x=0.0, z=0.0, y=0.0, **changes):
    changes = {name: jnp.asarray(value) for name, value in changes.items()}
    return physics.standing(jnp.array([x, y, z]), 100.0).replace(**changes)


def facing_each_other(distance, **changes):
    """The target that many blocks to the north of the agent."""
    target = standing(10.0, 20.0 + distance, yaw=math.pi)
    return begin(jnp.zeros(2, jnp.uint32), standing(10.0, 20.0), target).replace(**changes)


def whole(task, own):
    """Numbers for all nine entries of an action, from those of the task."""
    action = np.zeros(9, np.float32)
    action[list(task.actions)] = own
    return action


def box(frame, colour):
    """First and last row and column of a colour; None where there is none of it."""
    rows, columns = np.nonzero((frame == colour).all(axis=-1))
    return (rows.min(), rows.max(), columns.min(), columns.max()) if len(rows) else None


def blocks_apart(frame, state):
    """How far the target's square is from the agent's to the east and the north, in blocks."""
    x, _, z = np.abs(np.asarray(state.target.position - state.agent.position))
    scale = 200 / max(8, x + 3, z + 3)
    middles = []
    for colour in (camera.AGENT, camera.TARGET):
        top, bottom, left, right = box(frame, colour)
        middles.append(np.array([left + right, -top - bottom]) / 2)
    return (middles[1] - middles[0]) / scale, 1 / scale


@pytest.mark.parametrize("task", [combat.DUEL, combat.MOVEMENT], ids=["duel", "movement"])
def test_it_shows_the_very_episode_the_pool_plays(task):
    pool = task.pool(1, seed=11, max_steps=25)
    shown, other = (task.camera(seed=seed, max_steps=25) for seed in (11, 12))
    script = jax.jit(scripts.SCRIPTS[task.name])
    ages = []
    for step in range(40):
        state = jax.tree.map(lambda array: array[0], pool.episodes)
        apart, pixel = blocks_apart(shown.frame, state)
        way = np.asarray(state.target.position - state.agent.position)
        np.testing.assert_allclose(apart, way[[0, 2]], atol=1.01 * pixel)
        noise = scripts.at_random(task.environment, jax.random.PRNGKey(step), 1)[0]
        action = whole(task, script(state) if step % 3 else noise)
        ages.append(int(pool.step(action[None]).ages[0]))
        frame = shown.step(action)
        assert frame is shown.frame and frame.shape == (216, 200, 3) and frame.dtype == np.uint8
        assert (frame != other.step(action)).any()
    assert ages[24:27] == [25, 0, 1]  # it went on into the next episode


def test_bodies_are_where_the_state_says():
    """Within 5 blocks a block is 25 pixels; the middle between both is that of the ground."""
    frame = camera.draw(facing_each_other(4.0))
    # 2 blocks below and above the middle (116, 100); a body is 0.6 of 25 pixels wide.
    assert box(frame, camera.AGENT) == (166 - 8, 166 + 8, 92, 108)
    assert box(frame, camera.TARGET) == (66 - 8, 66 + 8, 92, 108)
    # 3 blocks of look to the north, so one before the target's middle, and the other way round.
    assert box(frame, camera.AGENT_LOOK) == (166 - 75, 166, 100, 100)
    assert box(frame, camera.TARGET_LOOK)[0] == 66
    # 17 blocks and 3 of margin are 10 pixels each.
    frame = camera.draw(facing_each_other(17.0))
    assert box(frame, camera.AGENT) == (201 - 3, 201 + 3, 97, 103)
    assert box(frame, camera.TARGET) == (31 - 3, 31 + 3, 97, 103)
    # However far they are, both are there.
    frame = camera.draw(facing_each_other(900.0))
    assert box(frame, camera.AGENT) and box(frame, camera.TARGET)


def test_a_look_goes_where_one_looks():
    state = facing_each_other(4.0)
    east = state.agent.replace(yaw=jnp.asarray(math.pi / 2))
    assert box(camera.draw(state.replace(agent=east)), camera.AGENT_LOOK) == (166, 166, 100, 175)
    # Down by 60 degrees a click reaches half as far over the ground.
    steep = east.replace(pitch=jnp.asarray(-math.pi / 3))
    assert box(camera.draw(state.replace(agent=steep)), camera.AGENT_LOOK)[3] in (137, 138)


def test_the_ground_moves_under_them():
    """Both go half a block to the east: all that changes are the dots of the ground."""
    state = facing_each_other(4.0)
    step = jnp.array([0.5, 0.0, 0.0])
    moved = state.replace(
        agent=state.agent.replace(position=state.agent.position + step),
        target=state.target.replace(position=state.target.position + step),
    )
    before, after = camera.draw(state), camera.draw(moved)
    differ = (before != after).any(axis=-1)
    assert differ.any()
    for frame in (before, after):
        colours = np.unique(frame[differ], axis=0)
        assert {tuple(colour) for colour in colours} <= {camera.GRID, camera.GROUND}


def test_a_hit_a_click_and_a_jump_show():
    plain = facing_each_other(4.0)
    frame = camera.draw(plain)
    assert box(frame, camera.HURT) is None and box(frame, camera.CLICK) is None
    assert (frame[16:] != camera.SHADOW).any(axis=-1).all()
    for name, row in (("agent", 166), ("target", 66)):
        hurt = plain.replace(**{name: getattr(plain, name).replace(invulnerable=jnp.asarray(1))})
        hurt = camera.draw(hurt)
        assert box(hurt, camera.HURT) == (row - 7, row + 7, 93, 107)  # inside its own colour
        assert box(hurt, camera.AGENT) and box(hurt, camera.TARGET)
    clicked = camera.draw(plain, clicked=True)
    assert box(clicked, camera.CLICK) == (91, 166, 99, 101)
    assert box(clicked, camera.AGENT_LOOK) is None
    jumped = plain.replace(target=standing(10.0, 24.0, y=1.0))
    assert box(camera.draw(jumped)[16:], camera.SHADOW) is not None


def test_the_line_of_text_is_of_the_state():
    plain = facing_each_other(4.0)
    turned = plain.agent.replace(yaw=jnp.asarray(0.5))
    before = camera.draw(plain)[:16]
    for changed, first, last in (
        ({"tick": jnp.asarray(123)}, 0, 52),
        ({"hits_dealt": jnp.asarray(3)}, 52, 100),
        ({"hits_taken": jnp.asarray(3)}, 52, 100),
        ({"target": standing(10.0, 24.5, yaw=math.pi)}, 100, 148),
        ({"agent": turned}, 148, 200),
    ):
        after = camera.draw(plain.replace(**changed))[:16]
        columns = np.flatnonzero((before != after).any(axis=(0, 2)))
        assert first <= columns.min() and columns.max() < last, changed


def test_a_click_is_shown_by_the_camera_in_its_tick_alone():
    shown = combat.CLICKING.camera(seed=3, max_steps=4)
    clicks = [bool(box(shown.frame, camera.CLICK))]
    # The sixth begins the next episode; its action is ignored.
    for action in (0, 1, 1, 0, 1, 1):
        clicks.append(bool(box(shown.step(whole(combat.CLICKING, action)), camera.CLICK)))
    assert clicks == [False, False, True, True, False, False, True]


def test_a_gif_of_it_is_small():
    shown = combat.DUEL.camera(seed=5)
    rush = np.array([1, 0, 0, 0, 0, 1, 1, 0.05, 0])
    frames = np.stack([shown.frame, *(shown.step(rush) for _ in range(39))])
    assert len(np.unique(frames.reshape(-1, 3), axis=0)) <= 12
    gif = clips.to_gif(frames, 20)
    assert len(gif) < 40 * 2000
    # No colour is lost on the way.
    image = Image.open(io.BytesIO(gif))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frames[0])


@pytest.mark.parametrize("action", [np.zeros(8), np.zeros((1, 9)), np.full(9, np.nan)])
def test_an_action_there_is_not_is_refused(action):
    shown = combat.DUEL.camera(seed=0)
    with pytest.raises(ValueError, match="combat/duel: "):
        shown.step(action)
