"""The paper's whole grid as a graph: training runs with their parents, and the rows of its tables.

Nothing here trains or reads an image: `reproduce` does what this plans.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from vggnet import paper, recipes
from vggnet.adaptations import adaptation
from vggnet.configs import TABLE_1, Config
from vggnet.errors import InputError
from vggnet.protocols import Averaging, Fusion, Method, Protocol, Term, multi_scale, single_scale
from vggnet.recipes import Precision, Scale, TrainConfig, Tune
from vggnet.rivals import RIVALS, beside


@dataclass(frozen=True, slots=True)
class Settings:
    """What a reproduction may be asked for; None leaves it to the data set's adaptation.

    Raises:
        InputError: by `grid`, on a value that makes no net or no run.
    """

    crop: int | None = None
    """Side of the crop in pixels, a multiple of 32; S and Q are in proportion."""
    width: float | None = None
    """Multiplies the nets' channels."""
    epochs: int | None = None
    """At most so many a run."""
    batch_size: int | None = None
    """Images a step."""
    seed: int = 0
    """Of all runs."""
    precision: Precision = "float32"
    """Of all runs' training; bfloat16 is for a GPU."""
    only: str | None = None
    """Tables and nets, such as "table 3, D"; the whole grid where None."""
    rivals: bool = False
    """Whether the nets that Table 7 compares with are trained and tested too."""


@dataclass(frozen=True, slots=True)
class Run:
    """A node of the graph: a training run and the run whose weights it starts from."""

    config: TrainConfig
    paper_S: Scale  # noqa: N815, the paper's name
    """S at a crop of 224."""
    parent: "Run | None" = None

    @property
    def name(self) -> str:
        """The run's folder: net, S, and whether the FC layers alone were tuned, or the rate
        followed a cosine."""
        smallest, largest = self.config.scales
        scale = f"S{smallest}" if smallest == largest else f"S{smallest}-{largest}"
        name = f"{self.config.model.title}-{scale}" + "-fc" * (self.config.tune == "fc")
        return name + "-cosine" * (self.config.schedule == "cosine")

    @property
    def start(self) -> str:
        """Where the weights come from, in words."""
        if self.parent is None:
            return "random weights"
        if self.parent.config.model.net == self.config.model.net:
            return f"all layers from {self.parent.name}"
        return f"staged from {self.parent.name}"

    def lineage(self) -> Iterator["Run"]:
        """The run and those it hangs on, the first ancestor first."""
        if self.parent:
            yield from self.parent.lineage()
        yield self


