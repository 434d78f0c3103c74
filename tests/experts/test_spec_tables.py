"""What a spec says of a screen and of an expert's own game."""

import pathlib

import pytest

from jaxdistill.experts import formats
from jaxdistill.experts.formats import spec as specs
from jaxdistill.experts.sources import ExpertSource, load
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TEXT = (GOLDEN / "expert_dueling.toml").read_text()


def _spec(path, view="", rules=""):
    written = path / "it.toml"
    text = TEXT.replace("[view]", f"[view]\n{view}")
    written.write_text(text if not rules else text.replace("[view]", f"[rules]\n{rules}\n[view]"))
    return written


def test_every_field_of_a_view_and_of_rules_can_be_said(tmp_path):
    view = (
        'gray = "mean"\ngray_last = true\nmaximum = "after"\nspacing = 2\npadding = "zero"\n'
        "difference = true"
    )
    rules = (
        "repeat_action_probability = 0.25\nfire_after_life = true\nnoop_max = 1\nmode = 0\n"
        "difficulty = 0\nend_at_life = true\nframe_skip = 3\nfull_actions = true"
    )
    found = specs.read(_spec(tmp_path, view, rules))
    assert found.rules == Rules(0.25, True, 1, 0, 0, True, 3, True)
    seen = specs.view_of(found, 2)
    plain = specs.view_of(specs.read(_spec(tmp_path)), 2)
    assert plain == View(plain.height, plain.width, plain.stack, plain.resize)
    wanted = {"gray": "mean", "gray_last": True, "maximum": "after", "spacing": 2}
    assert seen.to_dict() == plain.to_dict() | wanted | {"padding": "zero", "difference": True}


def test_frames_in_colour_are_three_channels_each(tmp_path):
    text = TEXT.replace("[view]", '[view]\ngray = "none"')
    found = specs.read(_spec(tmp_path, 'gray = "none"'))
    said = {name: x for name, x in found.view.items() if name != "stack"}
    assert 'gray = "none"' in text
    assert specs.view_of(specs.dataclasses.replace(found, view=said), 12).stack == 4


@pytest.mark.parametrize(
    ("view", "rules", "message"),
    [
        ("", "sticky = 1", r"it\.toml: rules\.sticky is unknown; known fields: repeat_action_"),
        ("", "noop_max = 0", r"it\.toml: rules\.noop_max is 0, expected 1 to 1000"),
        ("", "fire_after_life = 1", r"rules\.fire_after_life is 1, expected bool"),
        ("gray_last = 1", "", "gray_last is 1, expected true or false"),
        ('maximum = "both"', "", "maximum is 'both', expected one of before, after, none"),
        ("skip = 2", "", r"view\.skip: unknown field; known fields: height, .*channels_last"),
    ],
)
def test_what_cannot_be_said_is_one_line(tmp_path, view, rules, message):
    with pytest.raises(ValueError, match=message) as error:
        specs.read(_spec(tmp_path, view, rules))
    assert "\n" not in str(error.value)


def test_an_expert_has_the_rules_of_its_spec_and_changes_beside_it(tmp_path):
    file, spec = str(GOLDEN / "expert_dueling.pth"), str(_spec(tmp_path, "", "noop_max = 1"))
    assert formats.load(file, spec=spec).rules == Rules(noop_max=1)
    changed = load(ExpertSource(file, spec, rules="fire_after_life=true"))
    assert changed.rules == Rules(noop_max=1, fire_after_life=True)
    assert load(ExpertSource(file, spec)).rules == Rules(noop_max=1)
    with pytest.raises(ValueError, match="rules: found 'sticky=1'"):
        load(ExpertSource(file, spec, rules="sticky=1"))
