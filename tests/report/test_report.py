"""Tests for what a person reads at the end."""

import base64
import dataclasses
import io
import json
import math
import pathlib
import re

import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from jaxdistill import disk, networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.play import clips
from jaxdistill.play.scoring import Scores
from jaxdistill.report import page, tables
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.lander import LANDER
from jaxdistill.tasks.views import Vector, View


@pytest.fixture
def result(tmp_path):
    """A run whose expert plays like random, as it is read back: nothing can be kept of it."""
    played = {"mean": 3.0, "interval": [3.0, 3.0], "episodes": 2, "distinct_starts": 1}
    row = {
        "game": "pong",
        **dict.fromkeys(("random", "expert", "student"), played),
        "retention": math.nan,
        "retention_interval": [math.nan, math.nan],
        "human_normalised": None,
        "shared_starts": 0,
    }
    whole = {
        "games": [row],
        **dict.fromkeys(("mean_retention", "geometric_retention", "worst_retention"), math.nan),
        "episodes": 2,
        "epsilon": 0.05,
        "opening_steps": 0,
        "opening_by": "random",
        "best_round": 1,
        "rounds": 2,
        "seconds": {"learn": 60.0},
    }
    disk.write_json(tmp_path / "result.json", whole)
    back = json.loads((tmp_path / "result.json").read_text())
    return {"measured": whole, "read back": back}


@pytest.mark.parametrize("which", ["measured", "read back"])
def test_what_is_not_known_is_a_dash(result, which, capsys):
    tables.print_result(result[which])
    out = capsys.readouterr().out
    assert "nan" not in out and "None" not in out
    assert "mean retention -, geometric mean -, worst game -;" in out
    line = next(line for line in out.splitlines() if line.split()[:1] == ["pong"])
    assert line.split() == ["pong", "3.0", "3.0", "3.0", "-"]


def test_what_is_kept_of_an_expert_that_may_be_no_better_than_random_play_is_a_dash(result, capsys):
    result = result["measured"]
    result["games"][0]["retention"] = 5.54
    # As an earlier version wrote them.
    result |= dict.fromkeys(("mean_retention", "geometric_retention", "worst_retention"), 5.54)
    tables.print_result(result)
    out = capsys.readouterr().out
    assert "554" not in out and "mean retention -, geometric mean -, worst game -;" in out
    assert next(x for x in out.splitlines() if x.split()[:1] == ["pong"]).split()[-1] == "-"
    columns, (cells,) = tables.student_cells(result["games"])
    assert cells[columns.index("retention")] == "-"


@pytest.mark.parametrize(("half", "shown"), [(0.05, "2000%"), (0.08, "-")])
def test_without_its_games_an_expert_is_told_from_random_play_by_their_intervals(half, shown):
    """Half of the interval of their difference, 0.1, is 0.071 or 0.113."""
    row = _row("pong") | {"retention": 20.0}
    del row["retention_interval"]
    for who, mean in (("random", 0.1), ("expert", 0.2)):
        row[who] = row[who] | {"mean": mean, "interval": [mean - half, mean + half]}
    worse = row | {"random": row["expert"], "expert": row["random"]}
    for scores, kept in ((row, shown), (worse, "-")):
        columns, (cells,) = tables.student_lines([scores])
        assert cells[columns.index("retention")] == kept


def _scores(*, facts, scores=(0.0, 100.0, 200.0, 300.0), lengths=(100, 200, 300, 400)):
    every = {name: np.asarray(x, float) for name, x in facts.items()}
    starts = np.arange(len(scores))
    return Scores(np.asarray(scores), np.asarray(lengths), starts, starts < 0, every)


LANDED = {"rest": [1, 1, 1, 1], "pad": [1, 0, 0, 0], "crash": [0, 0, 0, 0]}


def _lander_row(name="lander/windy", **scores):
    played = _scores(facts=LANDED).summary()
    return {
        "game": name,
        **dict.fromkeys(("random", "expert", "student"), played),
        **scores,
        "retention": 1.0,
        "retention_interval": [0.9, 1.1],
        "human_normalised": None,
        "shared_starts": 0,
        "max_steps": 400,
    }


def test_facts_and_lengths_have_their_intervals():
    summary = _scores(facts=LANDED).summary()
    assert {name: fact["mean"] for name, fact in summary["facts"].items()} == {
        "rest": 1.0,
        "pad": 0.25,
        "crash": 0.0,
    }
    assert summary["facts"]["rest"]["interval"] == [1.0, 1.0]
    assert summary["facts"]["pad"]["interval"] == [0.0, 1.0]
    assert summary["mean_steps"] == 250.0
    # Lengths are a hundred more than the scores, so is their interval; both are resampled alike.
    assert np.subtract(summary["steps_interval"], summary["interval"]).tolist() == [100, 100]
    # Nothing of it where a suite has no facts.
    assert not {"facts", "steps_interval"} & _scores(facts={}).summary().keys()


