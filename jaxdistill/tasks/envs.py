"""EnvPool pools of one game: ALE actions in, whole-game accounting out.

EnvPool resets on the step *after* a game ends: that step ignores its action and returns the first
observation of the next game with reward 0. `Step.valid` is False exactly there, so whoever counts
rewards, trains on transitions or stores frames asks `valid` and never the emulator.
"""

from __future__ import annotations

import os
import zlib
from typing import NamedTuple

import numpy as np

from jaxdistill.tasks.games import NUM_ACTIONS, Game
from jaxdistill.tasks.views import View

# ALE counts 108,000 emulator frames as the longest game (30 minutes at 60 Hz); 4 frames a step.
MAX_STEPS = 27_000


class Step(NamedTuple):
    """What a pool says after `step`; every array has leading axis N.

    Attributes:
      observations: `(N, stack, H, W)` uint8, what the next action answers.
      rewards: `(N,)` float32, unclipped, of the action just played.
      valid: `(N,)` bool, the action was played; False where the pool began a new game instead.
      over: `(N,)` bool, the whole game (all lives, or the step limit) ended with this step. The
        action given next for such a row is ignored.
      truncated: `(N,)` bool, the game was cut by the step limit and did not end by itself.
      lives: `(N,)` int32 lives left, 0 for games without lives.
      scores: `(N,)` float64, undiscounted unclipped return of the game so far.
      ages: `(N,)` int32, steps since the game's first observation (0 on that observation).
    """

    observations: np.ndarray
    rewards: np.ndarray
    valid: np.ndarray
    over: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray
    scores: np.ndarray
    ages: np.ndarray


class Pool:
    """N environments of one game, stepped together on host threads.

    A pool is reproducible: the same game, view, seed and actions give the same steps, whatever the
    number of threads. That is how a killed run resumes mid-game: see `skip`.
    """

    def __init__(
        self,
        game: Game,
        num_envs: int,
        *,
        seed: int,
        view: View | None = None,
        max_steps: int = MAX_STEPS,
        noop_max: int = 30,
        threads: int | None = None,
    ):
        """Builds the pool and begins N games, after 1..noop_max random no-ops each.

        Environment i draws its no-ops from `seed + i`: keep seeds of two pools at least N apart.

        Raises:
          ValueError: a count below 1, or a view that EnvPool cannot make.
        """
        # Imported here: EnvPool starts its own machinery, and importing us must not.
        import envpool

        view = view or View()
        for name, value in (
            ("num_envs", num_envs),
            ("max_steps", max_steps),
            ("noop_max", noop_max),
        ):
            if value < 1:
                raise ValueError(f"{game.name}: {name} is {value}, expected at least 1")
        if not view.native:
            raise ValueError(
                f"{game.name}: pools cannot make this view (crop {view.crop}, gray {view.gray!r}, "
                f"intermediate sizes {list(view.steps)}); only EnvPool's own views can be played"
            )
        self.game, self.num_envs, self.view, self.seed = game, num_envs, view, seed
        self._max_steps = max_steps
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
        self._sent: np.ndarray | None = None  # those stepping now, None for all
        nothing = np.zeros(num_envs, bool)
        self.last = Step(
            observations=observations,
            rewards=np.zeros(num_envs, np.float32),
            valid=nothing,
            over=nothing,
            truncated=nothing,
            lives=np.asarray(info["lives"], np.int32),
            scores=np.zeros(num_envs),
            ages=np.zeros(num_envs, np.int32),
        )

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
            nothing = np.zeros(len(rows), bool)
            zeros = np.zeros(len(rows), np.int32)
            lives = np.asarray(info["lives"], np.int32)
            begun = Step(
                observations, zeros, nothing, nothing, nothing, lives, zeros.astype(float), zeros
            )
            self._merge(begun, info)

    def send(self, actions: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Starts one step on the pool's threads; `actions` `(N,)` are ALE ids. Then `receive`.

        Args:
          rows: `(K,)`, the environments that step, if not all do; `actions` are theirs, `(K,)`.

        Raises:
          ValueError: a wrong shape, or an action this game does not have.
        """
        actions = np.asarray(actions)
        expected = self.num_envs if rows is None else len(rows)
        if actions.shape != (expected,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"{self.game.name}: expected {expected} integer actions, got "
                f"{actions.dtype} of shape {actions.shape}"
            )
        index = self._index[np.clip(actions, 0, NUM_ACTIONS - 1)]
        if (index < 0).any() or (actions < 0).any() or (actions >= NUM_ACTIONS).any():
            raise ValueError(
                f"{self.game.name}: actions {sorted(set(actions.tolist()))} are not all among its "
                f"valid ALE actions {list(self.game.actions)}"
            )
        self._sent = None if rows is None else np.asarray(rows, np.int32)
        if self._sent is None:
            self._env.send(index)
        else:
            self._env.send(index, self._sent)

    def receive(self) -> Step:
        """Waits for the step begun by `send`; environments that do not step are as they were."""
        observations, _, terminated, truncated, info = self._env.recv()
        last = self.last
        if self._sent is not None:
            last = Step(*(x[info["env_id"]] for x in last))
        valid = ~last.over
        over = valid & (terminated | truncated)
        rewards = np.where(valid, info["reward"], 0).astype(np.float32)
        step = Step(
            observations=observations,
            rewards=rewards,
            valid=valid,
            over=over,
            # A game may end by itself on the very last step allowed: EnvPool calls that truncated.
            truncated=over & truncated & (np.asarray(info["terminated"]) == 0),
            lives=np.asarray(info["lives"], np.int32),
            scores=np.where(valid, last.scores, 0) + rewards,
            ages=np.where(valid, last.ages + 1, 0).astype(np.int32),
        )
        if self._sent is None:
            self.last, self._ram = step, info["ram"]
        else:
            self._merge(step, info)
        return self.last

    def _merge(self, step: Step, info: dict[str, np.ndarray]) -> None:
        """Takes over the environments `info["env_id"]` from `step`."""

        def merged(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            # A copy: what was handed out is never written to.
            old = old.copy()
            old[info["env_id"]] = new
            return old

        self.last = Step(*map(merged, self.last, step))
        self._ram = merged(self._ram, info["ram"])

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> Step:
        """Plays one step; see `send` and `Step`."""
        self.send(actions, rows)
        return self.receive()


class ScreenPool:
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


def seed_for(*words: int) -> int:
    """A pool seed drawn from `words` (run seed, purpose, game, ...).

    Different words give seeds far apart, so the N consecutive seeds of two pools do not meet.
    """
    # With their number first: without it (1,) and (1, 0, 0) would be the same.
    return int(np.random.SeedSequence((len(words), *words)).generate_state(1)[0] % (2**31 - 2**16))
