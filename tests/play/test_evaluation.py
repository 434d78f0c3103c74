"""Tests for measuring play: which games count, from where on, and what is scored in them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxdistill import meshes, preemption, tasks
from jaxdistill.play import evaluation, lessons, protocols, rollouts
from jaxdistill.tasks import atari, combat
from jaxdistill.tasks.task import seed_for
from jaxdistill.tasks.views import View

KEY, ONE = jax.random.key(0), meshes.create(jax.devices()[:1])


def _still(observations, key, indices, seats):
    """Always action 0."""
    return tuple(np.zeros(x.shape[0], int) for x in observations), None


def _always(action):
    return lambda observations, *_: (tuple(np.full(len(x), action) for x in observations), None)


NO_OPENING = protocols.Opening(_still, 0, _still, protocols.REPORTING)


def _play(pools, policy=_still, indices=None, **options):
    """Of each pool another task, unless they are given; seats are counted through a task's."""
    indices = range(len(pools)) if indices is None else indices
    taken, seats = dict.fromkeys(indices, 0), []
    for pool, index in zip(pools, indices, strict=True):
        seats.append(np.arange(taken[index], taken[index] + pool.num_envs))
        taken[index] += pool.num_envs
    return evaluation.play_games(
        pools, policy, KEY, meshes.create(), indices=indices, seats=seats, **options
    )


def test_short_games_are_not_counted_more_often_than_long_ones(scripted_pool):
    # While the long game is played once, the short one could end six times: the first two games to
    # end would both score 1, and the mean would be 1 instead of 50.5.
    pool = scripted_pool([[(2, 1.0)], [(17, 100.0)]])
    (result,) = _play([pool])
    np.testing.assert_array_equal(result.scores, [1, 100])
    np.testing.assert_array_equal(result.lengths, [2, 17])
    assert result.mean == 50.5
    # Each game's facts are those of the moment when it ended.
    assert {name: x.tolist() for name, x in result.facts.items()} == {"length": [2, 17]}
    assert len(pool.sent) == 17, "and not a step more"


def test_every_slot_plays_its_first_game(scripted_pool):
    pool = scripted_pool(
        [[(3, 1.0), (1, 2.0), (1, 99.0)], [(1, 30.0), (9, 40.0)], [(4, 5.0), (4, 6.0)]]
    )
    (result,) = _play([pool])
    np.testing.assert_array_equal(result.scores, [1, 30, 5])
    np.testing.assert_array_equal(result.lengths, [3, 1, 4])
    assert result.unfinished == 0


class _AnyState(protocols.Opening):
    """An opening after which a game may start from whatever state it is in."""

    def begins(self, seat, start):
        return True


def test_what_an_opening_scores_counts_for_nobody(scripted_pool):
    """A score arrives with a game's last step, so rewards of the opening are scripted by hand."""
    pool = scripted_pool([[(9, 10.0)], [(2, 50.0), (5, 7.0)], [(4, 3.0), (1, 60.0)]])
    played = []

    def policy(name):
        def act(observations, key, indices, seats):
            played.append((name, jax.random.key_data(key).tolist()))
            if len(played) == 3:
                # Slot 0 has made 4 points of its 10 by now.
                pool.last.scores[0] += 4
            return _still(observations, key, indices, seats)

        return act

    opening = _AnyState(policy("other"), 3, policy("random"), protocols.REPORTING)
    (result,) = _play([pool], policy("own"), opening=opening)
    # Slot 0: 10 + 4 in all, 4 of them in the opening. Slot 1's first game ended in it: its second
    # is opened in its turn, and measured from its fourth step on. Slot 2's has one step left.
    assert result.scores.tolist() == [10, 7, 3]
    assert result.lengths.tolist() == [6, 2, 1]
    # Turns 0-2 open for all; then slots 0 and 2 are the policy's own, and slot 1 opens once more
    # (turn 2 only begins its second game, so its first three steps are turns 3 to 5).
    assert [name for name, _ in played] == ["other"] * 3 + ["own", "other"] * 3 + ["own"] * 3
    assert len({str(key) for _, key in played}) == 9