def test_how_games_ended_is_a_row_for_each_task_and_player():
    row = _lander_row()
    columns, cells = tables.ending_cells([row, row | {"game": "lander/heavy", "max_steps": 800}])
    assert columns == (
        *("task", "player", "rest", "", "pad", "", "crash", "", "steps", "", "limit"),
    )
    assert [cell[:2] for cell in cells] == [
        (name, player)
        for name in ("lander/windy", "lander/heavy")
        for player in ("random", "expert", "student")
    ]
    low, high = row["student"]["steps_interval"]
    assert cells[2] == (
        *("lander/windy", "student", "100.0%", "[100.0%, 100.0%]", "25.0%", "[0.0%, 100.0%]"),
        *("0.0%", "[0.0%, 0.0%]", "250.0", f"[{low:.1f}, {high:.1f}]", 400),
    )
    assert cells[5][-1] == 800


def test_facts_are_numbers_where_their_suite_says_so_however_small():
    duel = _scores(facts={"dealt": [0, 1, 5, 6], "won": [0, 1, 1, 0]}).summary()
    less = _scores(facts={"dealt": [0, 0, 1, 1], "won": [0, 0, 0, 0]}).summary()
    columns, cells = tables.ending_cells([{"game": "combat/duel", "random": less, "network": duel}])
    assert columns[:6] == ("task", "player", "dealt", "", "won", "") and "limit" not in columns
    assert cells[0][2:6] == ("0.5", "[0.0, 1.0]", "0.0%", "[0.0%, 0.0%]")
    assert cells[1][2] == "3.0" and cells[1][4] == "50.0%"
    ((_, (_, alone)),) = tables.ending_tables([{"game": "combat/duel", "random": less}])
    assert alone[0][2:4] == ("0.5", "[0.0, 1.0]")


def test_a_task_of_which_much_is_told_has_a_line_for_each_fact():
    said = {"dealt": [0, 4], "taken": [1, 1], "won": [0, 1], "drawn": [0, 0], "lost": [1, 0]}
    few = _scores(facts=said, scores=(0, 1), lengths=(100, 300)).summary()
    landed = _lander_row()
    fought = {"game": "combat/duel", "random": few, "student": few}
    (title, own), (_, (columns, cells)) = tables.ending_tables([fought, landed])
    assert title == "combat/duel: how games ended" and own[0] == ("", "random", "", "student", "")
    assert [line[0] for line in own[1]] == ["dealt", "taken", "won", "drawn", "lost", "steps"]
    assert own[1][0][1:3] == own[1][0][3:] == ("2.0", "[0.0, 4.0]")
    assert own[1][1][1:3] == ("1.0", "[1.0, 1.0]"), "one hit, and not all of them"
    assert own[1][2][1:3] == ("50.0%", "[0.0%, 100.0%]") and own[1][5][1] == "200.0"
    assert (columns, cells) == tables.ending_cells([landed])
    assert tables.ending_tables([{"game": "pong", "student": _scores(facts={}).summary()}]) == []


def test_a_task_without_facts_has_no_row_of_how_its_games_ended(result):
    assert tables.ending_cells(result["measured"]["games"])[1] == []
    old = _lander_row()
    for player in ("random", "expert"):
        old[player] = {k: v for k, v in old[player].items() if k not in ("facts", "steps_interval")}
    assert [cell[1] for cell in tables.ending_cells([old])[1]] == ["student"]


@pytest.mark.parametrize(
    ("game", "human", "head", "told"),
    [
        ("pong", 0.5, "game", True),
        ("pong", None, "game", False),
        ("lander/windy", None, "task", False),
    ],
)
def test_columns_say_what_is_known_of_the_suite(game, human, head, told):
    columns, (cells,) = tables.student_cells([_lander_row(game) | {"human_normalised": human}])
    assert columns[0] == head and ("human" in columns) == told
    assert len(cells) == len(columns) and ("50.0%" in cells) == told
    row = {"game": game, **dict.fromkeys(("random", "network"), _lander_row()["random"])}
    columns, (cells,) = tables.network_cells([row | {"human_normalised": human}])
    assert columns[0] == head and ("human" in columns) == told and ("50.0%" in cells) == told


