"""What the closing table says of all games together."""

import math
import types

import numpy as np
import pytest

from jaxdistill.report import tables
from jaxdistill.run import closing

EVALUATE = types.SimpleNamespace(epsilon=0.0, opening_steps=0, opening_by="random")
RUN = types.SimpleNamespace(settings=types.SimpleNamespace(evaluate=EVALUATE))


def _row(game, share, interval):
    played = {"mean": 1.0, "interval": [0.0, 2.0], "episodes": 16, "distinct_starts": 9}
    players = dict.fromkeys(("random", "expert", "student"), played)
    return {"game": game, **players, "retention": share, "retention_interval": interval}


def test_a_share_of_what_may_be_nothing_is_in_no_mean():
    """Random play 0.1, expert 0.2, student 2.1: 2000%, of what these games do not tell."""
    pong = _row("pong", 0.25, [0.2, 0.3])
    untold = _row("qbert", (2.1 - 0.1) / (0.2 - 0.1), [math.nan, math.nan])
    result = closing.result_of(RUN, [pong, untold], {})
    shares = [result[f"{which}_retention"] for which in ("mean", "geometric", "worst")]
    assert np.isnan(shares).all() and result["games"][1]["retention"] == pytest.approx(20)
    said = tables.summary(result | {"best_round": 1, "rounds": 2})
    assert said.startswith("mean retention -, geometric mean -, worst game -;")
    known = closing.result_of(RUN, [pong, _row("qbert", 1.0, [0.9, 1.1])], {})
    shares = [known[f"{which}_retention"] for which in ("mean", "geometric", "worst")]
    assert shares == pytest.approx([0.625, 0.5, 0.25])
