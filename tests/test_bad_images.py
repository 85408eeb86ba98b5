"""The list of bad images, read back line by line."""

import json
from pathlib import Path

import pytest

from vggnet import InputError
from vggnet.bad_images import BadImages


def test_each_image_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    report = BadImages(path)
    assert not path.exists()
    report.add("a.jpg", "broken", epoch=1, step=3)
    report.add("a.jpg", "broken", epoch=2, step=5)
    report.add("ä.jpg", "gone")
    assert report.count == 2
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"path": "a.jpg", "reason": "broken", "epoch": 1, "step": 3},
        {"path": "ä.jpg", "reason": "gone"},
    ]
    resumed = BadImages(path)
    resumed.add("a.jpg", "broken")
    resumed.add("c.jpg", "broken")
    assert resumed.count == 2
    assert len(path.read_text().splitlines()) == 3
    anew = BadImages(path, anew=True)
    assert len(path.read_text().splitlines()) == 3
    anew.add("d.jpg", "broken")
    anew.add("e.jpg", "broken")
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == [
        "d.jpg",
        "e.jpg",
    ]


def test_a_list_that_cannot_be_written_still_counts(tmp_path: Path) -> None:
    report = BadImages(tmp_path / "nowhere" / "bad.jsonl")
    report.add("a.jpg", "broken")
    report.add("b.jpg", "broken")
    assert report.count == 2


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"path": "a.jpg", "reason": "broken"}\n[1]\n{"path": "b.j')
    report = BadImages(path)
    report.add("b.jpg", "broken")
    report.add("a.jpg", "broken")
    assert report.count == 2
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1]) == {"path": "b.jpg", "reason": "broken"}


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bad-images.jsonl"
    path.write_text("\nprecious\n")
    with pytest.raises(
        InputError, match=r"would be replaced by the list of bad images, and is none"
    ):
        BadImages(path, anew=True)
    assert path.read_text() == "\nprecious\n"