def test_one_game_without_human_scores_leaves_the_column_to_the_others():
    row = _lander_row("pong")
    columns, cells = tables.student_cells([row | {"human_normalised": 0.5}, row])
    assert [cell[columns.index("human")] for cell in cells] == ["50.0%", None]


def _expert(game):
    return Expert(
        name="pilot",
        network=networks.Network(convs=(), num_outputs=4),
        params={},
        outputs="q",
        actions=(0, 1, 2, 3),
        view=Vector(8),
        game=game,
    )


def test_experts_are_printed_with_how_their_games_ended(capsys):
    scores = _scores(facts=LANDED)
    tables.print_expert(_expert("lander/heavy"), scores, epsilon=0.0, random=-183.4)
    one = capsys.readouterr().out
    head = next(line.split() for line in one.splitlines() if "score" in line)
    row = next(line.split() for line in one.splitlines() if line.startswith("lander/heavy "))
    assert row[head.index("random")] == "-183.4"
    tables.print_experts([_expert("lander/heavy")], [scores], [scores])
    several = capsys.readouterr().out
    for printed, players in ((one, ["expert"]), (several, ["random", "expert"])):
        assert "how games ended" in printed and "None" not in printed
        lines = [line.split() for line in printed.splitlines()]
        assert players in lines, "a column each"
        assert ["lander/heavy"] in lines and ["rest", *["100%"] * len(players)] in lines


# Means and intervals of runs as they were: random play, expert, student, network.
PLAYED = {
    "breakout": [(1.3, 1.0, 1.6), (92.2, 81.0, 104.9), (88.1, 76.8, 100.8), (96.4, 83.9, 109.0)],
    "pong": [(-20.1, -20.3, -19.9), (14.9, 14.3, 15.6), (15.5, 15.0, 15.9), (14.9, 14.3, 15.6)],
    "freeway": [(0.0, 0.0, 0.0), (22.0, 21.7, 22.3), (21.8, 21.5, 22.1), (22.0, 21.7, 22.3)],
    "space_invaders": [
        *((146.2, 130.1, 161.3), (1523.4, 1401.2, 1650.6)),
        *((1498.8, 1377.0, 1621.9), (1512.0, 1390.4, 1640.7)),
    ],
    "montezuma_revenge": [
        *((0.0, 0.0, 0.0), (123456.0, 113456.0, 133456.0)),
        *((12345.6, 11345.6, 13345.6), (99960.0, 98888.0, 111111.0)),
    ],
    "qbert": [
        *((163.9, 140.0, 187.2), (15234.5, 14210.3, 16100.8)),
        *((14876.2, 13888.8, 15777.7), (15000.4, 14000.2, 16000.1)),
    ],
    "lander/standard": [
        *((-182.9, -190.1, -175.3), (277.5, 275.1, 280.0)),
        *((279.9, 277.6, 282.2), (272.0, 268.1, 276.6)),
    ],
    "lander/windy": [
        *((-206.3, -214.0, -199.1), (165.1, 153.3, 177.0)),
        *((163.9, 152.4, 175.1), (177.3, 166.6, 188.8)),
    ],
    "lander/heavy": [
        *((-133.3, -140.1, -127.7), (267.2, 260.0, 274.4)),
        *((269.4, 262.9, 276.2), (273.5, 268.8, 278.1)),
    ],
    "combat/duel": [
        *((-12.7, -12.7, -12.6), (12.7, 12.4, 13.1)),
        *((12.0, 11.6, 12.4), (26.6, 26.4, 26.7)),
    ],
}
ATARI = (("breakout", "pong", "freeway"), ("space_invaders", "montezuma_revenge", "qbert"))
LANDERS = ("lander/standard", "lander/windy", "lander/heavy")
FOUGHT = ("dealt", "taken", "won", "drawn", "lost", "won_to_ten", "lost_to_ten", "hit_rate")


def _row(game):
    """One of all players, with everything that is ever told of a task."""
    row = {
        "game": game,
        "retention": 0.955,
        "retention_interval": [0.79, 1.154],
        "human_normalised": None if "/" in game else 3.001,
        "agreement": 0.912,
        "regret": 0.0004,
        "shared_starts": 0,
        "best_step": 499_712,
    }
    facts = FOUGHT if game.startswith("combat") else LANDED if "/" in game else ()
    share = {"mean": 0.988, "interval": [0.971, 0.998]}
    for who, (mean, low, high) in zip(
        ("random", "expert", "student", "network"), PLAYED[game], strict=True
    ):
        row[who] = {"mean": mean, "interval": [low, high], "distinct_starts": 93, "episodes": 100}
        if facts:
            row[who] |= {"facts": dict.fromkeys(facts, share), "mean_steps": 321.5}
            row[who] |= {"steps_interval": [310.5, 333.3]}
            row["max_steps"] = 1000
    return row


