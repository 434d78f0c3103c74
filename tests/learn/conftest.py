"""What the tests of the log and of windows share."""

import numpy as np
import pytest

from jaxdistill.play import collection


@pytest.fixture(scope="module")
def breakout_chunk(breakout_play):
    """The recorded games as the chunk a collector would make of them; labels name their row."""
    before = breakout_play.steps[:-1]
    time, slot = np.meshgrid(np.arange(600), np.arange(3), indexing="ij")
    return collection.Chunk(
        frames=breakout_play.observations[None, :-1, :, -1],
        labels=np.stack([time, slot], axis=-1)[None].astype(np.float32),
        actions=breakout_play.actions[None].astype(np.uint8),
        ages=np.minimum(np.stack([step.ages for step in before]), 255)[None].astype(np.uint8),
        usable=~np.stack([step.over for step in before])[None],
    )
