"""The speed of a machine as it was measured (`speed`): rows, as data and as a table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch

What = Literal["forward", "dense", "train", "loader"]
KINDS: tuple[What, ...] = get_args(What)

FLOPS_A_MULTIPLY_ADD = 2
PEAK_SIDE, PEAK_TYPE = {"cpu": 2048, "cuda": 8192}, {"cpu": torch.float32, "cuda": torch.bfloat16}
"""Of the matrices whose product is a machine's peak: their side and their type."""


@dataclass(frozen=True, slots=True)
class Row:
    """The speed of one way to do one thing."""

    what: What
    engine: str
    """fast (`vggnet.fast`, and `kernels.training` of a step) or plain (the model in channels_last);
    of the loader what decodes, and the number of processes."""
    batch: int
    """Images a call."""
    height: int
    """In pixels; of the loader, of the files."""
    width: int
    ms_per_image: float
    """The rounds' median."""
    quartiles: tuple[float, float]
    """The rounds' first and third, in milliseconds an image."""
    images_per_second: float
    """1000 / `ms_per_image`."""
    gflops: float | None
    """10⁹ floating-point operations a second, as the module counts them; None of the loader."""
    share_of_peak: float | None
    """`gflops` over `Speed.peak_gflops`."""
    peak_memory_mb: float | None
    """Of 10⁶ bytes. On a CPU the most that the process has had so far, whatever for, so it only
    grows (None on Windows); on a GPU the most that was allocated on it in these calls."""

    @classmethod
    def of(
        cls,
        case: "Case",
        engine: str,
        seconds: Sequence[float],
        memory_mb: float | None,
    ) -> "Row":
        """From the seconds of a call in each round, two rounds or more."""
        low, middle, high = (
            1e3 * time / case.images for time in statistics.quantiles(seconds, n=4)
        )
        gflops = None
        if case.multiply_adds is not None:
            gflops = FLOPS_A_MULTIPLY_ADD * case.multiply_adds / middle / 1e6
        return cls(
            what=case.what,
            engine=engine,
            batch=case.batch,
            height=case.height,
            width=case.width,
            ms_per_image=middle,
            quartiles=(low, high),
            images_per_second=1e3 / middle,
            gflops=gflops,
            share_of_peak=None,
            peak_memory_mb=memory_mb,
        )

    def beside(self, peak_gflops: float) -> "Row":
        """The same with its share of the peak."""
        return replace(self, share_of_peak=self.gflops and self.gflops / peak_gflops)


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured, and on what."""

    machine: str
    """The processor's name; with a GPU, the GPU's before it."""
    versions: dict[str, str]
    device: str
    threads: int
    """PyTorch's on the CPU."""
    load_average: float | None
    """Processes that ran in the minute before, others' work; None on Windows."""
    net: str
    crop: int
    width: float
    engine: str | None
    """What `vggnet.fast` computes with, in words; None where no inference was measured."""
    peak_gflops: float
    """The best of `matrix_peak` before, between and after what was measured."""
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """As `vggnet bench --json` prints it; measured numbers have 5 digits."""
        rows = [{name: _short(value) for name, value in asdict(row).items()} for row in self.rows]
        return {
            **{name: getattr(self, name) for name in self.__slots__},
            "load_average": _short(self.load_average),
            "peak_gflops": _short(self.peak_gflops),
            "rows": rows,
        }

    def text(self) -> str:
        """A table below what it was measured on."""
        kind = torch.device(self.device).type
        memory = "process so far, MB" if kind == "cpu" else "memory, MB"
        head = ["", "engine", "batch", "size", "ms/image", "quartiles", "images/s"]
        cells = [[*head, "GFLOP/s", "of peak", memory]]
        cells += [_cells(row) for row in self.rows]
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        side, dtype = PEAK_SIDE[kind], str(PEAK_TYPE[kind]).removeprefix("torch.")
        load = (
            "" if self.load_average is None else f"; load average before: {self.load_average:.1f}"
        )
        lines = [
            f"{self.machine}, {threads}, torch {self.versions['torch']}; "
            f"net {self.net}, crop {self.crop}, width {self.width:g}{load}",
            *([] if self.engine is None else [f"fast: {self.engine}"]),
            f"peak: {self.peak_gflops:,.0f} GFLOP/s, matrices of {side:,}×{side:,} in {dtype}",
        ]
        return "\n".join([*lines, "", _aligned(cells)])


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure, and the ways to do it, which take turns."""

    what: What
    batch: int
    height: int
    width: int
    images: int
    """That a call of a way goes through."""
    multiply_adds: int | None
    """An image; of a training step those of 3 forwards, of the loader None."""
    ways: Mapping[str, Callable[[], object]]
    """By the engine's name."""

    @property
    def title(self) -> str:
        return f"{self.what}, {self.height}×{self.width}, batch {self.batch}"


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _cells(row: Row) -> list[str]:
    low, high = map(_three, row.quartiles)
    return [
        *(row.what, row.engine, str(row.batch), f"{row.height}×{row.width}"),
        *(_three(row.ms_per_image), f"{low} to {high}", _three(row.images_per_second)),
        *(_three(row.gflops), "–" if row.share_of_peak is None else f"{row.share_of_peak:.0%}"),
        "–" if row.peak_memory_mb is None else f"{row.peak_memory_mb:,.0f}",
    ]


def _three(value: float | None) -> str:
    """With three digits, or all before the point."""
    if value is None:
        return "–"
    decimals = next((d for d, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:,.{decimals}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        pairs = list(zip(row, widths, strict=True))
        cells = [cell.ljust(width) for cell, width in pairs[:2]]
        cells += [cell.rjust(width) for cell, width in pairs[2:]]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
