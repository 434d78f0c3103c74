"""What the names of tensors show that no stack of convolutions and dense layers has."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jaxdistill.experts.formats.layers import Arrays, Plan, brief
from jaxdistill.experts.formats.places import that_play

_PARTS, _WORDS = re.compile(r"[./,]"), re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_CRITICS = {"critic", "critics", "value", "values", "vf"}
_PLAYERS = {"actor", "policy", "pi", "q", "action", "actions", "advantage"}
_SIGNS = {
    "running_mean": "batch normalisation",
    "BatchNorm_": "batch normalisation",
    "LayerNorm": "layer normalisation",
    "layer_norm": "layer normalisation",
    "weight_hh_l1": "a second layer of recurrent cells",
    "_reverse": "a recurrent cell that looks ahead",
    "in_proj_weight": "attention",
}


def left_out(plan: Plan, arrays: Arrays, aside: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Tensors that a plan leaves out, and whose names say that it may not be all that plays.

    Returns:
      Their kinds and names, see `among`.

    Args:
      aside: what the names of tensors begin with that do not play.
    """
    unused = that_play(sorted(set(arrays) - set(plan.tensors())))
    signs = among([name for name in unused if not name.startswith(aside)], arrays)
    # What normalises for a critic may be left out with it.
    return [
        (kind, name)
        for kind, name in signs
        if plan.value or not kind.endswith("normalisation") or not _is_critics(name)
    ]


def among(names: Iterable[str], arrays: Arrays) -> list[tuple[str, str]]:
    """What these names show that no stack of convolutions and dense layers has: kinds and names."""
    names = list(names)
    found = [(kind, name) for sign, kind in _SIGNS.items() for name in names if sign in name]
    return found + [("normalisation", name) for name in names if _scales(name, arrays)]


def not_plain(signs: list[tuple[str, str]]) -> str | None:
    """That the first of these is not supported."""
    return f"{signs[0][0]} ({brief([signs[0][1]])}) is not supported" if signs else None


def _is_critics(name: str) -> bool:
    """Whether a tensor is of a critic's own part: `critic_norm.weight`, not `actor_critic.norm`."""
    for part in _PARTS.split(name):
        words = {word.lower() for word in _WORDS.findall(part)}
        values = words & _CRITICS or ("v" in words and words & {"head", "net"})
        if values and not words & _PLAYERS:
            return True
    return False


def _scales(name: str, arrays: Arrays) -> bool:
    """Whether a tensor is what a normalisation multiplies by: as long as its bias."""
    key, _, last = name.rpartition(".")
    if last == "weight":
        bias = arrays.get(f"{key}.bias")
        return bias is not None and arrays[name].ndim == 1 and bias.shape == arrays[name].shape
    return last == "scale"
