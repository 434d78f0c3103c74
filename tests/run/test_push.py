"""Students pushed to a hub on this machine: what is there then, and what is refused before."""

import errno
import json
import os

import jax
import numpy as np
import pytest

import jaxdistill
from jaxdistill import disk, networks, tasks
from jaxdistill.experts import formats, hub
from jaxdistill.experts.student import Role, Student, is_student
from jaxdistill.run import push
from jaxdistill.tasks.views import View

yaml = pytest.importorskip("yaml")
# By huggingface_hub, where it stores a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
GAMES = ("pong", "breakout")


def _played(mean, low, high, episodes=100):
    return {"mean": mean, "interval": [low, high], "episodes": episodes}


def _row(game, random, expert, student):
    kept = {"retention": 0.94, "retention_interval": [0.9, 0.98], "human_normalised": 0.5}
    return {"game": game, "random": random, "expert": expert, "student": student} | kept


MEASURED = {
    "games": [
        _row("pong", _played(-20.3, -20.5, -20.0), _played(15.3, 14.6, 16.0), _played(13, 11, 14)),
        _row("breakout", _played(1.3, 1, 2), _played(90, 83, 97), _played(89, 82, 96, 256)),
    ],
    "episodes": 256,
    "epsilon": 0.05,
    "opening_steps": 10,
    "opening_by": "random",
}
CARD = {"made": {"method": "distillation"}, "measured": MEASURED, "license": None}
SOURCES = (f"hf://sb3/dqn-Pong@{'a' * 40}/dqn-Pong.zip", "/home/me/secret/a|b.pth")


def _student(card=CARD):
    chosen = [tasks.get(game) for game in GAMES]
    module = networks.for_tasks(networks.create("net3"), chosen)
    wanted = jax.eval_shape(lambda: networks.init(module, jax.random.key(0), (4, 84, 84)))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(x.dtype), wanted)
    roles = tuple(
        Role(task.name, View(), task.actions, f"{task.name} expert", source)
        for task, source in zip(chosen, SOURCES, strict=True)
    )
    return Student("mine", module, params, "q", roles, card=card)


@pytest.fixture
def standing(tmp_path):
    """Where a student that is measured is written."""
    _student().save(tmp_path / "student")
    return tmp_path / "student"


def _metadata(text):
    _, front, body = text.decode().split("---\n", 2)
    return yaml.safe_load(front), body


def test_what_is_pushed_is_loaded_back(server, standing, tmp_path, monkeypatch):
    address = push.push(standing, "me/both", license="mit")
    commit = server.repositories["me/both"].branches["main"]
    assert address == f"hf://me/both@{commit}" and not server.repositories["me/both"].private
    files = server.repositories["me/both"].commits[commit]
    assert set(files) == {"policy.json", "policy.safetensors", "README.md"}
    assert json.loads(files["policy.json"])["card"]["license"] == "mit"
    policy = jaxdistill.load("hf://me/both")
    own = Student.load(standing)
    for game in GAMES:
        params = own.expert(game).params
        assert jax.tree.all(jax.tree.map(np.array_equal, policy.experts[game].params, params))
        assert formats.load(address, game=game).source == address
    # The card's score is what the student promises where it is an expert.
    assert formats.load(address, game="pong").advertised_score == 13
    assert formats.load(address, game="breakout").advertised_score == 89
    # Of games that were cut it promises nothing of whole ones.
    cut = _student(CARD | {"measured": MEASURED | {"max_steps": 200}})
    assert cut.max_steps == 200
    cut.save(tmp_path / "cut")
    short = push.push(tmp_path / "cut", "me/cut", license="mit")
    assert formats.load(short, game="pong").advertised_score is None

    assert push.push(standing, "me/both", license="mit") == address
    again = push.push(standing, "me/both", license="apache-2.0")
    assert again != address and formats.load("hf://me/both", game="pong").source == again

    # A dry run writes the same, once there is room for all of it.
    def full(path, mode):
        if path.name == "README.md.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode)

    monkeypatch.setattr(disk, "open", full, raising=False)
    said = r"dry/README\.md cannot be written \(No space left on device\)$"
    with pytest.raises(OSError, match=said):
        push.push(standing, "me/both", license="apache-2.0", dry_run=tmp_path / "dry")
    monkeypatch.undo()
    push.push(standing, "me/both", license="apache-2.0", dry_run=tmp_path / "dry")
    written = {path.name: path.read_bytes() for path in (tmp_path / "dry").iterdir()}
    assert written == server.repositories["me/both"].commits[again.partition("@")[2]]


