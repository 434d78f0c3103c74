"""Atari: 104 games behind EnvPool, with ALE's 18 actions.

The table of games is package data (`atari_games.json`), read on first use. Random and human scores
are those of Wang et al. 2016, "Dueling network architectures for deep reinforcement learning"
(no-op starts, episodes capped at 108,000 frames), published for 57 of the games.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import os
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from jaxdistill.tasks.task import Played, Pool, Suite, Task, merged
from jaxdistill.tasks.views import AnyView, View

NUM_ACTIONS = 18

ACTION_NAMES = (
    "NOOP",
    "FIRE",
    "UP",
    "RIGHT",
    "LEFT",
    "DOWN",
    "UPRIGHT",
    "UPLEFT",
    "DOWNRIGHT",
    "DOWNLEFT",
    "UPFIRE",
    "RIGHTFIRE",
    "LEFTFIRE",
    "DOWNFIRE",
    "UPRIGHTFIRE",
    "UPLEFTFIRE",
    "DOWNRIGHTFIRE",
    "DOWNLEFTFIRE",
)


# ALE counts 108,000 emulator frames as the longest game (30 minutes at 60 Hz); 4 frames a step.
MAX_STEPS = 27_000

# 60 Hz and four emulator frames a step. Emulators know few starts of their own: of 100 games of
# Breakout 4 differ; and chance of their own they know none.
ATARI = Suite(
    "atari",
    ACTION_NAMES,
    View(),
    "uint8",
    frames_per_second=15,
    opening_steps=10,
    epsilon=0.05,
)


@dataclasses.dataclass(frozen=True)
class Game(Task):
    """One Atari game; its actions are ALE's.

    Attributes:
      actions: the valid ones, in EnvPool's order: the position of an id is the action index that
        EnvPool expects when `full_action_space=False`.
      env_id: EnvPool's id, such as "SpaceInvaders-v5".
      screen_height: height of ALE's screen in pixels; the width is always 160.
    """

    suite: ClassVar[Suite] = ATARI

    max_steps: int = MAX_STEPS
    env_id: str = ""
    screen_height: int = 210

    def pool(
        self,
        num_envs: int,
        *,
        seed: int,
        view: AnyView | None = None,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> AtariPool:
        """See `AtariPool`."""
        limit = self.max_steps if max_steps is None else max_steps
        return AtariPool(self, num_envs, seed=seed, view=view, max_steps=limit, threads=threads)

    def camera(self, *, seed: int, max_steps: int | None = None) -> Screen:
        """See `Screen`."""
        del max_steps  # it is not stepped past the end of what a pool plays
        return Screen(self, seed=seed)


@functools.cache
def games() -> Mapping[str, Game]:
    """All games by name, sorted."""
    text = importlib.resources.files(__package__).joinpath("atari_games.json").read_text("utf-8")
    rows = sorted(json.loads(text).items())
    return MappingProxyType(
        {name: Game(name=name, **{**row, "actions": tuple(row["actions"])}) for name, row in rows}
    )


class AtariPool(Pool):
    """N environments of one game, stepped together on host threads.

    Whatever the number of threads, the same seed and actions give the same steps.
    """

    def __init__(
        self,
        game: Game,
        num_envs: int,
        *,
        seed: int,
        view: AnyView | None = None,
        max_steps: int = MAX_STEPS,
        noop_max: int = 30,
        threads: int | None = None,
    ):
        """Builds the pool and begins N games, after 1..noop_max random no-ops each.

        Raises:
          ValueError: a count below 1, or a view that EnvPool cannot make.
        """
        # Imported here: EnvPool starts its own machinery, and importing us must not.
        import envpool

        super().__init__(game, num_envs, view, max_steps)
        if noop_max < 1:
            raise ValueError(f"{game.name}: noop_max is {noop_max}, expected at least 1")
        view = self.view
        assert isinstance(view, View)  # as the suite's
        if not view.native:
            raise ValueError(
                f"{game.name}: pools cannot make this view (crop {view.crop}, gray {view.gray!r}, "
                f"intermediate sizes {list(view.steps)}); only EnvPool's own views can be played"
            )
        self._env = envpool.make(
            game.env_id,
            env_type="gymnasium",
            num_envs=num_envs,
            num_threads=min(threads or len(os.sched_getaffinity(0)), num_envs),
            seed=seed,
            max_episode_steps=max_steps,
            noop_max=noop_max,
            stack_num=view.stack,
            img_height=view.height,
            img_width=view.width,
            use_inter_area_resize=view.resize == "area",
            episodic_life=False,
            reward_clip=False,
            full_action_space=False,
        )
        self._index = _action_index(game)
        observations, info = self._env.reset()
        self._ram = np.asarray(info["ram"])
        self._begin(observations, info["lives"])

    @property
    def states(self) -> np.ndarray:
        """`(N,)` uint32, a checksum of each emulator's memory as it is now."""
        return np.asarray([zlib.crc32(memory.tobytes()) for memory in self._ram], np.uint32)

    def skip(self, counts: np.ndarray) -> None:
        """Begins the game after the first `counts[i]` in environment i of this fresh pool.

        Chance enters a pool only where a game begins, and each environment has a generator of its
        own for it: the k-th game begins alike whether those before were played or not, if the
        game's program forgets them when the console is reset. Of 104 games 94 do; Hangman, Haunted
        House, Ice Hockey, Kung Fu Master, Pooyan, Sir Lancelot, Space War, Surround, Time Pilot and
        Yars' Revenge do not. So compare `states` with what they were.
        """
        for count in range(1, int(np.max(counts)) + 1):
            rows = np.flatnonzero(counts >= count).astype(np.int32)
            observations, info = self._env.reset(rows)
            self._begin(observations, info["lives"], info["env_id"])
            self._ram = merged(self._ram, info["ram"], info["env_id"])

    def _send(self, actions: np.ndarray, rows: np.ndarray | None) -> None:
        index = self._index[actions]
        if rows is None:
            self._env.send(index)
        else:
            self._env.send(index, rows)

    def _receive(self) -> Played:
        observations, _, terminated, truncated, info = self._env.recv()
        rows = None if self._sent is None else info["env_id"]
        self._ram = info["ram"] if rows is None else merged(self._ram, info["ram"], rows)
        return Played(
            observations=observations,
            rewards=info["reward"],
            lives=info["lives"],
            ended=terminated | truncated,
            # A game may end by itself on the very last step allowed: EnvPool calls that truncated.
            truncated=truncated & (np.asarray(info["terminated"]) == 0),
            rows=rows,
        )