def test_whoever_plays_gives_each_slot_its_own_policys_action(scripted_pool):
    pool = scripted_pool([[(9, 1.0)], [(9, 1.0)], [(2, 1.0), (9, 1.0)]])

    class Second(protocols.Opening):
        def begins(self, seat, start):
            # Seat 1 finds its start two steps after the others.
            return seat != 1 or int(pool.last.ages[1]) >= 5

    opening = Second(_always(7), 3, _always(8), protocols.REPORTING)
    _play([pool], _always(6), opening=opening)
    sent = np.stack(pool.sent).T.tolist()
    assert sent[0] == [7] * 3 + [6] * 6 + [-1] * 3  # over after 9 steps, and stepped no more
    assert sent[1] == [7] * 3 + [8] * 2 + [6] * 4 + [-1] * 3
    # Its first game ends in the opening; the action of turn 2 begins the next one.
    assert sent[2][:2] + sent[2][3:] == [7] * 2 + [7] * 3 + [6] * 6


def test_what_is_sent_to_a_game_that_is_over_is_valid_too(scripted_pool):
    """Of actions without 0, while another game is opened."""
    pool = scripted_pool([[(2, 1.0), (9, 1.0)], [(9, 1.0)]])
    pool.task = dataclasses.replace(pool.task, actions=(1, 2))
    opening = _AnyState(_always(1), 3, _always(1), protocols.REPORTING)
    _play([pool], _always(2), opening=opening)
    assert {*np.stack(pool.sent).ravel().tolist()} == {-1, 1, 2}


def test_a_game_that_is_over_before_it_starts_is_an_error_and_no_endless_loop(scripted_pool):
    opening = _AnyState(_still, 4, _still, protocols.REPORTING)
    said = "pong: with an opening of 4 steps, 20 games ended in their opening; give fewer steps"
    for length in (3, 4):
        with pytest.raises(ValueError, match=said) as error:
            _play([scripted_pool([[(length, 1.0)]])], opening=opening)
    assert "(the suite's opening_steps, or evaluate.opening_steps of a run)" in str(error.value)


def test_games_of_too_few_states_are_not_said_to_be_short(scripted_pool):
    class NoState(protocols.Opening):
        def begins(self, seat, start):
            return False

    opening = NoState(_still, 4, _still, protocols.REPORTING)
    said = "pong: with an opening of 4 steps, 20 games have so few states that they came to none"
    with pytest.raises(ValueError, match=said):
        _play([scripted_pool([[(5, 1.0)]])], opening=opening)


def test_an_opening_of_no_steps_is_none(scripted_pool):
    script = [[(9, 10.0)], [(2, 50.0)]]
    plain, opened = (
        _play([scripted_pool(script)], opening=opening)
        for opening in (None, protocols.Opening(_still, 0, _still, protocols.CHOOSING))
    )
    assert plain[0].to_dict() == opened[0].to_dict()


NAMES = ("breakout",)  # of whose own starts 4 differ


def _starts(steps, side, policy=None, *, share=(0, 1), episodes=12):
    """Scores of a few steps of real games, whose starts are what is looked at."""
    chosen = [tasks.get(name) for name in NAMES]
    played = lessons.of_tasks(chosen, 0, [View(height=42, width=42)] * len(NAMES))
    random = rollouts.random_policy(lessons.choices(played))
    opening = protocols.Opening(random, steps, random, side)
    protocol = protocols.Protocol(purpose=side, seed=0, opening=opening, max_steps=100)
    seats = [range(episodes)] * len(played)
    pools, indices, seats = evaluation.split_pools(played, protocol, seats, share=share)
    return evaluation.play_games(
        pools,
        policy or random,
        protocol.key,
        meshes.create(),
        indices=indices,
        seats=seats,
        opening=protocol.opening,
    )


@pytest.fixture(scope="module")
def chosen_and_reported():
    return [_starts(10, side) for side in (protocols.CHOOSING, protocols.REPORTING)]


def test_games_to_choose_by_and_games_to_report_have_no_start_in_common(chosen_and_reported):
    for chosen, reported in zip(*chosen_and_reported, strict=True):
        assert not set(chosen.starts.tolist()) & set(reported.starts.tolist())
        assert chosen.distinct_starts >= 11 and reported.distinct_starts >= 11
    few = _starts(0, protocols.REPORTING)
    assert few[0].distinct_starts <= 4


def test_every_policy_takes_over_in_the_same_states(chosen_and_reported):
    reported = chosen_and_reported[1]

    def first_action(observations, key, indices, seats):
        return _still(observations, key, indices, seats)

    other = _starts(10, protocols.REPORTING, first_action)
    for a, b in zip(reported, other, strict=True):
        np.testing.assert_array_equal(a.starts, b.starts)
        assert a.scores.tolist() != b.scores.tolist()