@pytest.mark.parametrize("name", ["README.md", "policy.safetensors", "policy.json"])
def test_a_dry_run_that_is_killed_leaves_no_half_of_a_student(
    server, standing, tmp_path, monkeypatch, name
):
    where, replace = tmp_path / "dry", os.replace

    def killed(partial, path):
        if path == where / name:
            raise KeyboardInterrupt
        replace(partial, path)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        push.push(standing, "me/killed", dry_run=where)
    assert where.is_dir() and not is_student(where)


def test_the_card_says_how_it_plays(server, standing):
    push.push(standing, "me/card")
    repository = server.repositories["me/card"]
    files = repository.commits[repository.branches["main"]]
    metadata, body = _metadata(files["README.md"])
    assert metadata["library_name"] == "jaxdistill" and "license" not in metadata
    assert {"reinforcement-learning", "jaxdistill", "ALE/Pong-v5"} <= set(metadata["tags"])
    assert metadata["base_model"] == ["sb3/dqn-Pong"]
    (index,) = metadata["model-index"]
    pong, breakout = index["results"]
    assert index["name"] == "card" and pong["dataset"] == {
        "name": "ALE/Pong-v5",
        "type": "ALE/Pong-v5",
    }
    (metric,) = breakout["metrics"]
    assert metric["type"] == "mean_reward" and metric["value"] == 89
    assert metric["args"] == {"interval_95": [82, 96], "episodes": 256, "epsilon": 0.05}
    assert (
        "| pong | -20.3 | 15.3 \\[14.6, 16.0\\] | 13.0 \\[11.0, 14.0\\] | 94% \\[90, 98\\] |"
        in body
    )
    assert "100 to 256 whole games per score, after 10 or more steps of random play" in body
    assert "jaxdistill evaluate --expert=hf://me/card --game=pong" in body
    assert 'jaxdistill.load("hf://me/card")' in body and "clips/" not in body
    assert f"| pong | pong expert | {SOURCES[0]} |" in body
    assert "| breakout | breakout expert | a\\|b.pth |" in body and "secret" not in body


def test_a_branch_and_a_private_repository(server, standing, tmp_path):
    push.push(standing, "me/branches")
    main = server.repositories["me/branches"].branches["main"]
    address = push.push(standing, "me/branches", revision="next", license="mit")
    branches = server.repositories["me/branches"].branches
    assert branches["main"] == main != branches["next"] == address.partition("@")[2]
    card = server.repositories["me/branches"].commits[branches["next"]]["README.md"].decode()
    assert "--expert=hf://me/branches@next" in card
    assert formats.load("hf://me/branches@next", game="pong").source == address

    push.push(standing, "me/private", private=True)
    assert server.repositories["me/private"].private
    push.push(standing, "me/private", private=True, license="mit")  # and again
    with pytest.raises(ValueError, match="is there and public, and nothing was pushed"):
        push.push(standing, "me/branches", private=True, license="mit")
    assert branches["main"] == main

    # A dry run refuses what a push would.
    with pytest.raises(ValueError, match="revision is 'a/b', which no address can name"):
        push.push(standing, "me/branches", revision="a/b", dry_run=tmp_path / "dry")
    own = push.push(standing, "me/branches", revision="refs/pr/1", dry_run=tmp_path / "dry")
    assert own == "hf://me/branches@refs/pr/1"


def test_what_was_shown_of_another_student_is_taken_away(server, standing):
    kept = {"notes.md": b"mine", "clips/qbert.mp4": b"mine", "clips/of/qbert.gif": b"mine"}
    before = {"report.html": b"of another", "clips/qbert.gif": b"of another", "README.md": b"old"}
    before |= {"policy.json": b"{}", "policy.safetensors": b"old"}
    server.publish("me/again", kept | before)
    repository = server.repositories["me/again"]
    repository.branches["next"] = main = repository.branches["main"]
    push.push(standing, "me/again", revision="next")
    assert repository.branches["main"] == main, "which has its own"
    own = {"policy.json", "policy.safetensors", "README.md"}
    assert set(repository.commits[repository.branches["next"]]) == own | set(kept)
    push.push(standing, "me/again")
    assert set(repository.commits[repository.branches["main"]]) == own | set(kept)


