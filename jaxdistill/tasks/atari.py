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
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np

from jaxdistill import meshes, settings
from jaxdistill.settings import Range
from jaxdistill.tasks.task import Played, Pool, Step, Suite, Task, merged
from jaxdistill.tasks.views import SCREEN, AnyShown, Screen, View
from jaxdistill.text import one_line

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
_MAX_FRAMES, _FRAMES_PER_SECOND = 108_000, 60
MAX_STEPS = _MAX_FRAMES // 4

# Rules under which scores are much the same.
_CHANGES_LITTLE = ("fire_after_life", "noop_max", "repeat_action_probability")

_FIRE = 1
# Their joysticks have no button: ALE's full set is nine actions, which are no ids of ours.
_WITHOUT_FULL_SET = ("lost_luggage", "skiing")
# Their programs do not forget a game when the console is reset.
_REMEMBERED = (
    *("hangman", "haunted_house", "ice_hockey", "kung_fu_master", "pooyan", "sir_lancelot"),
    *("space_war", "surround", "time_pilot", "yars_revenge"),
)

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
    reward_limit=1.0,
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a game of Atari is played: an expert's own game, or the one that a run plays.

    Attributes:
      repeat_action_probability: chance that the emulator repeats the last action instead, in every
        frame ("sticky actions"; Machado et al. 2018).
      fire_after_life: FIRE is pressed in place of the first action after a lost life, where the
        game has it, as for those who were trained behind FireReset and EpisodicLife.
      noop_max: a game begins after 1 to so many no-ops.
      mode, difficulty: ALE's, of games that have several; -1 is the game's own.
      end_at_life: a game is over when a life is lost, and the next one goes on from there.
      frame_skip: emulator frames in one step, for which its action is held.
      full_actions: all of ALE's 18 actions are valid, and not those alone that do something.
    """

    repeat_action_probability: Annotated[float, Range(0, 1, below=True)] = 0.0
    fire_after_life: bool = False
    noop_max: Annotated[int, Range(1, 1000)] = 30
    mode: Annotated[int, Range(0, besides=-1)] = -1
    difficulty: Annotated[int, Range(0, besides=-1)] = -1
    end_at_life: bool = False
    frame_skip: Annotated[int, Range(1, 60)] = 4
    full_actions: bool = False

    def __post_init__(self) -> None:
        settings.check(self, "rules.")

    def to_dict(self) -> dict[str, Any]:
        """Those that are not the usual, as plain JSON values."""
        return {
            name: x for name, x in dataclasses.asdict(self).items() if x != getattr(USUAL, name)
        }

    def changed(self, text: str) -> Rules:
        """With some of them changed: `fire_after_life=true&noop_max=1`.

        Raises:
          ValueError: there is no such rule, or it cannot be that.
        """
        values = dataclasses.asdict(self)
        for part in text.split("&"):
            name, _, value = part.partition("=")
            if name not in values or not value:
                shown = one_line(part, 60)
                raise ValueError(
                    f"rules: found {shown!r}, expected NAME=VALUE&NAME=VALUE of {', '.join(values)}"
                )
            try:
                values[name] = json.loads(value)
            except ValueError:
                values[name] = value  # which no rule can be
        return settings.build(Rules, values, "rules")

    def differences_from(self, others: Rules) -> str:
        """Where they differ from `others`, in words."""
        theirs = dataclasses.asdict(others)
        differ = {name: x for name, x in dataclasses.asdict(self).items() if x != theirs[name]}
        return ", ".join(f"{name} {x!r} (not {theirs[name]!r})" for name, x in differ.items())


USUAL = Rules()
"""EnvPool's own."""


