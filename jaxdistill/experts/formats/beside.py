"""What lies beside a network: the arguments of the program that trained it, and names of files."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdistill import disk, tasks
from jaxdistill.experts.tensors import Opaque

_FOLDERS = 3  # above a file that may be called after its game
_ID = re.compile(r"([A-Za-z]{2,40})(?:NoFrameskip|Deterministic)?-v\d")
_OF_CLEANRL = {"env_id", "exp_name", "v_min", "v_max", "n_atoms"}
# What Sample Factory calls four games after "atari_"; its other 53 are called as everywhere.
_OF_SAMPLE_FACTORY = {
    "asteroid": "asteroids",
    "kongfumaster": "kungfumaster",
    "montezuma": "montezumarevenge",
    "privateye": "privateeye",
}


def arguments(tree: Any, path: pathlib.Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """What a program was called with, by name, where its file or the one beside it says so.

    CleanRL keeps it under "args", its PPO in Flax as the first of a list; Sample Factory in a
    `config.json` above the folder of its checkpoints.

    Returns:
      It, and a note where there is such a `config.json` that cannot be read.
    """
    folder = path.absolute().parent
    if folder.name.startswith("checkpoint_p"):
        config = folder.parent / "config.json"
        try:
            said = disk.read_json(config, "download it again")
        except FileNotFoundError:
            return {}, ()
        except (OSError, ValueError) as error:
            return {}, (str(error).replace(str(config), "its config.json"),)
        if not isinstance(said, dict):
            return {}, ("its config.json is damaged (it is no object); download it again",)
        return said, ()
    for name in ("args", "0"):
        value = tree.get(name) if isinstance(tree, dict) else None
        if isinstance(value, Opaque):  # an argparse.Namespace
            value = value.state
        if isinstance(value, dict) and not _OF_CLEANRL.isdisjoint(value):
            return value, ()
    return {}, ()


def games(tree: Any, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The games of ours that a file says it plays: those it lists, or its program was called with.

    The reference's merged files list theirs under "games".
    """
    listed = tree.get("games") if isinstance(tree, dict) else None
    if not isinstance(listed, (list, tuple)):
        listed = [arguments.get("env_id"), arguments.get("env")]
    named = [x[:80].removeprefix("atari_") for x in listed if isinstance(x, str)]
    found = (_known(_OF_SAMPLE_FACTORY.get(name, name)) for name in named)
    return tuple(dict.fromkeys(filter(None, found)))


def game_in_names(path: pathlib.Path) -> tuple[str | None, str]:
    """The game that a file or a folder above it is called after, and which of them says so.

    A file's name may begin with a game's (`pong_dqn.pth`). Otherwise the id of an environment may
    stand anywhere in it (`dqn-PongNoFrameskip-v4.zip`), or a game after "atari" (`atari_pong`). A
    folder may be called like that, or like the game and no more.
    """
    name = path.name.removesuffix(".gz")
    name = name.removesuffix(pathlib.Path(name).suffix)
    if game := _first_words(name) or game_in_words(name):
        return game, "the file's name"
    for folder in list(path.absolute().parents)[:_FOLDERS]:
        name = folder.name
        alone = _known(name[:80])
        # Any folder may be called aiming or standard.
        alone = alone if alone and tasks.get(alone).suite.name == "atari" else None
        if game := alone or game_in_words(name):
            return game, f"the name of its folder, {name}"
    return None, ""


def _known(name: str) -> str | None:
    try:
        task = tasks.find(name)
    except ValueError:  # such as of a duel whose health there is not
        return None
    return None if task is None else task.name


def _first_words(text: str) -> str | None:
    """The game that a name begins with, the longest there is."""
    words = text[:200].replace("-", "_").lower().split("_")
    known = {name.replace("/", "_"): name for name in tasks.names()}
    # Not by the variant alone: a file called standard.pth may hold anything.
    landers = {name: task for name, task in known.items() if task.startswith("lander/")}
    known |= {
        f"{moon}{name}": task for name, task in landers.items() for moon in ("lunar", "lunar_")
    }
    starts = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((known[start] for start in starts if start in known), None)


def game_in_words(text: str) -> str | None:
    """The game whose environment's id stands in a name, or that follows "atari" there."""
    games = (_known(name) for name in _candidates(text[:200]))
    return next((game for game in games if game and not game.startswith("combat/")), None)


def _candidates(text: str) -> Iterator[str]:
    for match in _ID.finditer(text):
        yield match[1]
    words = text.lower().split("_")
    for place, word in enumerate(words[:-1], 1):
        if word == "atari":
            after = ("_".join(words[place:end]) for end in range(len(words), place, -1))
            yield from (_OF_SAMPLE_FACTORY.get(name, name) for name in after)
