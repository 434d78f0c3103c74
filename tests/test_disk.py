"""Tests for files that appear whole or not at all."""

import json
import os
import pathlib

import pytest

from jaxdistill import disk


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    disk.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        disk.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    disk.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"new": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


FULL = pathlib.Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's full device")
def test_a_full_disk_names_the_json_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "x.json"
    disk.write_json(path, {"old": 1})
    (tmp_path / "x.json.partial").symlink_to(FULL)
    with pytest.raises(OSError, match=r"/x\.json cannot be written \(No space left on device\)$"):
        disk.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1} and [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("full", ["one", "other"])
def test_of_several_files_none_is_replaced_unless_all_are_written(tmp_path, full):
    one, other = (tmp_path / "new" / name for name in ("one", "other"))
    with pytest.raises(OSError, match=r"new/one cannot be written \(No such file or directory\)$"):
        disk.write_files({one: b"1", other: b"2"})
    disk.write_files({one: b"1", other: b"2"}, folder=True)
    (one.parent / f"{full}.partial").symlink_to(FULL)
    with pytest.raises(OSError, match=rf"new/{full} cannot be written \(No space left"):
        disk.write_files({one: b"3", other: b"4"})
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    disk.write_files({str(one): b"3", other: b"4"})
    assert (one.read_bytes(), other.read_bytes()) == (b"3", b"4")
    assert sorted(one.parent.iterdir()) == [one, other]


def test_json_that_several_write_at_once_is_one_s_whole(tmp_path, monkeypatch):
    path, replace, seen = tmp_path / "of_all.json", os.replace, []

    def replace_late(*names):
        monkeypatch.setattr(os, "replace", replace)
        disk.write_json(path, {"other": [0] * 99}, alone=False)
        seen.append(disk.read_json(path, "write it again"))
        replace(*names)

    monkeypatch.setattr(os, "replace", replace_late)
    disk.write_json(path, {"one": 1}, alone=False)
    assert seen == [{"other": [0] * 99}] and disk.read_json(path, "") == {"one": 1}
    assert [*tmp_path.iterdir()] == [path]


def test_json_has_null_for_what_is_no_number_and_reads_back(tmp_path):
    path = tmp_path / "x.json"
    nan, inf = float("nan"), float("inf")
    disk.write_json(path, {"a": nan, "b": [1.5, (-inf, 2)], "c": {"d": inf}, "e": "NaN"})

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    back = json.loads(path.read_text(), parse_constant=refuse)
    assert back == {"a": None, "b": [1.5, [None, 2]], "c": {"d": None}, "e": "NaN"}