def test_an_episode_is_the_same_whatever_is_played_beside_it(chosen_and_reported):
    """As in two processes, each of which plays every second pool: 4 slots in every pool."""
    reported = chosen_and_reported[1]
    halves = [_starts(10, protocols.REPORTING, share=(k, 2)) for k in range(2)]
    for game, whole in enumerate(reported):
        for k in range(2):
            own = [seat for first in range(4 * k, 12, 8) for seat in range(first, first + 4)]
            for field in ("scores", "lengths", "starts"):
                np.testing.assert_array_equal(
                    getattr(halves[k][game], field), getattr(whole, field)[own]
                )


def test_games_cut_by_the_step_limit_are_told_apart_if_they_count(scripted_pool):
    # The second slot ends, and a game that is cut comes too late there.
    pool = scripted_pool([[(2, 1.0, True)], [(2, 2.0), (1, 3.0, True)], [(9, 4.0, True)]])
    (result,) = _play([pool])
    np.testing.assert_array_equal(result.scores, [1, 2, 4])
    assert result.unfinished == 2


def test_a_finished_pool_leaves_and_the_others_stay_right(scripted_pool):
    pools = [
        scripted_pool([[(6, 10.0)], [(7, 12.0)]], game="pong", tag=0),
        scripted_pool([[(2, 20.0)], [(3, 21.0)]], game="breakout", tag=1),
        scripted_pool([[(9, 30.0)], [(20, 31.0)]], game="freeway", tag=2),
    ]
    asked = []

    def policy(observations, key, indices, seats):
        # Each observation carries its game in its last pixel.
        assert [int(x[0, 0, 1, 1]) for x in observations] == list(indices)
        asked.append((indices, jax.random.key_data(key).tolist()))
        return _still(observations, key, indices, seats)

    results = _play(pools, policy)
    assert [r.scores.tolist() for r in results] == [[10, 12], [20, 21], [30, 31]]
    assert [r.lengths.tolist() for r in results] == [[6, 7], [2, 3], [9, 20]]
    # Steps until the slower slot's game has ended.
    assert [len(pool.sent) for pool in pools] == [7, 3, 20]
    present = [indices for indices, _ in asked]
    assert present == [(0, 1, 2)] * 3 + [(0, 2)] * 4 + [(2,)] * 13
    assert len({str(key) for _, key in asked}) == 20, "every turn needs a key of its own"


def test_many_games_are_asked_for_one_by_one_and_score_the_same(scripted_pool, monkeypatch):
    """So that a game that gets shorter needs no program that all the others are part of."""

    def played():
        pools = [
            scripted_pool([[(2 + game, game)], [(9 if game else 3, 20.0)]], tag=game)
            for game in range(9)
        ]
        asked = []

        def policy(observations, key, indices, seats):
            asked.append(indices)
            for game, x in zip(indices, observations, strict=True):
                assert (np.asarray(x)[0, 0, 1, 1] == game).all(), "each is shown what is its own"
            return _still(observations, key, indices, seats)

        return [x.to_dict() for x in _play(pools, policy)], asked

    one_by_one, asked = played()
    # The first game is played after three steps; the last alone has a tenth.
    eight = [tuple(range(1, 9))] * 6 + [(8,)]
    assert asked == [(game,) for game in range(9)] * 3 + eight
    monkeypatch.setattr(evaluation, "_TOGETHER", 9)
    together, asked = played()
    assert asked == [tuple(range(9))] * 3 + eight
    assert one_by_one == together


