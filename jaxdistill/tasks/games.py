"""What a game is: its EnvPool id, its valid actions among ALE's 18, its reference scores.

The table is package data (`games.json`), read on first use. Random and human scores are those
of Wang et al. 2016, "Dueling network architectures for deep reinforcement learning" (no-op
starts, episodes capped at 108,000 frames), published for 57 of EnvPool's 104 Atari games.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import json
import re

import numpy as np

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


@dataclasses.dataclass(frozen=True)
class Game:
    """One Atari game.

    Attributes:
      name: snake_case name, such as "space_invaders".
      env_id: EnvPool's id, such as "SpaceInvaders-v5".
      actions: the valid actions as ALE ids, in EnvPool's order: the position of an id is the
        action index that EnvPool expects when `full_action_space=False`.
      screen_height: height of ALE's screen in pixels; the width is always 160.
      random_score: published score of uniformly random play, None where there is none.
      human_score: published score of a human tester, None where there is none.
    """

    name: str
    env_id: str
    actions: tuple[int, ...]
    screen_height: int
    random_score: float | None
    human_score: float | None

    @property
    def mask(self) -> np.ndarray:
        """A new bool array of shape (18,), true where the ALE action is valid."""
        mask = np.zeros(NUM_ACTIONS, dtype=bool)
        mask[list(self.actions)] = True
        return mask

    def human_normalised(self, score: float) -> float | None:
        """`(score - random) / (human - random)`: 0 is random play, 1 the human tester.

        Args:
          score: undiscounted, unclipped return of whole games.

        Returns:
          The normalised score, or None where no reference scores are published.
        """
        if self.random_score is None or self.human_score is None:
            return None
        return (score - self.random_score) / (self.human_score - self.random_score)


def get(name: str) -> Game:
    """Finds a game by almost any of the spellings in use.

    "pong", "Pong-v5", "PongNoFrameskip-v4", "ALE/Pong-v5", "SpaceInvaders", "space-invaders"
    and "space invaders" all work: case, punctuation, a namespace, a version and the suffixes
    of Gym's ids are ignored.

    Args:
      name: the game's name or the id of one of its environments.

    Returns:
      The game.

    Raises:
      ValueError: if there is no such game; the message names the closest ones.
    """
    by_key = _by_key()
    key = _key(name) if isinstance(name, str) else ""
    if key in by_key:
        return by_key[key]
    close = difflib.get_close_matches(key, by_key, n=3, cutoff=0.6)
    hint = "did you mean " + " or ".join(by_key[k].name for k in close) + "? " if close else ""
    raise ValueError(
        f"unknown game {name!r}: {hint}jaxdistill.tasks.games.names() lists all {len(by_key)} games"
    )


def names() -> tuple[str, ...]:
    """The names of all 104 games, sorted."""
    return tuple(_table())


@functools.cache
def _table() -> dict[str, Game]:
    text = importlib.resources.files(__package__).joinpath("games.json").read_text("utf-8")
    return {
        name: Game(name=name, **{**row, "actions": tuple(row["actions"])})
        for name, row in sorted(json.loads(text).items())
    }


@functools.cache
def _by_key() -> dict[str, Game]:
    return {_key(name): game for name, game in _table().items()}


def _key(name: str) -> str:
    """Reduces a spelling to lower-case letters and digits, without namespace or suffixes."""
    name = name.lower().rsplit("/", 1)[-1]
    name = re.sub(r"[-_ ]v\d+\s*$", "", name)
    name = re.sub(r"[^a-z0-9]", "", name)
    return re.sub(r"(ram)?(noframeskip|deterministic)?$", "", name)
