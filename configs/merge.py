"""Merge any experts: `--config=configs/merge.py:GAME=FILE,GAME=FILE,...`

    python launch/distill.py --workdir=runs/mine \
        --config=configs/merge.py:pong=experts/pong.pth,breakout=experts/breakout.pth

FILE is a file of a known program (docs/experts.md has the list), a directory made by
`launch/convert.py`, or one of these on the Hugging Face hub, GAME=hf://USER/NAME[@REVISION][/PATH];
one that needs a spec is GAME=FILE@SPEC.toml. What its own game was is said behind it, as in
'--config=configs/merge.py:GAME=FILE?fire_after_life=true&noop_max=1' (see `tasks.atari.Rules`);
how the run plays, by `--config.rules.fire_after_life=True`.
Every field below can be set by flag, as `--config.learn.rounds=400`.

If an expert has the student's convolutions, begin with them (`--config.learn.warm_start=GAME
--config.learn.warm_layers=convolutions`): of the game that is hardest to copy, as Breakout beside
Pong and Freeway.
"""

import dataclasses
import os

from ml_collections import ConfigDict, config_dict

from jaxdistill.experts import hub
from jaxdistill.run import distill_settings
from jaxdistill.tasks import atari

SHIPPED = ",".join(f"{game}=experts/{game}.pth" for game in ("breakout", "pong", "freeway"))


def sources(experts: str) -> tuple[dict[str, str | None], ...]:
    """`GAME=FILE[@SPEC][?RULES],...` as experts' sources."""
    parsed = []
    for part in filter(None, experts.split(",")):
        game, found, file = part.partition("=")
        if not found:
            raise ValueError(
                f"expected GAME=FILE in --config=configs/...:..., got {part!r} (a comma ends FILE)"
            )
        path, spec, rules = os.path.expanduser(file), None, ""
        if not os.path.exists(path):  # one that is there may have an @ or a ? in its name
            path, _, rules = path.partition("?")
            path, spec = hub.with_spec(path)
        spec = spec and os.path.expanduser(spec)
        parsed.append({"game": game, "path": path, "spec": spec, "rules": rules or None})
    return tuple(parsed)


def get_config(experts: str = "") -> ConfigDict:
    if not sources(experts):
        raise ValueError("name the experts: --config=configs/merge.py:GAME=FILE,GAME=FILE")
    config = ConfigDict(
        {
            "experts": sources(experts),
            "together": config_dict.placeholder(str),
            "view": config_dict.placeholder(str),
            "rules": dataclasses.asdict(atari.Rules()),
            "network": "dueling",
            "convolutions": config_dict.placeholder(str),
            "compute_dtype": "float32",
            "seed": 0,
            "collect": dataclasses.asdict(distill_settings.Collect()),
            "learn": dataclasses.asdict(distill_settings.Learn()),
            "evaluate": dataclasses.asdict(distill_settings.Evaluate()),
        }
    )
    # Nothing by default, and text by flag.
    config.collect.dataset = config_dict.placeholder(str)
    config.learn.warm_start = config_dict.placeholder(str)
    config.learn.shares = config_dict.placeholder(str)
    config.learn.first_loss = config_dict.placeholder(str)
    config.learn.target_retention = config_dict.placeholder(float)
    config.evaluate.max_steps = config_dict.placeholder(int)
    config.evaluate.opening_steps = config_dict.placeholder(int)
    return config