MEASURED = {
    "episodes": 100,
    "epsilon": 0.05,
    "opening_steps": 10,
    "opening_by": "random",
    "seconds": dict.fromkeys(("baselines", "collect", "store", "learn", "save", "report"), 1234.0),
}


@pytest.mark.parametrize("games", [*ATARI, LANDERS, ("combat/duel",)], ids=" ".join)
def test_what_is_printed_fits_80_columns(games, capsys):
    rows = [_row(game) for game in games]
    shares = dict.fromkeys(("mean_retention", "geometric_retention", "worst_retention"), 0.9)
    merged = MEASURED | shares | {"games": rows, "best_round": 200, "rounds": 200}
    merged["hint"] = "hint: a sentence " + "with many words in it " * 9
    trained = MEASURED | {"games": rows, "networks": 1, "parameters": 37788, "steps": 499_712}
    alone = [{k: v for k, v in row.items() if k not in ("expert", "student")} for row in rows]
    tables.print_result(merged)
    tables.print_students(rows, MEASURED)
    tables.print_training(trained)
    tables.print_training(trained | {"games": alone})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    for game in games:
        named = [line for line in lines if line.startswith(game[:8])]
        # A line in every table of scores, and of endings as many as their players need.
        assert len(named) == (4 if "/" not in game else 11)
        for fact in rows[0]["random"].get("facts", ()):
            assert f"  {fact.replace('_', ' ')} " in "\n".join(lines), "a name is not cut"


def test_a_hint_is_the_last_that_is_said(result, capsys):
    tables.print_result(result["measured"])
    without = capsys.readouterr().out
    tables.print_result(result["measured"] | {"hint": "hint: more rounds"})
    assert capsys.readouterr().out == without + "hint: more rounds\n"


def test_a_score_and_its_interval_share_a_cell(capsys):
    tables.print_students([_row(game) for game in ATARI[0]], MEASURED)
    text = capsys.readouterr().out
    assert text.splitlines()[3:] == [
        "game      random  expert             student            retention      agrees",
        "─" * 77,
        "breakout    1.3   92.2 [81, 105]     88.1 [77, 101]     96% [79, 115]  91.2%",
        "pong      -20.1   14.9 [14.3, 15.6]  15.5 [15.0, 15.9]  96% [79, 115]  91.2%",
        "freeway     0.0   22.0 [21.7, 22.3]  21.8 [21.5, 22.1]  96% [79, 115]  91.2%",
        "",
        "93 of 100 starts differ",
    ]
    few = [_row("pong") | {"regret": 0.5}]
    tables.print_students(few, MEASURED)
    assert "regret" not in capsys.readouterr().out, "which no longer fits"
    tables.print_students([{k: v for k, v in few[0].items() if k != "agreement"}], MEASURED)
    assert "0.5000" in capsys.readouterr().out, "where there is room for it"


def test_a_retention_that_rounds_to_nothing_has_no_sign():
    row = _row("pong") | {"retention": -0.004, "retention_interval": [-0.04, 0.03]}
    columns, (cells,) = tables.student_lines([row])
    assert cells[columns.index("retention")] == "0% [-4, 3]"


def test_a_page_has_every_digit_and_column_that_a_terminal_has_no_room_for(written):
    text = written([_row(game) for game in ATARI[0]])
    for cell in ("[81.0, 104.9]", "95.5%", "[79.0%, 115.4%]", "0.0004", "300.1%", "93"):
        assert f"<td>{cell}</td>" in text


def test_one_game_has_an_interval_that_is_not_known(capsys, tmp_path):
    one, other = (_scores(facts={}, scores=(x,), lengths=(9,)) for x in (3.0, 21.0))
    tables.print_expert(_expert("lander/heavy"), other, epsilon=0.0, random=20.0)
    out = capsys.readouterr().out
    assert "21.0 [-, -]" in out and "random play" not in out, "and nothing is warned of"
    answers = [{"input.stack_order": order} for order in ("newest_first", "oldest_first")]
    assert tables.print_tries(answers, [one, other], epsilon=0.0) == 1
    out = capsys.readouterr().out
    assert "21.0 [-, -]" in out and "3.0 [-, -]" in out
    assert "the first is not clearly better than the next" in out
    # As a result is read back: JSON knows no NaN.
    row = _lander_row(student=_scores(facts={"rest": [1]}, scores=(3.0,), lengths=(9,)).summary())
    disk.write_json(tmp_path / "row.json", row)
    row = json.loads((tmp_path / "row.json").read_text())
    columns, (cells,) = tables.student_cells([row])
    assert cells[columns.index("student") + 1] == "[-, -]"
    assert tables.ending_cells([row])[1][2][2:4] == ("100.0%", "[-, -]")
    assert ("  rest", "100%", "100%", "100% [-, -]") in tables.ending_lines([row])[1]


