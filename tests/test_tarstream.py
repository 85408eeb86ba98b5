"""Images in tar shards: against reading one by one, and a plain shuffle buffer."""

import itertools
import multiprocessing
import os
import pickle
import random
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from tars import GOOD, Recorder, number, put, sample, tar, three_parts, train
from vggnet import InputError, tarstream
from vggnet.remote import Remote
from vggnet.shards import is_sharded, read_shards
from vggnet.storage import EncodedImages


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))


def plain_buffer(line: Sequence[int], slots: int, rng: np.random.Generator) -> Iterator[int]:
    """A shuffle buffer as one writes it down."""
    coming = iter(line)
    buffer = list(itertools.islice(coming, slots))
    draws = rng.integers(len(buffer), size=len(line) - len(buffer))
    for slot, entering in zip(draws.tolist(), coming, strict=True):
        yield buffer[slot]
        buffer[slot] = entering
    yield from rng.permutation(buffer).tolist()


@pytest.mark.parametrize("slots", [1, 2, 16, 129, 130, 131, 2048])
def test_the_order_is_that_of_a_shuffle_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    monkeypatch.setattr(tarstream, "BUFFER", slots)
    sizes = (30, 50, 9, 41)
    images = train(three_parts(tmp_path / "set", sizes))
    order = images.order(np.random.default_rng([5, 1]))
    rng = np.random.default_rng([5, 1])
    ends = np.cumsum(sizes)
    line = [i for s in rng.permutation(4) for i in range(ends[s] - sizes[s], ends[s])]
    assert order.tolist() == list(plain_buffer(line, slots, rng))
    assert sorted(order.tolist()) == list(range(130))
    early = [line.index(image) - place for place, image in enumerate(order.tolist())]
    assert max(early) < slots
    np.testing.assert_array_equal(order, images.order(np.random.default_rng([5, 1])))
    assert (order != images.order(np.random.default_rng([5, 2]))).any()


def test_the_order_is_that_of_the_shards_however_images_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarstream, "BUFFER", 7)
    images = train(three_parts(tmp_path / "set"))
    chosen = np.random.default_rng(3).permutation(130)
    mixed = images.subset(chosen)
    order = images.order(np.random.default_rng(0))
    np.testing.assert_array_equal(chosen[mixed.order(np.random.default_rng(0))], order)


def test_the_order_mixes_and_stays_near() -> None:
    """Of a million: what leaves a buffer of B has waited B draws in the mean."""
    found = tarstream._shuffled(1_000_000, 2048, np.random.default_rng(0))
    assert len(np.unique(found)) == 1_000_000
    waited = np.arange(1_000_000) - found
    assert waited.min() > -2048
    inner = slice(50_000, 950_000)
    # Draws until a slot is hit are geometric: mean and deviation 2048, up to 1 for the last draw.
    assert waited[inner].mean() + 2047 == pytest.approx(2048, rel=0.02)
    assert waited[inner].std() == pytest.approx(2048, rel=0.02)


@pytest.mark.parametrize("sizes", [(30, 50, 9, 41), (3,) * 40, (1, 90, 2, 37), (130,)])
@pytest.mark.parametrize("chosen", ["all", "half", "a rank's"])
def test_a_stream_gives_what_read_gives_and_reads_in_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int], chosen: str
) -> None:
    monkeypatch.setattr(tarstream, "BUFFER", 16)
    monkeypatch.setattr(tarstream, "TAIL", 4)
    images: EncodedImages = train(three_parts(tmp_path / "set", sizes))
    if chosen == "half":
        images = images.subset(np.flatnonzero(np.random.default_rng(1).random(len(images)) < 0.5))
    contents = [images.read(i) for i in range(len(images))]
    order = images.order(np.random.default_rng(2))
    step = 3 if chosen == "a rank's" else 1
    for start in (*range(20), len(order) // 2, len(order) - 1, len(order)):
        rest = order[start::step]
        with monkeypatch.context() as patch:
            recorder = Recorder(patch, tarstream)
            most = 0
            for place, content in enumerate(images.stream(rest)):
                most = max(most, len(recorder.reads) - place)
                assert content == contents[rest[place]]
        assert most <= 16 + 4
        if len(rest) > 100:
            assert most > 8  # so the bound is no idle one
        assert len(recorder.reads) == len(rest)
        assert max(Counter(recorder.opened).values(), default=1) == 1
        for shard in recorder.opened:
            spans = [(begin, end) for name, begin, end in recorder.reads if name == shard]
            assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_a_stream_of_the_stored_order_holds_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarstream, "TAIL", 0)
    images = train(three_parts(tmp_path / "set"))
    recorder = Recorder(monkeypatch, tarstream)
    for place, content in enumerate(images.stream(np.arange(130))):
        assert len(recorder.reads) == place + 1
        assert number(content) == place


def test_subsets_and_pickles(tmp_path: Path) -> None:
    images = train(three_parts(tmp_path / "set"))
    chosen = np.array([100, 3, 77, 4, 129])
    some = images.subset(chosen)
    assert list(some.names) == [images.names[i] for i in chosen.tolist()]
    copied = pickle.loads(pickle.dumps(some))
    assert [number(copied.read(i)) for i in range(5)] == chosen.tolist()
    assert [number(content) for content in copied.stream(np.array([4, 0]))] == [129, 100]
    assert some.where(1) == f"{tmp_path / 'set' / 'x-train-000.tar'}: 00003.png"
    assert (images[7] == images[5:9][2]).all()
    assert len(images.subset(np.arange(0)).order(np.random.default_rng(0))) == 0
    whole = pickle.dumps(images)
    assert len(whole) < 130 * 80 + 2000