@pytest.mark.parametrize("revision", [None, "main", "next", "new"])
def test_a_repository_of_something_else_is_left_as_it_is(server, standing, revision):
    """Its card is another's, and so are its report and its clips."""
    files = {"README.md": b"mine", "report.html": b"mine", "model.pth": b"mine"}
    server.publish("me/other", files | {"policy.json": b"{}"})
    repository = server.repositories["me/other"]
    repository.branches["next"] = repository.branches["main"]
    before = dict(repository.branches)
    with pytest.raises(ValueError, match=r"^hf://me/other.* holds files and no student of jaxdist"):
        push.push(standing, "me/other", revision=revision)
    assert repository.branches == before
    # One that the hub has just made holds this.
    server.publish("me/new", {".gitattributes": b"*.safetensors filter=lfs"})
    push.push(standing, "me/new", revision=revision)


@pytest.mark.parametrize(
    "change",
    [
        {"measured": [3]},
        {"measured": {k: v for k, v in MEASURED.items() if k != "epsilon"}},
        {"measured": MEASURED | {"epsilon": "much"}},
        {"measured": MEASURED | {"games": [3]}},
        {"measured": MEASURED | {"games": [3, *MEASURED["games"]]}},
        {"measured": MEASURED | {"games": [row | {"random": 1} for row in MEASURED["games"]]}},
        {"measured": MEASURED | {"games": [row | {"student": 1} for row in MEASURED["games"]]}},
    ],
    ids=str,
)
def test_a_card_that_somebody_else_wrote_is_one_line(server, tmp_path, change):
    _student(CARD | change).save(tmp_path / "student")
    with pytest.raises(
        ValueError, match=r"/student(: what it says of its scores| has no scores of)"
    ) as e:
        push.push(tmp_path / "student", "me/none", dry_run=tmp_path / "dry")
    assert "\n" not in str(e.value) and not (tmp_path / "dry").exists()


def test_what_a_card_says_is_no_markdown(server, tmp_path):
    """Nor has one game an interval."""
    rows = [row | {"student": _played(1.0, None, None, 1)} for row in MEASURED["games"]]
    measured = MEASURED | {"opening_by": "[x](http://x)\n# y", "games": rows}
    for made, told in (([], "distillation"), ({"method": "<b>*it*</b>"}, r"\<b\>\*it\*\</b\>")):
        folder = tmp_path / str(len(made))
        _student({"made": made, "measured": measured}).save(folder)
        text = push.files_of(folder, hub.parse("hf://me/card"))["README.md"]
        metadata, body = _metadata(text)
        assert f"{told} with jaxdistill" in body and r"\[x\](http://x)\\n# y play" in body
        assert "| 1.0 \\[-, -\\] |" in body
        (metric, *_) = metadata["model-index"][0]["results"][0]["metrics"]
        assert metric["args"] == {"episodes": 1, "epsilon": 0.05}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repository": "both"}, "hf://both is no address of the hub"),
        ({"repository": "me/both/"}, "repo is 'me/both/', expected USER/NAME"),
        ({"repository": "me/both@main"}, "repo is 'me/both@main', expected USER/NAME"),
        ({"revision": "a b"}, "hf://me/none@a b is no address of the hub"),
        ({"revision": "feature/x"}, "revision is 'feature/x', which no address can name; expected"),
        ({"revision": "x/"}, "revision is 'x/', which no address can name; expected one without"),
        ({"license": "MIT License"}, "license is 'MIT License', expected the hub's name of it"),
        ({"card": CARD | {"measured": {}}}, "has no scores of pong, breakout; let its run come to"),
        ({"card": {}}, "has no scores of pong, breakout"),
        ({"token": ""}, "takes a token that may write; log in with `hf auth login`, or set HF_"),
        ({"token": "hf_another"}, "does not allow it with this token; log in with"),
    ],
)
def test_nothing_is_pushed_where_something_is_missing(server, tmp_path, monkeypatch, options, said):
    _student(options.pop("card", CARD)).save(tmp_path / "student")
    monkeypatch.setenv("HF_TOKEN", options.pop("token", "hf_local"))
    with pytest.raises((ValueError, OSError)) as error:
        push.push(tmp_path / "student", **({"repository": "me/none"} | options))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert "me/none" not in server.repositories


def test_a_push_that_ends_in_the_middle_leaves_what_was_there(
    server, standing, tmp_path, monkeypatch
):
    push.push(standing, "me/whole")
    before = dict(server.repositories["me/whole"].branches)
    monkeypatch.setattr(server, "fails", "/commit/")
    with pytest.raises(OSError, match=r"hf://me/whole: .* answers 501"):
        push.push(standing, "me/whole", license="mit")
    assert server.repositories["me/whole"].branches == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ValueError, match="full is not empty; choose another --dry_run"):
        push.push(standing, "me/whole", dry_run=tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        push.push(tmp_path / "nothing", "me/whole")