def test_several_pools_of_a_game_are_one_score_in_the_order_of_pools_and_slots(scripted_pool):
    pools = [
        scripted_pool([[(3, 1.0)], [(9, 2.0, True)]], tag=0),
        scripted_pool([[(2, 3.0)]], tag=0),
        scripted_pool([[(5, 4.0)], [(4, 5.0)]], tag=1),
        scripted_pool([[(7, 6.0)], [(1, 7.0)]], tag=1),
    ]
    asked = []

    def policy(observations, key, indices, seats):
        # One batch per game; rows of games that still go on come first, each painted with its game.
        turn = len(asked)
        alive = [sum(length > turn for length in lengths) for lengths in ((3, 9, 2), (5, 4, 7, 1))]
        for game, x in zip(indices, observations, strict=True):
            assert (np.asarray(x)[: alive[game], 0, 1, 1] == game).all()
            assert len(x) in (2, 4)  # a whole pool, or padded: few sizes are compiled
        asked.append(indices)
        return _still(observations, key, indices, seats)

    results = _play(pools, policy, indices=[0, 0, 1, 1])
    assert [r.scores.tolist() for r in results] == [[1, 2, 3], [4, 5, 6, 7]]
    assert [r.lengths.tolist() for r in results] == [[3, 9, 2], [5, 4, 7, 1]]
    assert [r.unfinished for r in results] == [1, 0]
    # A pool whose games are all played is stepped no more, nor is any slot.
    assert [len(pool.sent) for pool in pools] == [9, 2, 5, 7]
    assert sum((np.stack(pool.sent) >= 0).sum() for pool in pools) == (3 + 9 + 2) + (5 + 4 + 7 + 1)
    assert asked == [(0, 1)] * 7 + [(0,)] * 2


def test_split_pools_begin_the_games_that_one_pool_of_all_episodes_would():
    chosen = [tasks.get("pong"), tasks.get("breakout")]
    views = [View(height=10, width=12), View(height=10, width=12, stack=2)]
    played = lessons.of_tasks(chosen, 7, views)
    protocol = protocols.Protocol(lessons.REPORT, 7, NO_OPENING, max_steps=3)
    pools, indices, seats = evaluation.split_pools(played, protocol, [range(5)] * 2)
    assert [s.tolist() for s in seats] == [[0, 1, 2, 3], [4]] * 2
    assert sum(pool.num_envs for pool in pools) == 2 * 5
    assert [pool.task for pool in pools] == [chosen[i] for i in indices]
    assert indices == sorted(indices) and set(indices) == {0, 1}
    for index in (0, 1):
        mine = [pool for pool, i in zip(pools, indices, strict=True) if i == index]
        seed = seed_for(7, lessons.REPORT, chosen[index].number)
        whole = atari.AtariPool(chosen[index], 5, seed=seed, view=views[index])
        together = np.concatenate([pool.last.observations for pool in mine])
        np.testing.assert_array_equal(together, whole.last.observations)
    results = _play(pools, indices=indices)
    assert [len(r.scores) for r in results] == [5, 5]
    assert [r.unfinished for r in results] == [5, 5]
    assert [set(r.lengths) for r in results] == [{3}, {3}]
    # Some seats alone, of each lesson its own.
    some = [range(2, 5), range(3, 4)]
    pools, indices, seats = evaluation.split_pools(played, protocol, some)
    assert [s.tolist() for s in seats] == [[2, 3, 4], [3]] and indices == [0, 1]
    whole = evaluation.measure(played, _by_seat, protocol, 5, meshes.create())
    asked = []

    def noted(observations, key, indices, seats):
        asked.append([own.tolist() for own in seats])
        return _by_seat(observations, key, indices, seats)

    parts = evaluation.measure(played, noted, protocol, some, meshes.create())
    assert asked[0] == [[2, 3, 4], [3]]
    for every, part, games in zip(whole, parts, some, strict=True):
        assert part.starts.tolist() == every.starts[games].tolist()
        assert part.scores.tolist() == every.scores[games].tolist()


def test_processes_share_lessons_of_which_unequally_many_games_are_missing(monkeypatch):
    """Each plays every second pool, and all are told of all games; warnings are errors."""
    played = lessons.of_tasks([tasks.get("pong"), tasks.get("breakout")], 7, [View(10, 12)] * 2)
    protocol = protocols.Protocol(lessons.REPORT, 7, NO_OPENING, max_steps=3)
    some = [range(2, 8), range(3, 4)]  # pools of four games: of two, of one
    alone = evaluation.measure(played, _by_seat, protocol, some, ONE)
    tables = []

    def gather(table, axis):
        tables.append(table)
        if len(tables) < 2:
            raise InterruptedError
        return np.concatenate(tables, axis)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(evaluation.meshes, "gather", gather)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(InterruptedError):
        evaluation.measure(played, _by_seat, protocol, some, ONE)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    shared = evaluation.measure(played, _by_seat, protocol, some, ONE)
    assert [x.to_dict() for x in shared] == [x.to_dict() for x in alone]
    assert [len(x.scores) for x in shared] == [6, 1]


