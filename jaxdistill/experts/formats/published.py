"""What lies beside a published expert: model cards, and the files of the programs that made it.

The files are other people's. YAML is read as text, lists and maps alone: whatever a tag asks for,
such as `!!python/object/apply:os.system`, is never looked up, and merge keys, which can grow, are
not followed. A file with an alias says nothing: a few hundred bytes of them are a tree of billions.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdistill.experts import hub
from jaxdistill.experts.formats import beside
from jaxdistill.experts.formats.layers import brief
from jaxdistill.tasks.atari import Rules

_NUMBER = re.compile(r"\s*(-?\d{1,15}(?:\.\d{1,20})?)")
_NO_NORM = re.compile(r"norm_obs['\"]?\s*[:=]\s*['\"]?false", re.IGNORECASE)
_MAX_DEPTH = 50  # brackets that are open at once
_MAX_METRICS = 1000  # of a model card; real ones have a handful
_ATARI_WRAPPER = "AtariWrapper"
_NAME = "the repository's name"
WHOLE = "whole_games"
"""Of a metric: an argument of those that are not of whole games by the usual rules."""


@dataclasses.dataclass(frozen=True)
class RepositoryInfo:
    """What is said of an expert beside its file.

    Attributes:
      game: what it plays, None where nothing says it or several are named.
      game_from: what says so, in words.
      by_name: that is no more than the name of the repository.
      scores: mean scores that are claimed, by game.
      stack: how many frames it sees, None where nothing says it.
      normalised: what it sees was shifted and scaled by numbers that are in another file.
      rules: its own game, as fields of `Rules`.
      wrappers: names of what else stood between game and expert.
    """

    game: str | None = None
    game_from: str = ""
    by_name: bool = False
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stack: int | None = None
    normalised: bool = False
    rules: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wrappers: tuple[str, ...] = ()


def read(texts: Mapping[str, bytes], repository: str) -> RepositoryInfo:
    """What files say, by their names; what is damaged or says something else says nothing.

    Args:
      texts: by name, of those in `hub.BESIDE`.
      repository: "user/name", which may be called after a game.
    """
    card = _card(texts.get(hub.CARD, b""))
    config, arguments, kwargs = (
        _mapping(_yaml(texts.get(f"{name}.yml", b""))) for name in ("config", "args", "env_kwargs")
    )
    results, settings = (_json(texts.get(f"{name}.json", b"")) for name in ("results", "config"))
    scores = dict(_card_scores(card))
    game, source = _game(card, arguments, settings, scores, repository)
    own = _number(results.get("mean_reward"))
    if game is not None and own is not None:
        scores[game] = own
    rules, wrappers = _wrappers(config.get("env_wrapper"))
    stack = _number(config.get("frame_stack"))
    return RepositoryInfo(
        game=game,
        game_from=source,
        by_name=source == _NAME,
        scores=scores,
        stack=int(stack) if stack is not None and stack > 0 else None,
        normalised=_normalised(config),
        rules=rules | _rules_of(kwargs),
        wrappers=wrappers,
    )


def _game(
    card: Mapping[str, Any],
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    repository: str,
) -> tuple[str | None, str]:
    """The game, and what says so: a program's arguments, the card, the repository's name."""
    for name, said in (("args.yml", arguments), ("config.json", settings)):
        if game := next(iter(beside.games({}, said)), None):
            return game, f"the repository's {name}"
    named = {*scores} or {*_card_games(card)}
    if named:
        return (*named,)[0] if len(named) == 1 else None, "its model card"
    return beside.game_in_words(repository.rpartition("/")[2]), _NAME


def _card(text: bytes) -> Mapping[str, Any]:
    """The metadata of a model card: YAML between two lines of three dashes."""
    parts = re.split(rb"^---[ \t]*\r?$", text, maxsplit=2, flags=re.MULTILINE)
    return _mapping(_yaml(parts[1])) if len(parts) == 3 and not parts[0].strip() else {}


def _card_games(card: Mapping[str, Any]) -> Iterator[str]:
    for tag in _list(card.get("tags")):
        if isinstance(tag, str) and (game := beside.game_in_words(tag)):
            yield game


def _card_scores(card: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The mean rewards of whole games that the `model-index` of a card claims, by game."""
    for result, metric in itertools.islice(_metrics(card), _MAX_METRICS):
        dataset, score = _mapping(result.get("dataset")), _number(metric.get("value"))
        games = beside.games({}, {"env_id": dataset.get("type"), "env": dataset.get("name")})
        claimed = metric.get("type") == "mean_reward" and WHOLE not in _mapping(metric.get("args"))
        if games and score is not None and claimed:
            yield games[0], score