class Screen:
    """One environment as people see it: given a pool's seed and actions, the same game in colour.

    Attributes:
      frame: `(210, 160, 3)` uint8, the screen now (PAL games are scaled to it).
    """

    def __init__(self, game: Game, *, seed: int, noop_max: int = 30):
        """Begins the game that a `Pool` of one environment with this seed begins."""
        import envpool

        self._env = envpool.make(
            game.env_id,
            env_type="gymnasium",
            num_envs=1,
            seed=seed,
            max_episode_steps=MAX_STEPS,
            noop_max=noop_max,
            stack_num=1,
            img_height=210,
            img_width=160,
            gray_scale=False,
            full_action_space=False,
        )
        self._index = _action_index(game)
        self.frame = self._screen(self._env.reset()[0])

    def step(self, action: int) -> np.ndarray:
        """Plays one ALE action; returns the new `frame`."""
        self.frame = self._screen(self._env.step(self._index[[action]])[0])
        return self.frame

    @staticmethod
    def _screen(observations: np.ndarray) -> np.ndarray:
        return observations[0].transpose(1, 2, 0).copy()


def _action_index(game: Game) -> np.ndarray:
    """EnvPool's action number for each ALE action, -1 where the game has none."""
    index = np.full(NUM_ACTIONS, -1, np.int32)
    index[list(game.actions)] = np.arange(len(game.actions))
    return index