def test_an_expert_whose_own_game_is_not_known_is_judged_by_the_usual_one(capsys):
    """Where random play in its own is known, what it does in another says nothing."""
    expert = Expert(
        name="champion",
        network=networks.Network(),
        params={},
        outputs="q",
        actions=tuple(range(18)),
        view=View(),
        game="pong",
        rules=Rules(full_actions=True),
    )
    low, high = (_scores(facts={}, scores=(x, x), lengths=(9, 9)) for x in (-21.0, 20.0))
    for own, usual, random, warned in (
        (low, low, None, True),
        (high, low, None, True),
        (low, high, None, False),
        (high, low, -20.2, False),
    ):
        tables.print_expert(expert, own, usual, epsilon=0.05, random=random, random_usual=-20.3)
        out = " ".join(capsys.readouterr().out.split())
        assert ("not better than random play (-20.3)" in out) == warned
        assert ("Likely: its own game (full_actions True (not False); set rules)" in out) == warned
        assert "usual -20.3" in out


def test_experts_names_are_cut_and_not_wrapped(capsys):
    expert = dataclasses.replace(_expert("lander/heavy"), name="a_network_of_my_own_" * 5)
    expert = dataclasses.replace(expert, advertised_score=277.5)
    scores = _scores(facts={}, scores=(-81.0, -81.0, 105.0, 105.0))
    tables.print_experts([expert], [scores], [scores])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if line.startswith("lander/heavy"))
    assert "  a_network_of_my_own_" in line and "…  12.0 [-81, 105]  277.5" in line


def test_starts_are_told_in_one_line():
    rows = [_row("breakout"), _row("pong")]
    assert tables.starts({"games": rows}) == (
        "93 of 100 starts differ; none helped to choose the student"
    )
    rows[1]["student"]["distinct_starts"] = 99
    rows[1]["shared_starts"] = 3
    assert tables.starts({"games": rows}) == (
        "93 / 99 of 100 starts differ; 3 of pong's helped to choose the student"
    )
    rows[1]["student"]["episodes"] = 400  # each may have its own number
    assert tables.starts({"games": rows}).startswith("93 of 100 / 99 of 400 starts differ; 3 of")


@pytest.mark.parametrize(
    ("human", "said"), [([0.5, 1.0], "mean human-normalised score 75.0%; "), ([0.5, None], "")]
)
def test_a_training_of_games_is_summed_up_by_human_scores(human, said):
    rows = [
        {"game": game, "network": {"mean": 3.0}, "human_normalised": x, "best_step": 10}
        for game, x in zip(("pong", "breakout"), human, strict=True)
    ]
    result = {"games": rows, "networks": 1, "parameters": 37788, "steps": 2000}
    assert tables.training_summary(result) == (
        f"{said}one network, 37,788 parameters; the best, after 10 of 2,000 steps per game"
    )
    for row, name, step in zip(rows, ("lander/windy", "lander/heavy"), (5, 7), strict=True):
        row |= {"game": name, "human_normalised": None, "best_step": step}
    assert tables.training_summary(result | {"networks": 2}) == (
        "mean score 3.0; 2 networks, one per task, 37,788 parameters; the best, after 5 / 7 of "
        "2,000 steps per task"
    )


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        ((0, 0), "of their starts none helped to choose the network"),
        ((0, 3), "of their starts 3 of breakout's helped to choose the network"),
        ((0, None), "whether some of their starts helped to choose the network is not known"),
    ],
)
def test_no_games_are_called_fresh_that_may_have_chosen(shared, said):
    rows = [
        {"game": game} | ({} if count is None else {"shared_starts": count})
        for game, count in zip(("pong", "breakout"), shared, strict=True)
    ]
    assert tables.fresh({"games": rows}) == said


