"""What a spec leaves open is tried with every likely answer, and the file is read once for all."""

import pathlib

import numpy as np

from jaxdistill.experts import formats, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.networks import Network
from jaxdistill.play import measuring, spec_trials
from jaxdistill.tasks.views import Screen, View

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def test_file_and_spec_of_the_hub_are_fetched_and_read_once_for_all_answers(
    server, tmp_path, monkeypatch
):
    weights, spec = ((GOLDEN / f"expert_dueling.{end}").read_bytes() for end in ("pth", "toml"))
    commit = server.publish("me/tried", {"x.pth": weights, "x.toml": spec, "README.md": b"A card."})
    read, reads = torch_file.read, []
    monkeypatch.setattr(torch_file, "read", lambda path: reads.append(path) or read(path))
    found = spec_trials.experts("hf://me/tried/x.pth", "hf://me/tried/x.toml", rules="noop_max=1")
    fetched = [x.rpartition("/")[2] for x in server.requests if x.startswith("GET /me/tried/")]
    assert sorted(fetched) == ["README.md", "x.pth", "x.toml"] and len(reads) == 1

    answers = [tuple(said.values()) for said, _ in found]
    orders, flattens = ("oldest_first", "newest_first"), ("channels_first", "channels_last")
    assert answers == [(order, flatten) for order in orders for flatten in flattens]
    seen = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), np.uint8)
    (tmp_path / "x.pth").write_bytes(weights)
    for (order, flatten), (_, expert) in zip(answers, found, strict=True):
        assert expert.source == f"hf://me/tried@{commit}/x.pth"
        assert expert.game == "breakout" and expert.rules.noop_max == 1
        said = f'stack_order = "{order}"\nflatten = "{flatten}"\n{spec.decode()}'
        (tmp_path / "x.toml").write_text(said)
        alone = formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")
        np.testing.assert_array_equal(expert.suite_outputs(seen), alone.suite_outputs(seen))


def test_answers_about_what_is_seen_play_the_same_games(monkeypatch):
    """Games start by what is shown: what all of them see. Where they see alike, that alone."""
    monkeypatch.setattr(measuring, "measure", lambda played, *_: list(played))
    network = Network(convs=(), num_outputs=18)

    def shown(*views):
        tried = [Expert("x", network, {}, "q", tuple(range(18)), x, "breakout") for x in views]
        played = spec_trials.play(tried, episodes=1, epsilon=0.0, seed=0)
        assert [lesson.teacher for lesson in played] == tried
        return {lesson.view for lesson in played}

    area, linear, smooth = (View(resize=how) for how in ("area", "linear", "smooth"))
    assert shown(linear, linear) == {linear}
    for views in ((area, linear), (linear, smooth, View(maximum="none"))):
        (screen,) = shown(*views)
        assert isinstance(screen, Screen)