@dataclass(frozen=True, slots=True)
class Member:
    """A run's net at its test scales."""

    run: Run
    Q: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Something to be measured: a row of a table, or of a section of the report beside them."""

    section: str
    """"table 3" … "table 7", "ablation", "others", "averaging" or "by scale"."""
    members: tuple[Member, ...]
    """Nets whose posteriors are averaged; none for a system of Table 7 that is not measured."""
    method: Method
    flips: bool
    averaging: Averaging = "scores"
    published: paper.Row | paper.Fused | paper.System | None = None
    """The row as the paper prints it."""

    @property
    def protocol(self) -> Protocol | Fusion:
        """How it is measured."""
        protocols = tuple(self.protocol_of(member) for member in self.members)
        return protocols[0] if len(protocols) == 1 else Fusion(protocols)

    def protocol_of(self, member: Member) -> Protocol:
        config = member.run.config
        return Protocol(
            config.model.title, config.S, member.Q, self.method, self.averaging, self.flips
        )

    def terms(self) -> Iterator[tuple[Run, Term]]:
        """Every run with the terms that the row needs of it."""
        for member in self.members:
            for term in self.protocol_of(member).terms:
                yield member.run, term

    @property
    def nets(self) -> set[str]:
        return {member.run.config.model.net for member in self.members}


@dataclass(frozen=True, slots=True)
class Grid:
    """Runs, parents first, and what is measured of them."""

    runs: tuple[Run, ...]
    rows: tuple[Row, ...]

    def terms(self, run: Run) -> list[Term]:
        """What is measured of a run, each once."""
        found = (term for row in self.rows for other, term in row.terms() if other == run)
        return list(dict.fromkeys(found))


def grid(data: str, num_classes: int, flip: bool, settings: Settings) -> Grid:
    """The paper's grid for a data set, or the part of it that `settings.only` asks for.

    Args:
        data: the data set's name, which decides how the runs are fitted to it.
        num_classes: its classes.
        flip: whether its images may be mirrored.
        settings: what the user asks for.

    Raises:
        InputError: on a value that makes no net or no run, or a part that the grid has not.
    """
    tables, nets = _asked(settings)
    runs = _runs(data, num_classes, flip, settings, nets)
    rows = tuple(_rows(runs, flip))
    if settings.only is not None:
        rows = tuple(_chosen(rows, settings.only, tables, nets))
    needed = {run for row in rows for member in row.members for run in member.run.lineage()}
    return Grid(tuple(run for run in runs.values() if run in needed), rows)


_Key = tuple[str, Scale, Tune]


def _runs(
    data: str, num_classes: int, flip: bool, settings: Settings, nets: set[str]
) -> dict[_Key, Run]:
    """§3.1's runs by net, the paper's S, and what learns; parents first. Of Table 7's other nets
    those among `nets`, if any are asked for: not all can be made for a small crop."""
    fitted = adaptation(data)
    crop = fitted.grid_crop or fitted.crop
    width = fitted.grid_width or fitted.width
    options = Config(
        "A",
        num_classes=num_classes,
        crop=crop if settings.crop is None else settings.crop,
        width=width if settings.width is None else settings.width,
    )
    runs: dict[_Key, Run] = {}

    def add(recipe: TrainConfig, scale: Scale, parent: Run | None = None) -> Run:
        recipe = fitted.fit(recipe)
        recipe = replace(
            recipe,
            seed=settings.seed,
            flip=recipe.flip and flip,
            precision=settings.precision,
        )
        if settings.epochs is not None:
            # Runs that start from trained nets are shorter where the data set says so.
            recipe = replace(recipe, epochs=min(settings.epochs, recipe.epochs))
        if settings.batch_size is not None:
            recipe = replace(recipe, batch_size=settings.batch_size)
        run = Run(recipe, scale, parent)
        runs[recipe.model.net, scale, recipe.tune] = run
        return run

    def net(name: str) -> Config:
        return replace(options, net=name)

    a = add(recipes.a_256(options), 256)
    at_256 = {name: add(recipes.deeper_256(net(name)), 256, a) for name in TABLE_1[1:]}
    add(recipes.b_5x5(options), 256)
    at_384 = {name: add(recipes.at_384(net(name)), 384, at_256[name]) for name in "CDE"}
    for name in "CDE":
        add(recipes.jittered(net(name)), (256, 512), at_384[name])
    add(recipes.submitted_d(options), (256, 512), at_384["D"])
    for name in RIVALS if settings.rivals else ():
        if nets and name not in nets:
            continue
        # The way of the net that Table 7 has beside them: E of [256;512].
        rival = beside(name, options)
        first = add(recipes.rival_256(rival), 256)
        second = add(recipes.at_384(rival), 384, first)
        add(recipes.jittered(rival), (256, 512), second)
    return runs


def _rows(runs: dict[_Key, Run], flip: bool) -> Iterator[Row]:
    crop = runs["A", 256, "all"].config.model.crop

    def member(row: paper.Row | paper.Member) -> Member:
        """The paper's net at this crop; its test scales by the rules of §4.1 and §4.2."""
        run = runs[row.net, row.S, row.tune if isinstance(row, paper.Member) else "all"]
        scale = run.config.S
        return Member(run, (single_scale(scale),) if len(row.Q) == 1 else multi_scale(scale, crop))

    for table, entries in (
        ("table 3", paper.TABLE_3),
        ("table 4", paper.TABLE_4),
        ("table 5", paper.TABLE_5),
    ):
        for entry in entries:
            yield Row(table, (member(entry),), entry.method, flip, published=entry)
    for fused in paper.TABLE_6:
        yield Row("table 6", tuple(map(member, fused.members)), fused.method, flip, published=fused)
    rivals = {net.system: name for name, net in RIVALS.items()}
    for system in paper.TABLE_7:
        members, method = tuple(map(member, system.members)), system.method
        run = runs.get((rivals.get(system.name, ""), (256, 512), "all"))
        if run is not None:  # tested as VGG's single net, two rows above
            sides = multi_scale(run.config.S, run.config.model.crop)
            members, method = (Member(run, sides),), "multi-crop+dense"
        yield Row("table 7", members, method, flip, published=system)

    # §4.1: B against one 5×5 for each pair of 3×3, on a centre crop.
    for name in ("B", "B-5x5"):
        run = runs[name, 256, "all"]
        yield Row("ablation", (Member(run, (single_scale(run.config.S),)),), "centre-crop", False)
    # What others report, at Table 3's scales.
    for entry in paper.TABLE_3:
        yield Row("others", (member(entry),), "centre-crop", False)
        yield Row("others", (member(entry),), "ten-crop", flip)
    # Both readings of "spatially averaged" (§3.2), for the nets of Table 5.
    for name in "DE":
        run = runs[name, (256, 512), "all"]
        for averaging in ("scores", "posteriors"):
            scales = Member(run, multi_scale(run.config.S, crop))
            yield Row("averaging", (scales,), "dense", flip, averaging)
    # Error against Q: every net of Table 3 at every Q of Tables 3 and 4.
    all_sides = sorted(
        {Q for entry in paper.TABLE_4 for Q in multi_scale(member(entry).run.config.S, crop)}
    )
    for entry in paper.TABLE_3:
        for side in all_sides:
            yield Row("by scale", (Member(member(entry).run, (side,)),), "dense", flip)