def test_stamps_tell_a_changed_shard(tmp_path: Path) -> None:
    root = three_parts(tmp_path / "set")
    images = train(root)
    os.utime(root / "x-train-001.tar", ns=(0, 12345))
    stamps = list(images.stamps())
    assert [name for name, _, _ in stamps] == list(images.names)
    assert [size for _, size, _ in stamps] == [len(images.read(i)) for i in range(130)]
    first = (root / "x-train-000.tar").stat().st_mtime_ns
    assert {time for _, _, time in stamps[:30]} == {first}
    assert {time for _, _, time in stamps[30:80]} == {12345}
    (root / "x-train-001.tar").unlink()
    with pytest.raises(InputError, match=r"x-train-001\.tar"):
        list(images.stamps())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_for_itself(tmp_path: Path) -> None:
    images = train(three_parts(tmp_path / "set"))
    images.read(0)  # opened before the fork

    def read_all(seed: int) -> None:
        order = random.Random(seed).choices(range(130), k=1500)
        assert [number(images.read(i)) for i in order] == order

    child = multiprocessing.get_context("fork").Process(target=read_all, args=(1,))
    child.start()
    read_all(2)
    child.join()
    assert child.exitcode == 0


def test_what_goes_wrong_with_a_shard_during_a_run(tmp_path: Path) -> None:
    root = three_parts(tmp_path / "set")
    images = train(root)
    cut, gone, other = (root / f"x-train-00{i}.tar" for i in (0, 1, 3))
    whole = cut.stat().st_size
    os.truncate(cut, whole // 2)
    gone.unlink()
    put(other, [member for i in range(89, 130) for member in sample(f"{i:05d}x", i, i % 2)])
    order = images.order(np.random.default_rng(0))
    found = list(images.stream(order))
    assert len(found) == 130
    good = [i for i, content in zip(order.tolist(), found, strict=True) if type(content) is bytes]
    assert sorted(i for i in good if i >= 30) == list(range(80, 89))
    left = sorted(i for i in good if i < 30)
    assert left == list(range(len(left)))  # those before the cut
    assert 5 < len(left) < 20
    for i, content in zip(order.tolist(), found, strict=True):
        if isinstance(content, InputError):
            shard = "cut off" if i < 30 else "no such file" if i < 80 else "another than when"
            assert shard in str(content)
            assert images.where(i).partition(": ")[0] in str(content)
            with pytest.raises(InputError, match=shard):
                images.read(i)
        else:
            assert number(content) == number(images.read(i)) == i


def test_an_open_shard_may_be_replaced(tmp_path: Path) -> None:
    root = three_parts(tmp_path / "set")
    assert number(train(root).read(0)) == 0
    new = put(tmp_path / "new.tar", [*sample("a", 500, 1), *sample("b", 501, 0)])
    new.replace(root / "x-train-000.tar")
    assert [number(train(root).read(i)) for i in range(3)] == [500, 501, 30]


def test_shards_in_a_remote_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = three_parts(tmp_path / "set")
    (local / "classes.txt").write_text("even\nodd\n")
    system = fsspec.filesystem("memory")
    system.put(str(local), "/shards-of-test", recursive=True)
    try:
        root = Remote("memory://shards-of-test")
        assert is_sharded(root)
        found, expected = read_shards(root), read_shards(local)
        assert (found.name, found.class_names) == ("shards-of-test", ("even", "odd"))
        images, same = found.train.images, expected.train.images
        assert list(images.names) == list(same.names)
        assert [images.read(i) for i in range(130)] == [same.read(i) for i in range(130)]
        recorder = Recorder(monkeypatch, tarstream)
        order = images.order(np.random.default_rng(3))
        assert list(images.stream(order)) == [same.read(i) for i in order.tolist()]
        assert Counter(recorder.opened) == {f"x-train-{i:03d}.tar": 1 for i in range(4)}
    finally:
        system.rm("/shards-of-test", recursive=True)


def test_unreadable_remote_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file system raises while it reads is one line too."""
    system = fsspec.filesystem("memory")
    system.pipe("/broken-shards/train-0.tar", tar(GOOD))
    root = Remote("memory://broken-shards")
    try:
        images = train(root)

        def broken(*_: Any, **__: Any) -> bytes:
            raise RuntimeError("the line\nis dead")

        with monkeypatch.context() as patch:
            patch.setattr(tarstream._OpenShard, "read", broken)
            with pytest.raises(InputError, match=r"train-0\.tar: .*the line.*is dead"):
                images.read(0)
            errors = list(images.stream(np.arange(3)))
            assert all(isinstance(error, InputError) for error in errors)
        system.pipe("/broken-shards/train-1.tar", tar(GOOD))
        monkeypatch.setattr(tarfile, "open", broken)
        with pytest.raises(InputError, match=r"train-0\.tar: cannot be read .*is dead"):
            read_shards(root)
    finally:
        system.rm("/broken-shards", recursive=True)
