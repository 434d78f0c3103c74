"""A student's card as somebody reads it who has nothing but the card."""

import dataclasses
import re
import sys
import types
from typing import ClassVar

import jax
import numpy as np
import pytest

from configs import merge
from jaxdistill import networks, tasks
from jaxdistill import settings as settings_lib
from jaxdistill.experts import hub
from jaxdistill.experts.student import Role, Student
from jaxdistill.report import card
from jaxdistill.run import distill_settings
from jaxdistill.tasks import lander
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.tasks.views import View

pytest.importorskip("huggingface_hub")
ADDRESS = "hf://me/card"


@dataclasses.dataclass(frozen=True)
class Corridor(Task):
    suite: ClassVar[Suite] = lander.LANDER

    def pool(self, num_envs, **options):
        raise NotImplementedError

    def camera(self, **options):
        raise NotImplementedError


@pytest.fixture
def corridor(monkeypatch):
    monkeypatch.setattr(tasks, "_added", {})
    tasks.add(Corridor("corridor/short", (0, 1), 5))
    yield "corridor/short"
    tasks._added.clear()
    tasks.names.cache_clear()
    tasks._by_key.cache_clear()


def student_of(game, network, view):
    module = networks.for_tasks(networks.create(network), [tasks.get(game)])
    params = networks.init(module, jax.random.key(0), view.shape)
    role = Role(game, view, tasks.get(game).actions, "an expert", "x.pth")
    played = {"mean": 1.0, "interval": [0.5, 1.5], "episodes": 100}
    row = {"game": game, "random": played, "expert": played, "student": played}
    row |= {"retention": 0.9, "retention_interval": [0.8, 1.0], "human_normalised": None}
    measured = {"games": [row], "episodes": 100, "epsilon": 0.0}
    measured |= {"opening_steps": 0, "opening_by": "random"}
    return Student("mine", module, params, "q", (role,), card={"made": {}, "measured": measured})


def run_python_of(text, path):
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    names = {}
    exec(block.replace(ADDRESS, str(path)), names)
    return names


@pytest.mark.parametrize(
    ("game", "network", "view"),
    [("pong", "net3", View()), ("lander/windy", "mlp", lander.LANDER.view)],
)
def test_its_python_runs_as_it_stands(game, network, view, tmp_path):
    student = student_of(game, network, view)
    student.save(tmp_path / "student")
    text = card.text(student, hub.parse(ADDRESS))
    assert run_python_of(text, tmp_path / "student")["actions"].shape == (1,)
    assert "--import" not in text


@pytest.mark.parametrize("game", ["pong", "lander/windy", "combat/aiming"])
def test_its_student_is_distilled_again_by_what_it_says(game):
    task = tasks.get(game)
    network = {"pong": "net3", "lander/windy": "mlp"}.get(game, "skills")
    text = card.text(student_of(game, network, task.suite.view), hub.parse(ADDRESS))
    (command,) = re.findall(r"`jaxdistill distill --config=merge:(.*)`", text)
    said, _, *fields = command.split()
    assert said == f"{game}={ADDRESS}"
    settings = settings_lib.build(distill_settings.Settings, merge.get_config(said).to_dict())
    for field in fields:
        settings = dataclasses.replace(settings, network=field.removeprefix("--config.network="))
    assert len(fields) == (game != "pong")
    distill_settings.network_of(settings, [task], task.suite.view)


def test_experts_that_play_together_come_from_all_their_files():
    student = student_of("pong", "net3", View())
    for source, said in (
        ("runs/aim.pth + hf://me/move@v1 + runs/click", "aim.pth, hf://me/move@v1, click"),
        ("runs/aim.pth", "aim.pth"),
    ):
        role = dataclasses.replace(student.roles[0], source=source)
        text = card.text(dataclasses.replace(student, roles=(role,)), hub.parse(ADDRESS))
        assert f"| pong | an expert | {said} |" in text


def test_a_task_of_one_s_own_needs_its_file(corridor, tmp_path, monkeypatch):
    student = student_of(corridor, "mlp", lander.LANDER.view)
    student.save(tmp_path / "student")
    text = card.text(student, hub.parse(ADDRESS))
    commands = [line for line in text.splitlines() if "jaxdistill " in line and "--expert=" in line]
    assert len(commands) == 2 and all("--import=FILE" in line for line in commands)
    assert "--workdir=DIR --config.network=mlp --import=FILE`" in text
    said = "corridor/short: of a file that does not come with jaxdistill. Every command needs your"
    assert f"{said} file: --import=FILE" in text
    monkeypatch.setitem(sys.modules, "FILE", types.ModuleType("FILE"))
    names = run_python_of(text, tmp_path / "student")
    assert "FILE" in names and np.isin(names["actions"], (0, 1)).all()


@pytest.mark.parametrize(
    ("rules", "whole"),
    [(Rules(), True), (Rules(noop_max=1), True), (Rules(end_at_life=True), False)],
    ids=["usual", "nearly usual", "lives"],
)
def test_what_one_life_scores_is_not_called_the_score_of_whole_games(rules, whole):
    student = dataclasses.replace(student_of("pong", "net3", View()), rules=rules)
    text = card.text(student, hub.parse(ADDRESS))
    assert ("whole_games: false" not in text) == ("whole_games" not in text) == whole


def test_a_step_limit_is_told_where_it_is_not_the_task_s_own():
    student = student_of("pong", "net3", View())
    measured = student.card["measured"]
    for limit, told in ((None, False), (27_000, False), (200, True), (54_000, True)):
        card_of = {**student.card, "measured": {**measured, "max_steps": limit}}
        text = card.text(dataclasses.replace(student, card=card_of), hub.parse(ADDRESS))
        assert (f"of at most {limit} steps" in text) == told == ("of at most" in text)
