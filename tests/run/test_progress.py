"""What checkpoints say of how far a run is, and what stands for what they left out before."""

import json

import numpy as np
import pytest

from jaxdistill.play import scoring
from jaxdistill.run import choosing
from jaxdistill.run.progress import MergeProgress, Progress

TIMER = {"seconds": {"learn": 1.5}}


def test_progress_is_read_as_it_was_written():
    scores = scoring.Scores(*(np.arange(3) for _ in range(3)), np.zeros(3, bool))
    best = choosing.Candidate(0.5, (0.4, 0.6), {0: scores, 2: scores})
    mark = {"seed": 3, "play": "x"}
    for found in (best, None):
        fields = Progress(TIMER, 40, mark, 8, found, measured=True, students=4).to_dict()
        assert [*fields] == [
            *("timer", "length", "dataset", "ended", "best", "measured", "students")
        ]
        again = Progress.from_dict(json.loads(json.dumps(fields)))
        assert again.to_dict() == fields and again.students_measured(400, 50) == 4
    merged = MergeProgress(TIMER, 40)
    assert MergeProgress.from_dict(json.loads(json.dumps(merged.to_dict()))) == merged
    assert MergeProgress.from_dict({"timer": TIMER}).length is None


def test_a_run_has_ended_at_its_target_with_the_rounds_that_it_had():
    """An earlier version did not say with how many."""
    for ended, at_8, at_9 in ((8, True, False), (True, True, True), (None, False, False)):
        progress = Progress.from_dict({"timer": TIMER, "length": 40, "ended": ended})
        assert [progress.reached_target(rounds) for rounds in (8, 9)] == [at_8, at_9]


@pytest.mark.parametrize(
    ("rounds", "measured", "count"),
    [(50, False, 0), (50, True, 1), (70, False, 1), (120, True, 2), (150, False, 2)],
)
def test_how_many_were_measured_in_a_run_that_has_not_counted_them(rounds, measured, count):
    """What was measured at an end that it was gone on from, such as 120, is not known."""
    progress = Progress.from_dict({"timer": TIMER, "length": 40, "measured": measured})
    assert progress.students_measured(rounds, 50) == count


def test_an_earlier_version_said_less():
    progress = Progress.from_dict({"timer": TIMER, "length": 40})
    assert progress.measured and progress.best is None and progress.dataset is None
    assert not progress.reached_target(8) and progress.students_measured(100, 50) == 2