def test_the_protocol_says_the_step_limit_where_there_is_one():
    measured = {"episodes": 9, "epsilon": 0.0, "opening_steps": 0, "opening_by": "random"}
    plain = tables.protocol(measured)
    assert plain == tables.protocol(measured | {"max_steps": None})
    assert plain == "9 whole games per score, epsilon 0, 95% bootstrap intervals"
    assert "score, of at most 400 steps, eps" in tables.protocol(measured | {"max_steps": 400})


def test_the_protocol_says_how_many_games_tasks_were_played():
    rows = [_row("pong"), _row("breakout")]
    rows[0]["random"]["episodes"] = 64
    assert tables.protocol(MEASURED | {"games": rows}).startswith("100 whole games per score, ")
    rows[0]["expert"]["episodes"] = rows[0]["student"]["episodes"] = 16
    assert tables.protocol(MEASURED | {"games": rows}).startswith("16 to 100 whole games per")


def test_cosines_of_vectors_by_hand():
    vectors = np.asarray([[2.0, 0.0], [1.0, 1.0], [-3.0, 0.0], [0.0, 0.0]])
    half = 0.5**0.5
    np.testing.assert_allclose(
        page.cosine_similarity(vectors),
        [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]],
        atol=1e-12,
    )


def _clip(count, size=(40, 60), score=1.0, over=True):
    frames = np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return clips.Clip(frames, score, over, 50)


