"""A fight as people see it: from above, with the ground moving under the two.

North of the picture is +z and east is +x, so a yaw of 0 looks up and a growing yaw turns clockwise.
A few plain colours and no smoothing keep pictures crisp and GIFs small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdistill.tasks.combat import physics
from jaxdistill.tasks.combat.fight import REACH
from jaxdistill.tasks.combat.physics import Body
from jaxdistill.tasks.combat.pool import CombatPool
from jaxdistill.tasks.combat.state import State

SIZE, TOP = 200, 16  # pixels: the square of ground, and the line of text above it

AGENT, TARGET = (66, 153, 255), (255, 170, 51)
HURT = (255, 51, 85)  # inside a body that cannot be hit, for it just was
AGENT_LOOK, TARGET_LOOK, CLICK = (150, 205, 255), (176, 132, 72), (255, 255, 255)
GROUND, GRID, SHADOW, TEXT = (30, 34, 42), (76, 84, 100), (14, 16, 20), (225, 228, 235)

_WIDE = 8.0  # blocks of ground that are seen, if both are near
_MARGIN = 1.5  # blocks beyond whoever is farther out
_COLUMNS = (4, 52, 100, 148)  # where the parts of the text begin


class CombatCamera:
    """One episode as people see it: given a pool's seed and actions, the same one.

    Attributes:
      frame: `(216, 200, 3)` uint8, the fight now; see `draw`.
    """

    frame: np.ndarray

    def __init__(self, pool: CombatPool):
        """Shows the first environment of a pool, which is stepped by the camera from now on."""
        self._pool = pool
        self._clicks = 0
        self.frame = self._shown()

    def step(self, action: np.ndarray) -> np.ndarray:
        """Plays one action `(9,)`; returns the new `frame`.

        Raises:
          ValueError: another number of entries, or what is not a number.
        """
        self._pool.step(np.asarray(action)[None])
        self.frame = self._shown()
        return self.frame

    def _shown(self) -> np.ndarray:
        state = jax.tree.map(lambda array: array[0], jax.device_get(self._pool.episodes))
        before, self._clicks = self._clicks, int(state.clicks)
        return draw(state, clicked=self._clicks > before)


def draw(state: State, *, clicked: bool = False) -> np.ndarray:
    """One episode from above, `(216, 200, 3)` uint8: agent blue, target orange, red inside if hit.

    The view's middle is halfway between them. It shows 8 blocks of ground, or as many as it takes
    to see both. Lines are looks, as far as a click reaches along them: a steep one is short. A
    body in the air has a shadow. The text says the tick, hits dealt and taken, the distance, and
    by how many degrees the agent looks past the target, to the left if negative.

    Args:
      state: of one episode, its arrays without a leading axis.
      clicked: the agent has clicked in this tick, which its look shows.
    """
    image = Image.new("RGB", (SIZE, TOP + SIZE), GROUND)
    pen = ImageDraw.Draw(image)
    agent, target = (np.asarray(body.position, float) for body in (state.agent, state.target))
    way, middle = target - agent, (agent + target) / 2
    scale = SIZE / max(_WIDE, abs(way[0]) + 2 * _MARGIN, abs(way[2]) + 2 * _MARGIN)

    def pixel(position: np.ndarray) -> tuple[int, int]:
        right, _, up = (position - middle) * scale
        return round(SIZE / 2 + right), round(TOP + SIZE / 2 - up)

    def square(position: np.ndarray, **drawn: Any) -> None:
        (column, row), half = pixel(position), max(round(physics.WIDTH / 2 * scale), 2)
        pen.rectangle((column - half, row - half, column + half, row + half), **drawn)

    def look(position: np.ndarray, body: Body, **drawn: Any) -> None:
        tip = position + REACH * np.asarray(physics.look(body.yaw, body.pitch))
        pen.line((pixel(position), pixel(tip)), **drawn)

    for crossing in _crossings(middle, SIZE / 2 / scale):
        column, row = pixel(crossing)
        pen.rectangle((column, row, column + 1, row + 1), fill=GRID)
    for position in (agent, target):
        if position[1] > 0:
            square(position + position[1] / 3 * np.array([1.0, 0.0, -1.0]), fill=SHADOW)
    for position, body, colour in ((agent, state.agent, AGENT), (target, state.target, TARGET)):
        square(position, outline=colour, fill=HURT if body.invulnerable > 0 else colour)
    # The agent's last: looks that meet lie on each other.
    look(target, state.target, fill=TARGET_LOOK)
    look(agent, state.agent, fill=CLICK if clicked else AGENT_LOOK, width=3 if clicked else 1)

    past = math.remainder(float(state.agent.yaw) - math.atan2(way[0], way[2]), math.tau)
    _write(
        pen,
        f"tick {state.tick}",
        f"hits {state.hits_dealt}:{state.hits_taken}",
        f"far {np.linalg.norm(way):.1f}",
        f"yaw {round(math.degrees(past)):+d}",
    )
    return np.array(image)


def _crossings(middle: np.ndarray, half: float) -> Iterator[np.ndarray]:
    """Where the ground has its dots, within `half` blocks of `middle` east, north and so on.

    They are a block apart, or so many that there are never more than 20 in a row.
    """
    step = 1
    while 2 * half / step > 20:
        step *= 2
    east, north = (
        np.arange(math.ceil((at - half) / step), math.floor((at + half) / step) + 1) * step
        for at in (middle[0], middle[2])
    )
    for x, z in itertools.product(east, north):
        yield np.array([x, 0.0, z])


def _write(pen: ImageDraw.ImageDraw, *parts: str) -> None:
    """The line on top, over whatever reaches there; parts stay in their columns."""
    pen.rectangle((0, 0, SIZE, TOP - 1), fill=SHADOW)
    pen.fontmode = "1"  # no smoothing
    for column, part in zip(_COLUMNS, parts, strict=True):
        pen.text((column, 2), part, fill=TEXT, font=_FONT)


_FONT = ImageFont.load_default()
