"""What `vggnet check-data` finds in a data set, as JSON and as text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from vggnet.duplicates import Copies
from vggnet.index import PartName

SIDES = (224, 256, 384, 512)
"""Where the ranges of smallest sides begin that are counted."""
_SHOWN = 20  # of classes, and of findings of a kind, in the text

Finding = TypeVar("Finding")


@dataclass(frozen=True, slots=True)
class Bad:
    """An image that cannot be read."""

    part: PartName
    path: str
    """The whole path or URL."""
    reason: str


@dataclass(frozen=True, slots=True)
class Mislabelled:
    """An image whose name promises another format than its content has; it is read all the same."""

    path: str
    format: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How fast training images are read, decoded and cropped, with nothing else to do."""

    images_per_second: float
    """In one process."""
    workers: int
    seconds_per_epoch: float
    """In so many processes."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Heights and widths in pixels, of the images that can be read."""

    smallest: tuple[int, int]
    """By area, as the others."""
    median: tuple[int, int]
    largest: tuple[int, int]
    smallest_sides: dict[str, int]
    """How many images have a smallest side in each of the ranges between `SIDES`."""
    below_crop: int
    """Images with a side below the crop, which are enlarged."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `checks.report` finds.

    Images that cannot be read count in `counts` and `bytes` alone.
    """

    dataset: str
    note: str
    class_names: tuple[str, ...]
    total: int
    """Images, those of two parts once."""
    counts: dict[PartName, list[int]]
    """Of images, by part and class."""
    bytes: int
    """Of the files; of images in memory, of their pixels."""
    crop: int
    sizes: Sizes | None
    """None where no image can be read."""
    formats: dict[str, int]
    """Empty for images in memory."""
    mislabelled: tuple[Mislabelled, ...]
    damaged: tuple[str, ...]
    """Paths of JPEGs that are read, a part of them being lost and grey."""
    finds_damage: bool
    """Whether `damaged` was looked for: `images.finds_damage`."""
    bad: tuple[Bad, ...]
    copies: Copies
    mean_rgb: tuple[float, float, float] | None
    """None where no training image can be read, as `rgb_covariance`."""
    rgb_covariance: list[list[float]] | None
    reading: Reading | None
    """None for images in memory, or where none can be read."""

    @property
    def images(self) -> dict[PartName, int]:
        """How many a part has."""
        return {part: sum(counts) for part, counts in self.counts.items()}

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON has it; the classes with their images by part."""
        classes = [
            {"name": name, **{part: counts[i] for part, counts in self.counts.items()}}
            for i, name in enumerate(self.class_names)
        ]
        rest = asdict(self)
        del rest["class_names"], rest["counts"], rest["copies"]
        return {
            "dataset": rest.pop("dataset"),
            "classes": classes,
            "images": self.images,
            **rest,
            **asdict(self.copies),
        }

    def text(self) -> str:
        """All of it for a terminal; of long lists the first 20."""
        return "\n".join([*_described(self), *_warnings(self)])


def _described(found: Report) -> Iterator[str]:
    """What the data set is like."""
    yield f"{found.dataset}: {len(found.class_names):,} classes, {found.total:,} images, " + (
        _size(found.bytes)
    )
    if found.note:
        yield found.note
    width = min(40, max(map(len, ("of all classes", *found.class_names[:_SHOWN]))))
    yield f"  {'':{width}}" + "".join(f"{part:>12}" for part in found.counts)
    yield f"  {'of all classes':{width}}" + "".join(f"{n:12,}" for n in found.images.values())
    for i, name in enumerate(found.class_names[:_SHOWN]):
        counts = "".join(f"{counts[i]:12,}" for counts in found.counts.values())
        yield f"  {name[:width]:{width}}{counts}"
    if len(found.class_names) > _SHOWN:
        yield f"  … and {len(found.class_names) - _SHOWN:,} more: --json has all"
    yield _balance(found)
    if found.formats:
        yield "formats: " + ", ".join(f"{name} {n:,}" for name, n in found.formats.items())
    if found.sizes is not None:
        sizes = found.sizes
        yield "height×width: " + ", ".join(
            f"{name} {height:,}×{width:,}"
            for name, (height, width) in (
                ("smallest", sizes.smallest),
                ("median", sizes.median),
                ("largest", sizes.largest),
            )
        )
        sides = ", ".join(f"{side}: {n:,}" for side, n in sizes.smallest_sides.items())
        yield f"smallest sides in pixels: {sides}"
    if found.mean_rgb is not None and found.rgb_covariance is not None:
        yield "mean RGB of the training images: " + " ".join(f"{x:.3f}" for x in found.mean_rgb)
        rows = ("  ".join(f"{x:.1f}" for x in row) for row in found.rgb_covariance)
        yield f"RGB covariance: {' | '.join(rows)}"
    if found.reading is not None:
        reading = found.reading
        processes = f"{max(1, reading.workers)} worker{'s' * (reading.workers > 1)}"
        yield (
            f"reading alone, {processes}: about {_time(reading.seconds_per_epoch)} an epoch "
            f"({reading.images_per_second:,.0f} images/s a worker)"
        )


def _balance(found: Report) -> str:
    train = found.counts["train"]
    few, many = (train.index(n) for n in (min(train), max(train)))
    if train[few] == train[many]:
        return f"every class has {train[few]:,} training images"
    return (
        f"training images a class: from {train[few]:,} ({found.class_names[few]}) to "
        f"{train[many]:,} ({found.class_names[many]})"
    )


def _warnings(found: Report) -> Iterator[str]:
    """What may be wrong with it."""
    if found.sizes is not None and found.sizes.below_crop:
        yield (
            f"{_images(found.sizes.below_crop)} with a side below the crop of {found.crop} pixels, "
            "to be enlarged"
        )
    copies = found.copies
    yield from _list(
        f"{_images(len(found.mislabelled))} whose name promises another format; read by content",
        found.mislabelled,
        lambda image: f"{image.path}: {image.format}",
    )
    yield from _list(
        f"{_images(len(found.damaged))} of which a part is lost; read with grey in its place",
        found.damaged,
        str,
    )
    if found.formats.get("JPEG") and not found.finds_damage:
        yield (
            "JPEGs of which a part is lost are read with grey in its place; to find them: "
            "pip install 'vggnet[fast]'"
        )
    yield from _list(
        f"{_groups(len(copies.duplicates))} of identical training images",
        copies.duplicates,
        _together,
    )
    yield from _list(
        f"leakage: {_images(len(copies.leakage))} for validation or testing with the same bytes as "
        "a training image",
        copies.leakage,
        lambda leak: f"{leak.image} = {leak.train}",
    )
    yield from _list(
        f"{_groups(len(copies.labels_differ))} of identical images in different classes",
        copies.labels_differ,
        lambda group: _together([f"{name} ({label})" for name, label in group]),
    )
    yield from _list(
        f"{_images(len(found.bad))} that cannot be read",
        found.bad,
        lambda image: f"{image.path}: {image.reason}",
    )


def _list(
    title: str, findings: Sequence[Finding], shown: Callable[[Finding], str]
) -> Iterator[str]:
    """A title with the first findings below it; nothing where there is none."""
    if not findings:
        return
    yield f"\n{title}:"
    yield from (f"  {shown(finding)}" for finding in findings[:_SHOWN])
    if len(findings) > _SHOWN:
        yield f"  … and {len(findings) - _SHOWN:,} more: --json has all"


def _together(names: Sequence[str]) -> str:
    more = f" = … ({len(names):,} in all)" if len(names) > 3 else ""
    return " = ".join(names[:3]) + more


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _groups(count: int) -> str:
    return f"{count:,} group{'s' * (count != 1)}"


def _size(count: int) -> str:
    """Bytes in words."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