@pytest.fixture
def written(tmp_path):
    """`written(rows, embeddings)`: a merge's page."""

    def write(rows, embeddings=None, scores=2):
        result = {
            "games": rows,
            **dict.fromkeys(("mean_retention", "geometric_retention", "worst_retention"), 1.0),
            "episodes": 4,
            "epsilon": 0.0,
            "opening_steps": 0,
            "opening_by": "random",
            "best_round": 1,
            "rounds": 2,
            "seconds": {"learn": 60.0},
        }
        names = [row["game"] for row in rows]
        (tmp_path / "metrics.jsonl").write_text(
            "".join(
                json.dumps({"step": i} | {f"{k}/{n}": 0.5 for n in names for k in keys}) + "\n"
                for i in range(100)
                for keys in [("game_loss", "agreement", *("score",) * (i < scores))]
            )
        )
        said = np.eye(4)
        outputs = page.Outputs(said, said, np.ones(4, bool), LANDER)
        page.write(
            tmp_path,
            result,
            settings={"seed": 0},
            outputs=dict.fromkeys(names, outputs),
            plays={name: page.film_of_both(_clip(5), _clip(7, score=-2.25)) for name in names},
            command="it",
            embeddings=embeddings,
        )
        return (tmp_path / "report.html").read_text()

    return write


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_page_on_a_full_disk_leaves_nothing_behind(written, tmp_path):
    (tmp_path / "report.html.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"report\.html cannot be written \(No space left"):
        written([_row("lander/windy")])
    assert [x.name for x in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_page_of_landers_shows_how_games_ended_and_the_vectors(written):
    vectors = {"lander/windy": [1.0, 0.0], "lander/heavy": [1.0, 1.0]}
    rows = [_lander_row(name) for name in vectors]
    text = written(rows, vectors)
    for cells in (
        tables.student_cells(rows),
        tables.ending_cells(rows),
        tables.embedding_cells(vectors),
    ):
        for row in cells[1]:
            shown = "".join(f"<td>{'-' if cell is None else cell}</td>" for cell in row)
            assert f"<tr>{shown}</tr>" in text
    assert "lander/windy: expert 1, student -2.2" in text and ">None<" not in text
    assert "states of each task" in text
    assert text.count("<svg") == 3, "curves, cosines, outputs"
    # Its pictures have 25 of the 50 frames a second.
    gif = base64.b64decode(re.search('base64,([^"]*)', text)[1])
    with Image.open(io.BytesIO(gif)) as picture:
        assert picture.size == (128, 40) and picture.info["duration"] == 40


def test_a_page_of_games_shows_neither(written):
    row = _lander_row("pong")
    for player in ("random", "expert", "student"):
        row[player] = _scores(facts={}).summary()
    text = written([row])
    assert "How games ended" not in text and "The vector learnt" not in text
    assert text.count("<table>") == 1 and text.count("<svg") == 2 and ">None<" not in text
    assert "states of each game" in text


def test_few_points_are_marked(written):
    """Of one evaluation there is no line to be seen."""

    def marks(text):
        curves = text[text.index("<h2>Learning") : text.index("<h2>Outputs")]
        return curves.count('style="fill: #c0392b; stroke: #c0392b')

    row = _lander_row("pong")
    assert marks(written([row], scores=100)) == 0
    assert [marks(written([row], scores=count)) for count in (1, 2, 20)] == [1, 2, 20]


def test_a_clip_that_would_be_too_large_has_fewer_pictures():
    """Of noise, which nothing makes smaller."""
    frames = _clip(61, (60, 80)).frames
    whole = clips.to_gif(frames, 50, every=2)
    limit = len(whole) // 3
    small = clips.to_gif(frames, 50, every=2, max_bytes=limit)
    assert clips.to_gif(frames, 50, every=2, max_bytes=len(whole)) == whole
    assert limit / 3 < len(small) <= limit
    with Image.open(io.BytesIO(whole)) as one, Image.open(io.BytesIO(small)) as other:
        times = []
        for picture in (one, other):
            times.append(picture.n_frames * picture.info["duration"])
        assert times == pytest.approx([61 * 20] * 2, rel=0.1), "at the game's own speed"
    assert clips.to_gif(frames, 50, max_bytes=1), "two pictures are the least"
    with Image.open(io.BytesIO(clips.to_gif(frames, 50, max_bytes=1))) as least:
        assert least.n_frames == 2


def test_a_status_says_what_its_numbers_are():
    row = {"loss": 0.01234, "agreement/pong": 0.991, "regret/pong": 0.5, "agreement/breakout": 0.9}
    assert tables.learning_status(row, ["breakout", "pong", "freeway"]) == (
        "loss 0.0123, agreement: breakout 90.0% pong 99.1%"
    )
    row = {"loss": 1.0, "agreement/combat/duel": 1.0, "angle_error/combat/duel": 0.268}
    assert tables.learning_status(row, ["combat/duel"]) == (
        "loss 1.0000, agreement: combat/duel 100.0%, angle error: combat/duel 0.27°"
    )
    assert tables.learning_status({"loss": 1.0}, ["combat/duel"]) == "loss 1.0000"
    four, two = _scores(facts={}), _scores(facts={}, scores=(1.0, 2.0), lengths=(3, 4))
    games = [tasks.get("pong"), tasks.get("qbert")]
    assert tables.playing_status(games, [four, four]) == (
        "mean score of 4 games: pong 150.0 qbert 150.0"
    )
    assert tables.playing_status(games, [four, two]) == "mean score: pong 150.0 qbert 1.5"


def test_of_seven_games_a_status_names_the_worst():
    names = ["pong", "breakout", "freeway", "qbert", "asterix", "seaquest", "boxing"]
    row = {"loss": 1.0}
    for place, name in enumerate(names):
        row |= {f"agreement/{name}": 0.9 - 0.01 * place, f"angle_error/{name}": 1.0 + place}
    assert tables.learning_status(row, names) == (
        "loss 1.0000, agreement: mean 87.0%, worst boxing 84.0%, "
        "angle error: mean 4.00°, worst boxing 7.00°"
    )
    assert tables.learning_status(row, names[:6]).count("%") == 6

    def played(share, task):
        """Who plays so, between random play and people."""
        low, high = task.random_score, task.human_score
        return _scores(facts={}, scores=(low + share * (high - low),) * 2, lengths=(3, 4))

    games = [tasks.get(name) for name in names]
    scores = [played(1.0 - 0.1 * i, game) for i, game in enumerate(games)]
    told = "human-normalised score of 2 games: mean 70.0%, worst boxing 40.0%"
    assert tables.playing_status(games, scores) == told
    # People have played whole games of five lives.
    alone = tables.playing_status(games, scores, 1000)
    assert alone.startswith("mean score of 2 games: pong 14.6 breakout ")
    of_a_life = [game.under(Rules(end_at_life=True)) for game in games]
    assert tables.playing_status(of_a_life, scores) == alone
    # Of this one no person's score is known.
    games.append(tasks.get("adventure"))
    scores.append(_scores(facts={}, scores=(0.0, 0.0), lengths=(3, 4)))
    assert tables.playing_status(games, scores) == told


def test_a_run_is_summed_up_by_its_own_numbers():
    shares = {"mean_retention": 0.9, "geometric_retention": 0.8, "worst_retention": 0.5}
    result = {"games": [_row("pong")], "best_round": 3, "rounds": 8, **shares}
    assert tables.summary(result) == (
        "mean retention 90.0%, geometric mean 80.0%, worst game 50.0%; "
        "student chosen after round 3 of 8"
    )
    told = tables.wall_time({"seconds": {"learn": 90.0, "save": 30.0}})
    assert told == "wall time 2.0 min: learn 90 s, save 30 s"


def test_the_numbers_of_a_page_are_each_players_own():
    _, (cells,) = tables.student_cells([_row("breakout")])
    assert cells == (
        *("breakout", "1.3", "92.2", "[81.0, 104.9]", "88.1", "[76.8, 100.8]"),
        *("95.5%", "[79.0%, 115.4%]", "91.2%", "0.0004", "300.1%", 93),
    )


def test_the_numbers_of_a_training_are_each_players_own():
    _, (line,) = tables.network_lines([_row("breakout")])
    assert line == (
        *("breakout", "1.3", "92.2 [81, 105]", "88.1 [77, 101]", "96.4 [84, 109]", "300%"),
    )
    _, (cells,) = tables.network_cells([_row("breakout")])
    assert cells == (
        *("breakout", "1.3", "[1.0, 1.6]", "92.2", "[81.0, 104.9]", "88.1", "[76.8, 100.8]"),
        *("96.4", "[83.9, 109.0]", "300.1%", 93),
    )
    vectors = tables.embedding_cells({"pong": [1.0, 0.25]})
    assert vectors == (("game", "1", "2"), [("pong", "1.000", "0.250")])


def test_the_expert_stands_left_and_the_student_right():
    dark, bright = (
        clips.Clip(np.full((3, 4, 6, 3), gray, np.uint8), 0.0, True, 50) for gray in (40, 200)
    )
    film = page.film_of_both(dark, bright)
    with Image.open(io.BytesIO(base64.b64decode(film.gif))) as picture:
        left, right = (picture.convert("L").getpixel((x, 1)) for x in (1, picture.width - 2))
    assert left < 60 and right > 180


def test_curves_and_choices_are_of_whom_they_say(monkeypatch):
    monkeypatch.setattr(page, "_svg", lambda figure: figure)
    history = [{"step": 1, "score/breakout": 3.0}]
    figure = page._curves(history, ["breakout"], [_row("breakout")])
    *_, best, chance = figure.axes[2].lines
    assert (best.get_linestyle(), best.get_ydata()[0]) == ("--", 92.2)
    assert (chance.get_linestyle(), chance.get_ydata()[0]) == (":", 1.3)
    suite = tasks.get("combat/duel").suite
    outputs = np.zeros((2, 9), np.float32)
    outputs[:, 0], outputs[:, 7] = (3, -3), (0.2, -0.2)  # a key down in one state; left and right
    told = page._chosen(suite, outputs, np.ones(9, bool))
    np.testing.assert_allclose(told[[0, 7]], [0.5, 0.2], atol=1e-6)


def test_histograms_are_of_whom_they_say(monkeypatch):
    """Of four valid actions the expert takes 0, 0, 1, 3 and the student 4, 4, 4, 0."""
    monkeypatch.setattr(page, "_svg", lambda figure: figure)
    task = tasks.get("breakout")
    expert, student = np.zeros((4, 18), np.float32), np.full((4, 18), 10, np.float32)
    for state, (theirs, its) in enumerate(((0, 4), (0, 4), (1, 4), (3, 0))):
        expert[state, theirs], student[state, its] = 1, 12
    expert[:, 2] = student[:, 2] = 99  # which is not valid
    outputs = page.Outputs(expert, student, task.mask, task.suite)
    left, right = page._histograms({"breakout": outputs}).axes
    told = zip(("expert", "student"), left.patches, right.containers, strict=True)
    wanted = {"expert": ((0, 1), (0.5, 0.25, 0.25, 0)), "student": ((10, 12), (0.25, 0, 0, 0.75))}
    for who, values, shares in told:
        (low, high), chosen = wanted[who]
        assert values.get_label() == shares.get_label() == who
        assert (values.get_xy()[:, 0].min(), values.get_xy()[:, 0].max()) == (low, high)
        assert [bar.get_height() for bar in shares] == pytest.approx(chosen)
        colours = {colors.to_hex(values.get_edgecolor()), colors.to_hex(shares[0].get_facecolor())}
        assert colours == {page._COLOURS[who]}


def test_curves_of_a_training_are_of_whom_they_say(monkeypatch):
    monkeypatch.setattr(page, "_svg", lambda figure: figure)
    history = [{"step": 1, "score/breakout": 3.0, "eval/breakout": 5.0, "loss": 1.0}]
    panel, *_ = page._training_curves({"breakout": history}, [_row("breakout")]).axes
    assert {line.get_label(): line.get_ydata()[0] for line in panel.lines} == {
        "while learning, exploring": 3.0,
        "evaluated": 5.0,
        "the best": 96.4,
        "random play": 1.3,
    }