TABLES = ("table 3", "table 4", "table 5", "table 6", "table 7", "ablation")


def _asked(settings: Settings) -> tuple[set[str], set[str]]:
    """The tables and the nets that are named; none where all are meant."""
    tables: set[str] = set()
    nets: set[str] = set()
    known = {net.lower(): net for net in (*TABLE_1, "B-5x5", *(RIVALS if settings.rivals else ()))}
    only = settings.only
    for word in () if only is None else only.split(","):
        name = word.strip().lower()
        table = re.sub(r"^tables?\s*", "table ", name)
        if table in TABLES:
            tables.add(table)
        elif name in known:
            nets.add(known[name])
        else:
            more = ", or with --rivals the nets of Table 7" * (name in map(str.lower, RIVALS))
            raise InputError(
                f"only {only!r}: {word.strip()!r} is neither a table nor a net: take of "
                f"{', '.join([*TABLES, *known.values()])}, separated by commas{more}"
            )
    return tables, nets


def _chosen(rows: Iterable[Row], only: str, tables: set[str], nets: set[str]) -> list[Row]:
    """The rows in these tables and of these nets; a fusion needs all of its nets."""
    chosen = [
        row
        for row in rows
        if row.section in (tables or set(TABLES))
        and (not nets or row.nets <= nets)
        and (row.members or not nets)
    ]
    if not any(row.members for row in chosen):
        raise InputError(f"only {only!r}: no row of these tables is of these nets alone")
    return chosen


def paper_numbers(row: Row) -> dict[str, Any]:
    """What the paper prints in this row, as `results.json` holds it."""
    match row.published:
        case paper.Row() as entry:
            names = ["S", "Q", "top1", "top5", "method"]
        case paper.Fused() as entry:
            names = ["method", "top1", "top5", "top5_test"]
        case paper.System() as entry:
            names = ["top1", "top5", "top5_test"]
        case None:
            return {}
    found = {name: getattr(entry, name) for name in names}
    if isinstance(entry, paper.Fused):
        found["nets"] = [[member.net, member.S] for member in entry.members]
        found["Q"] = [member.Q for member in entry.members]
    return found