def _metrics(card: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every metric of a card's `model-index`, with the result that it is of."""
    for entry in _list(card.get("model-index")):
        for result in map(_mapping, _list(_mapping(entry).get("results"))):
            for metric in _list(result.get("metrics")):
                yield result, _mapping(metric)


def _normalised(config: Mapping[str, Any]) -> bool:
    """Whether rl-zoo's VecNormalize has normalised what is seen, and not rewards alone."""
    said, kwargs = config.get("normalize"), config.get("normalize_kwargs")
    wanted = said is not None and str(said).lower() not in ("", "false", "none", "null")
    return wanted and not any(_NO_NORM.search(str(text)[:1000]) for text in (said, kwargs))


def _wrappers(said: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The rules that rl-zoo's `env_wrapper` makes, and the names of wrappers that are unknown."""
    rules: dict[str, Any] = {}
    others: list[str] = []
    for entry in _list(said) if isinstance(said, list) else [said]:
        named = {entry: {}} if isinstance(entry, str) else _mapping(entry)
        for path, fields in named.items():
            if not isinstance(path, str) or path.lower() in ("", "none", "null"):
                continue
            name = path.rpartition(".")[2]
            if name == _ATARI_WRAPPER:
                rules |= _atari_wrapper(_mapping(fields))
            else:
                others.append(brief([name]))
    return rules, tuple(others)


def _atari_wrapper(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The game as Stable-Baselines3's AtariWrapper makes it: FIRE begins every life, if they end
    games (FireReset around EpisodicLife)."""
    lives = str(fields.get("terminal_on_life_loss", True)).lower() != "false"
    rules = {"fire_after_life": lives}
    for theirs, ours in (("noop_max", "noop_max"), ("frame_skip", "frame_skip")):
        number = _number(fields.get(theirs))
        if number is not None:
            rules |= _valid(ours, max(1, int(number)))
    return rules | _sticky(fields.get("action_repeat_probability"))


def _rules_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that ALE's own arguments make."""
    rules = _sticky(kwargs.get("repeat_action_probability"))
    for name in ("mode", "difficulty"):
        if (number := _number(kwargs.get(name))) is not None:
            rules |= _valid(name, int(number))
    if str(kwargs.get("full_action_space")).lower() == "true":
        rules |= {"full_actions": True}
    return rules


def _sticky(value: Any) -> dict[str, Any]:
    number = _number(value)
    return {} if number is None else _valid("repeat_action_probability", number)


def _valid(name: str, value: Any) -> dict[str, Any]:
    try:
        Rules(**{name: value})
    except ValueError:
        return {}
    return {name: value}


def _number(value: Any) -> float | None:
    """A number, also from "20.7 +/- 0.5"."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _NUMBER.match(value) if isinstance(value, str) else None
    if isinstance(value, str):
        return float(match[1]) if match else None
    return float(value) if abs(value) < 1e15 and math.isfinite(value) else None


def _yaml(text: bytes) -> Any:
    import yaml  # comes with huggingface_hub

    if _depth(text) > _MAX_DEPTH:  # a kilobyte of brackets takes a second
        return None
    try:
        said = text.decode()
        if "*" in said and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(said)):
            return None
        return yaml.load(said, Loader=yaml.BaseLoader)  # text and no more
    except (ValueError, RecursionError, yaml.YAMLError):
        return None


def _depth(text: bytes) -> int:
    """How many brackets are open at once, those in strings too."""
    steps = ((c in b"[{") - (c in b"]}") for c in text)
    return max(itertools.accumulate(steps), default=0)


def _json(text: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    """A map; also one that Python's OrderedDict was written as: a list of one list of pairs."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        pairs = [x for x in value[0] if isinstance(x, list) and len(x) == 2]
        return {key: x for key, x in pairs if isinstance(key, str)}
    return value if isinstance(value, dict) else {}
