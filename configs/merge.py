"""Merge any experts: `--config=configs/merge.py:GAME=FILE,GAME=FILE,...`

    python launch/distill.py --workdir=runs/mine \
        --config=configs/merge.py:pong=experts/pong.pth,breakout=experts/breakout.zip

FILE is a PyTorch checkpoint that describes itself (reference, CRL-Atari, Stable-Baselines3,
CleanRL), or a directory made by `launch/convert.py`; one that needs a spec is GAME=FILE@SPEC.toml.
Every field below can be set by flag, as `--config.learn.rounds=400`.

If an expert has the student's network, begin as a copy of it (`--config.learn.warm_start=GAME`): of
the game that is hardest to copy, as Breakout beside Pong and Freeway.

On 2 busy cores, two games and the default network collected 1,400 steps/s and learnt from 1,100
rows/s; by these rates 200 rounds are half an hour, before games are played to measure. Three games
on slower ones made 1.7 updates/s, by which 200 rounds are an hour. The other configurations say
what whole runs took.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from jaxdistill import recipe


def sources(experts: str) -> tuple[dict[str, str | None], ...]:
    """`GAME=FILE[@SPEC],...` as experts' sources."""
    parsed = []
    for part in filter(None, experts.split(",")):
        game, found, file = part.partition("=")
        if not found:
            raise ValueError(f"expected GAME=FILE in --config=configs/...:..., got {part!r}")
        path, _, spec = file.partition("@")
        parsed.append({"game": game, "path": path, "spec": spec or None})
    return tuple(parsed)


def get_config(experts: str = "") -> ConfigDict:
    if not sources(experts):
        raise ValueError("name the experts: --config=configs/merge.py:GAME=FILE,GAME=FILE")
    config = ConfigDict(
        {
            "experts": sources(experts),
            "network": "dueling",
            "compute_dtype": "float32",
            "seed": 0,
            "collect": dataclasses.asdict(recipe.Collect()),
            "learn": dataclasses.asdict(recipe.Learn()),
            "evaluate": dataclasses.asdict(recipe.Evaluate()),
        }
    )
    # Nothing by default, and text by flag.
    config.collect.dataset = config_dict.placeholder(str)
    config.learn.warm_start = config_dict.placeholder(str)
    config.learn.first_loss = config_dict.placeholder(str)
    config.evaluate.baselines = config_dict.placeholder(str)
    return config