def _by_seat(observations, key, indices, seats):
    """Seat 3 walks to the right, the others stand still."""
    return tuple(np.where(seat == 3, 3, 0) for seat in seats), None


class _FourEach(combat.Combat):
    """Combat in pools of four."""

    suite = dataclasses.replace(combat.COMBAT, pool_size=4)


@functools.cache
def _fought(kind, episodes=10, max_steps=150):
    """Two tasks of combat, played at random by keys and angles with openings of 30 steps."""
    fields = [dataclasses.fields(combat.Combat), (combat.CLICKING, combat.duel(10))]
    played = [kind(**{f.name: getattr(task, f.name) for f in fields[0]}) for task in fields[1]]
    chosen = lessons.of_tasks(played, 3)
    policy = rollouts.random_policy(lessons.choices(chosen))
    opening = protocols.Opening(policy, 30, policy, protocols.REPORTING)
    protocol = protocols.Protocol(lessons.REPORT, 0, opening, max_steps)
    pools = evaluation.split_pools(chosen, protocol, [range(episodes)] * 2)[0]
    sizes = [(pool.task.name, pool.num_envs) for pool in pools]
    return sizes, evaluation.measure(chosen, policy, protocol, episodes, meshes.create())


def test_one_pool_of_all_episodes_plays_what_small_pools_play():
    (large, whole), (small, split) = _fought(combat.Combat), _fought(_FourEach)
    names = ["combat/clicking", "combat/duel_10hp"]
    assert large == [(name, 10) for name in names]
    assert small == [(name, size) for name in names for size in (4, 4, 2)]
    for one, other in zip(whole, split, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.lengths, other.lengths)
        np.testing.assert_array_equal(one.starts, other.starts)
        assert one.unfinished == other.unfinished == 10
        for name, numbers in one.facts.items():
            np.testing.assert_array_equal(numbers, other.facts[name], err_msg=name)
        assert one.distinct_starts == 10


def test_each_task_is_told_of_what_says_something_of_it():
    clicking, duel = _fought(combat.Combat)[1]
    assert tuple(clicking.facts) == combat.CLICKING.facts == ("dealt", "hit_rate")
    assert tuple(duel.facts) == combat.DUEL.facts and "near" not in duel.facts
    assert clicking.facts["dealt"].sum() > 0 and (duel.facts["taken"] >= 0).all()
    # A duel is won, drawn or lost.
    ends = sum(duel.facts[name] for name in ("won", "drawn", "lost"))
    np.testing.assert_array_equal(ends, np.ones(10))
    summary = clicking.summary()["facts"]
    assert list(summary) == ["dealt", "hit_rate"]
    assert summary["dealt"]["mean"] == pytest.approx(clicking.facts["dealt"].mean())


def test_progress_counts_every_game_that_counts_once(scripted_pool):
    ended = []
    pools = [scripted_pool([[(2, 1.0)], [(17, 1.0)]]), scripted_pool([[(3, 1.0)]] * 3)]
    _play(pools, advance=ended.append)
    assert sum(ended) == 2 + 3
    assert min(ended) >= 1


def test_progress_is_told_of_real_games_too():
    ended = []
    chosen = [tasks.get(name) for name in ("pong", "carnival")]
    evaluation.measure(
        lessons.of_tasks(chosen, 1),
        _still,
        protocols.Protocol(lessons.SELECT, 1, NO_OPENING, max_steps=3),
        5,
        meshes.create(),
        advance=ended.append,
    )
    assert sum(ended) == 2 * 5 and 0 not in ended


def test_play_is_left_when_the_machine_is_taken_away(scripted_pool, monkeypatch):
    monkeypatch.setattr(preemption, "_asked", True)
    pool = scripted_pool([[(5, 1.0)]])
    with pytest.raises(preemption.Preempted):
        _play([pool])
    assert len(pool.sent) <= 1


def test_a_pool_in_the_middle_of_a_game_is_refused(scripted_pool):
    fresh, stale = scripted_pool([[(5, 1.0)]]), scripted_pool([[(5, 1.0)]], game="breakout")
    stale.send(np.zeros(1, int))
    stale.receive()
    with pytest.raises(ValueError, match="breakout: evaluation needs a fresh pool"):
        _play([fresh, stale])
    assert not fresh.sent