@dataclasses.dataclass(frozen=True)
class Game(Task):
    """One Atari game, or a variant of one's own of it; its actions are ALE's.

    Attributes:
      actions: the valid ones. Of a game itself they are in EnvPool's order: the position of an id
        is the action index that EnvPool expects when `full_action_space=False`.
      env_id: EnvPool's id, such as "SpaceInvaders-v5".
      rules: how it is played; see `under`.
    """

    suite: ClassVar[Suite] = ATARI

    max_steps: int = MAX_STEPS
    env_id: str = ""
    rules: Rules = Rules()

    @property
    def itself(self) -> Game:
        """The game as it comes with the package, by the usual rules.

        Raises:
          ValueError: none has this `env_id`.
        """
        if game := _by_id().get(self.env_id):
            return game
        raise ValueError(
            f"{self.name}: env_id is {self.env_id!r}, expected that of a game, such as 'Pong-v5'"
        )

    @property
    def has_full_set(self) -> bool:
        """Whether all 18 actions can be valid."""
        return self.itself.name not in _WITHOUT_FULL_SET

    def under(self, rules: Rules) -> Game:
        """The same game, played in another way; of a step limit of one's own as many frames.

        Raises:
          ValueError: it has no full set of actions.
        """
        if rules.full_actions and not self.has_full_set:
            raise ValueError(
                f"{self.name} has no full set of actions; leave rules.full_actions at False"
            )
        actions = self.actions
        if rules.full_actions != self.rules.full_actions:
            actions = tuple(range(NUM_ACTIONS)) if rules.full_actions else self.itself.actions
        limit = _MAX_FRAMES // rules.frame_skip
        if self.max_steps != _MAX_FRAMES // self.rules.frame_skip:
            limit = max(1, self.max_steps * self.rules.frame_skip // rules.frame_skip)
        return dataclasses.replace(self, rules=rules, actions=actions, max_steps=limit)

    def as_published(self, max_steps: int | None = None) -> bool:
        """Whether its games are whole ones, by the usual rules or others that change little."""
        changed = set(self.rules.to_dict()) - set(_CHANGES_LITTLE)
        return not changed and (max_steps or self.max_steps) >= MAX_STEPS

    @property
    def frames_per_step(self) -> int:
        """Emulator frames for which an action is held."""
        return self.rules.frame_skip

    @property
    def frames_per_second(self) -> int:
        """Steps in one second."""
        return max(1, _FRAMES_PER_SECOND // self.rules.frame_skip)

    @property
    def variant_fields(self) -> dict[str, Any]:
        """Rules that are not the usual."""
        rules = self.rules.to_dict()
        return {"rules": rules} if rules else {}

    def require(self) -> None:
        """Raises ValueError if the game has no such mode or difficulty, which ALE alone knows."""
        if (self.rules.mode, self.rules.difficulty) != (USUAL.mode, USUAL.difficulty):
            self.pool(1, seed=0, threads=1)

    def pool(
        self,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> AtariPool:
        """See `AtariPool`."""
        limit = self.max_steps if max_steps is None else max_steps
        return AtariPool(self, num_envs, seed=seed, view=view, max_steps=limit, threads=threads)

    def camera(self, *, seed: int, max_steps: int | None = None) -> AtariCamera:
        """See `AtariCamera`."""
        return AtariCamera(self, seed=seed, max_steps=max_steps)


def presses_fire(task: Task) -> bool:
    """Whether a lost life can be followed by FIRE, see `Rules`: a game has it, played or not."""
    return isinstance(task, Game) and (task.rules.full_actions or _FIRE in task.itself.actions)


@functools.cache
def games() -> Mapping[str, Game]:
    """All games by name, sorted."""
    text = importlib.resources.files(__package__).joinpath("atari_games.json").read_text("utf-8")
    rows = sorted(json.loads(text).items())
    return MappingProxyType(
        {name: Game(name=name, **{**row, "actions": tuple(row["actions"])}) for name, row in rows}
    )


@functools.cache
def _by_id() -> Mapping[str, Game]:
    return {game.env_id: game for game in games().values()}


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
        view: AnyShown | None = None,
        max_steps: int = MAX_STEPS,
        threads: int | None = None,
    ):
        """Builds the pool and begins N games, after random no-ops each.

        Raises:
          ValueError: a count below 1, a view of something else than a screen, or an action, a mode
            or a difficulty that the game does not have.
        """
        super().__init__(game, num_envs, view, max_steps)
        rules, name = game.rules, game.itself.name
        # Chance of every step goes on from game to game, and a life from the one before.
        goes_on = rules.repeat_action_probability or rules.end_at_life or name in _REMEMBERED
        self.skips = not goes_on
        self._rules, self._index = rules, _action_index(game)
        self._fires = rules.fire_after_life and self._index[_FIRE] >= 0
        self._fire, self._waits = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        single = isinstance(self.view, Screen) and not self.view.maximum
        emulators: type[_Emulators] = _SingleFrames if single else _Emulators
        self._emulators = emulators(
            game, num_envs, seed=seed, view=self.view, max_steps=max_steps, threads=threads
        )
        begun = self._emulators.begin()
        self._first = begun.observations[:, -1].copy()  # the first frame of each environment's game
        self._begin(begun.observations, begun.lives)

    @property
    def states(self) -> np.ndarray:
        """`(N,)` uint32, a checksum of each emulator's memory as it is now."""
        memories = self._emulators.memories
        return np.asarray([zlib.crc32(memory.tobytes()) for memory in memories], np.uint32)

    def skip(self, counts: np.ndarray) -> None:
        """Begins the game after the first `counts[i]` in environment i of this fresh pool.

        Chance enters a pool that `skips` only where a game begins, and each environment has a
        generator of its own for it: the k-th game begins alike whether those before were played or
        not, if the game's program forgets them when the console is reset, as those of 94 of 104
        games do. So compare `states` with what they were.
        """
        for count in range(1, int(np.max(counts)) + 1):
            begun = self._emulators.begin(np.flatnonzero(counts >= count).astype(np.int32))
            self._first[begun.rows] = begun.observations[:, -1]
            self._begin(begun.observations, begun.lives, begun.rows)

    def _send(self, actions: np.ndarray, rows: np.ndarray | None) -> None:
        index = self._index[actions]
        if self._fires:
            own = slice(None) if rows is None else rows
            index = np.where(self._fire[own], self._index[_FIRE], index)
        if self._rules.end_at_life:
            own = slice(None) if rows is None else rows
            index = np.where(self._waits[own], np.int32(0), index)
        self._emulators.send(index, rows)

    def _receive(self) -> Played:
        played = self._emulators.receive()
        if self._fires or self._rules.end_at_life:
            played = self._with_lives(played)
        return played

    def _with_lives(self, played: Played) -> Played:
        """Takes note of lost lives, and of those that begin."""
        rows = np.arange(self.num_envs) if played.rows is None else played.rows
        before = Step(*(x[rows] for x in self.last))
        lost = ~before.over & (played.lives < before.lives) & ~played.ended
        if not self._rules.end_at_life:
            self._fire[rows] = lost
            return played
        # What waited has had a step without an action, in which its whole game may have ended.
        waited = self._waits[rows]
        if (ended := waited & played.ended).any():
            self._emulators.send(np.zeros(ended.sum(), np.int32), rows[ended].astype(np.int32))
            played = _put(played, rows, self._emulators.receive())
        self._fire[rows] = waited & ~ended
        self._waits[rows] = lost
        ages = np.where(before.over, 0, before.ages + 1)
        self._first[rows[before.over]] = played.observations[before.over, -1]
        return played._replace(
            observations=self._since(played.observations, ages, self._first[rows]),
            ended=played.ended | lost,
        )

    def _since(self, observations: np.ndarray, ages: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Stacks with the `first` frames of their games in place of those before them."""
        view = self.view
        if isinstance(view, Screen):
            ago, ages = np.asarray(view.ago), ages * view.skip
        else:
            ago = np.arange(view.stack - 1, -1, -1)
        before = (ago > ages[:, None]).reshape(*observations.shape[:2], *[1] * (first.ndim - 1))
        return np.where(before, first[:, None], observations)


class _Emulators:
    """EnvPool, in which all games of a pool run.

    Attributes:
      memories: `(N, 128)`, each emulator's, as it is now.
    """

    memories: np.ndarray
    skip: int  # emulator frames in one of EnvPool's steps

    def __init__(
        self,
        game: Game,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown,
        max_steps: int,
        threads: int | None,
    ):
        # Imported here: EnvPool starts its own machinery, and importing us must not.
        import envpool

        rules, self._num_envs, self._view = game.rules, num_envs, view
        self.skip = getattr(self, "skip", rules.frame_skip)
        limit = max_steps * (rules.frame_skip // self.skip)
        try:
            self._env = envpool.make(
                game.env_id,
                env_type="gymnasium",
                num_envs=num_envs,
                num_threads=min(threads or meshes.cores(), num_envs),
                seed=seed,
                max_episode_steps=min(limit, settings.LARGEST),
                noop_max=rules.noop_max,
                frame_skip=self.skip,
                repeat_action_probability=rules.repeat_action_probability,
                mode=rules.mode,
                difficulty=rules.difficulty,
                episodic_life=False,
                reward_clip=False,
                full_action_space=rules.full_actions,
                # A game that needs no FIRE does not begin with it, whatever may be pressed.
                use_fire_reset=_FIRE in game.itself.actions,
                **self._shown(),
            )
        except RuntimeError as error:  # what EnvPool says of modes
            reason = one_line(str(error), 100)
            raise ValueError(
                f"{game.name}: {reason} (rules.mode {rules.mode}, rules.difficulty "
                f"{rules.difficulty}); -1 is the game's own"
            ) from error
        self._ended = np.zeros(num_envs, bool)

    def _shown(self) -> dict[str, Any]:
        """EnvPool's options for what is shown."""
        view = self._view
        if isinstance(view, Screen):
            height, width = SCREEN
            return _sized(view.stack, height, width) | {"gray_scale": view.gray}
        assert isinstance(view, View)  # as the suite's
        size = _sized(view.stack, view.height, view.width)
        return size | {"use_inter_area_resize": view.resize == "area"}

    def begin(self, rows: np.ndarray | None = None) -> Played:
        """Begins new games, in all environments or in `rows`."""
        observations, info = self._env.reset() if rows is None else self._env.reset(rows)
        order = None if rows is None else info["env_id"]
        nothing = np.zeros(len(info["lives"]), bool)
        self._note(info, order, nothing)
        frames = self._frames(observations)
        return Played(frames, np.zeros(len(nothing)), info["lives"], nothing, nothing, order)

    def send(self, index: np.ndarray, rows: np.ndarray | None) -> None:
        """Starts one step of EnvPool's actions, of all environments or of `rows`."""
        self._sent = index, rows
        if rows is None:
            self._env.send(index)
        else:
            self._env.send(index, rows)

    def receive(self) -> Played:
        """Waits for what was sent."""
        observations, _, terminated, truncated, info = self._env.recv()
        rows = None if self._sent[1] is None else info["env_id"]
        self._note(info, rows, terminated | truncated)
        return Played(
            observations=self._frames(observations),
            rewards=info["reward"],
            lives=info["lives"],
            ended=terminated | truncated,
            # A game may end by itself on the very last step allowed: EnvPool calls that truncated.
            truncated=truncated & (np.asarray(info["terminated"]) == 0),
            rows=rows,
        )

    def _frames(self, observations: np.ndarray) -> np.ndarray:
        """`(N, stack, *frame)`: EnvPool has colours beside each other."""
        if isinstance(self._view, Screen) and not self._view.gray:
            return observations.reshape(len(observations), -1, 3, *SCREEN)
        return observations

    def _note(self, info: Mapping[str, Any], rows: np.ndarray | None, ended: np.ndarray) -> None:
        memories = np.asarray(info["ram"])
        if rows is None:
            self.memories, self._ended = memories, ended
        else:
            self.memories = merged(self.memories, memories, rows)
            self._ended = merged(self._ended, ended, rows)


class _SingleFrames(_Emulators):
    """Emulators of which single frames are seen.

    EnvPool takes the maximum over two frames wherever it skips any, so that it must skip none.
    """

    skip = 1

    def __init__(self, game: Game, num_envs: int, *, view: Screen, **options: Any):
        super().__init__(game, num_envs, view=view, **options)
        self._more, self._kept = view.skip - 1, np.asarray(view.ago)

    def _shown(self) -> dict[str, Any]:
        return super()._shown() | {"stack_num": 1}

    def begin(self, rows: np.ndarray | None = None) -> Played:
        """As the others', each frame repeated."""
        begun = super().begin(rows)
        own = np.arange(self._num_envs) if begun.rows is None else begun.rows
        if begun.rows is None:
            self._recent = np.repeat(begun.observations, self._kept.max() + 1, axis=1)
        else:
            self._recent[own] = begun.observations
        return begun._replace(observations=self._ago(own))

    def receive(self) -> Played:
        """Waits for what was sent, and plays the step's other frames where games go on."""
        index, sent = self._sent
        rows = np.arange(self._num_envs, dtype=np.int32) if sent is None else sent
        begins = self._ended[rows]
        first = super().receive()
        played = first._replace(rows=rows)
        if sent is not None:  # whoever is done first comes first
            played = _put(played, rows, first)
        frames, going = [played.observations], ~begins & ~played.ended
        rewards = played.rewards
        for _ in range(self._more):
            if going.any():
                self.send(index[going], rows[going])
                nothing = np.zeros(len(rows), np.float32)
                played = _put(played._replace(rewards=nothing), rows, super().receive())
                rewards = rewards + played.rewards
                going = going & ~played.ended
            frames.append(played.observations)
        depth = self._recent.shape[1]
        self._recent[rows] = np.concatenate([self._recent[rows], *frames], axis=1)[:, -depth:]
        self._recent[rows[begins]] = frames[0][begins]
        return Played(self._ago(rows), rewards, *played[2:-1], rows=sent)

    def _ago(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the frames that are shown, of the latest ones."""
        return self._recent[rows[:, None], self._recent.shape[1] - 1 - self._kept]


def _sized(stack: int, height: int, width: int) -> dict[str, int]:
    return {"stack_num": stack, "img_height": height, "img_width": width}


def _put(played: Played, rows: np.ndarray, part: Played) -> Played:
    """`played` of environments `rows`, with what some of them have played since."""
    place = {row: i for i, row in enumerate(rows.tolist())}
    where = np.asarray([place[row] for row in np.asarray(part.rows).tolist()])
    return Played(
        observations=merged(played.observations, part.observations, where),
        rewards=merged(played.rewards, part.rewards, where),
        lives=merged(played.lives, part.lives, where),
        ended=merged(played.ended, part.ended, where),
        truncated=merged(played.truncated, part.truncated, where),
        rows=played.rows,
    )


class AtariCamera:
    """One environment as people see it: given a pool's seed and actions, the same game in colour.

    Attributes:
      frame: `(210, 160, 3)` uint8, the screen now (taller ones are cut to it).
    """

    def __init__(self, game: Game, *, seed: int, max_steps: int | None = None):
        """Begins the game that a `Pool` of one environment with this seed begins."""
        view = Screen((0,), game.rules.frame_skip)
        self._pool = game.pool(1, seed=seed, view=view, max_steps=max_steps)
        self.frame = self._screen()

    def step(self, action: int) -> np.ndarray:
        """Plays one ALE action; returns the new `frame`."""
        self._pool.step(np.asarray([action]))
        self.frame = self._screen()
        return self.frame

    def _screen(self) -> np.ndarray:
        return self._pool.last.observations[0, -1].transpose(1, 2, 0).copy()


def _action_index(game: Game) -> np.ndarray:
    """EnvPool's action number for each ALE action, -1 where the game has none."""
    own = tuple(range(NUM_ACTIONS)) if game.rules.full_actions else game.itself.actions
    if others := sorted(set(game.actions) - set(own)):
        raise ValueError(f"{game.name}: actions {others} are none of {list(own)}, which it has")
    index = np.full(NUM_ACTIONS, -1, np.int32)
    index[list(own)] = np.arange(len(own))
    return index
