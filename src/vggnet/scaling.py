"""What training on several GPUs takes, by closed forms: bytes sent in a step, seconds of a step.

A prediction before machines are there; docs/scaling.md has the model, its limits and what was
measured. Nothing here imports PyTorch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from vggnet.accounting import account
from vggnet.configs import Config
from vggnet.errors import InputError

STEP_FLOPS = 532.6e12
"""Floating-point operations a second of a training step without `STEP_OVERHEAD`. Measured: one
H200, net D at 224, bfloat16, 5,649 images a second at batch 256
(benchmarks/results/2026-11-26-gpu-fast-h200.json); 6 · 15.470e9 · 256 / (256 / 5649 − 0.0007)."""
STEP_OVERHEAD = 0.7e-3
"""Seconds of a step whatever its batch. An assumption, not measured: SGD with momentum reads and
writes 5 · 553 MB for net D, 0.58 ms at the H200's 4.8 TB/s, and some launches. It makes an image
cost what it does at batch 256 divided by 0.90 at batch 32, by 0.68 at batch 8."""
NVLINK = 371e9
"""Bytes a second that a GPU sends inside its host. NCCL's own figure for Hopper: 18 links of
20.6 GB/s (src/graph/topo.h, SM90_NVLINK_BW), 82 % of the data sheet's 450."""
NETWORK_EFFICIENCY = 0.96
"""Share of the network's rate that carries gradients. NCCL's own figure: 12.0 GB/s of 100 Gb/s
(src/graph/topo.h, NET_BW)."""
LATENCY_INSIDE, LATENCY_ACROSS = 3.4e-6, 14e-6
"""Seconds of a ring's step over NVLink and over the network, NCCL's own figures for the protocol
of large messages (src/graph/tuning.cc, hwLat, ring, simple)."""
BUCKET = 25 * 2**20
"""Bytes of gradients that PyTorch's DistributedDataParallel reduces in one message by default
(bucket_cap_mb = 25); a larger layer is a message of its own."""
OVERLAP = 2 / 3
"""Share of the computing that is the backward pass, which hides the gradients' all-reduce."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """GPUs in hosts of equal size; the GPUs of a host share its network interface."""

    gpus: int
    gpus_per_host: int = 8
    network: float = 100.0
    """Gigabits a second that a host's interface sends, and receives at the same time."""
    nvlink: float = NVLINK
    """Bytes a second that a GPU sends inside its host, and receives at the same time."""

    def __post_init__(self) -> None:
        for name in ("gpus", "gpus_per_host", "network", "nvlink"):
            _check_positive(name.replace("_", " "), getattr(self, name))
        if self.gpus > self.gpus_per_host and self.gpus % self.gpus_per_host:
            low = self.gpus // self.gpus_per_host * self.gpus_per_host
            raise InputError(
                f"{self.gpus} GPUs are no whole number of hosts of {self.gpus_per_host}: "
                f"take {low} or {low + self.gpus_per_host}, or another --gpus-per-host"
            )

    @property
    def per_host(self) -> int:
        return min(self.gpus, self.gpus_per_host)

    @property
    def hosts(self) -> int:
        return self.gpus // self.per_host


@dataclass(frozen=True, slots=True)
class Flow:
    """What some of a step's collective operations send."""

    sent: float
    """Bytes that a GPU sends, over NVLink or the network."""
    crossing: float
    """Bytes that leave a host by its network interface, of all its GPUs together."""
    steps_inside: int
    """Steps one after another inside a host; each costs a latency."""
    steps_across: int
    """Steps one after another between hosts."""

    def __add__(self, other: "Flow") -> "Flow":
        return Flow(
            self.sent + other.sent,
            self.crossing + other.crossing,
            self.steps_inside + other.steps_inside,
            self.steps_across + other.steps_across,
        )

    def seconds(self, cluster: Cluster) -> float:
        """Inside the host and across the network one after the other, with the latencies."""
        inside = (self.sent - self.crossing / cluster.per_host) / cluster.nvlink
        across = self.crossing / (cluster.network * 1e9 / 8 * NETWORK_EFFICIENCY)
        latency = self.steps_inside * LATENCY_INSIDE + self.steps_across * LATENCY_ACROSS
        return inside + across + latency


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a training step sends, by part. Losses and counts, a few dozen bytes, are left out."""

    conv_gradients: Flow
    """All-reduce over all GPUs of what every GPU holds: the convolutions and, where the fully
    connected layers are sharded, fc7's bias."""
    fc_gradients: Flow
    """All-reduce of the fully connected layers' gradients, or of a shard's over the groups."""
    fc_exchange: Flow
    """Activations and their gradients in a group; none without `fc_parallel`."""

    @property
    def total(self) -> Flow:
        return self.conv_gradients + self.fc_gradients + self.fc_exchange


def bytes_per_step(
    config: Config,
    batch: int,
    ranks: int,
    *,
    fc_parallel: int = 1,
    compress: bool = False,
    activations: int = 4,
    gpus_per_host: int = 8,
) -> Traffic:
    """Bytes that one training step sends.

    A ring all-reduce of S bytes sends 2 (R − 1) / R · S from each of R GPUs, a ring all-gather or
    reduce-scatter half of it (Patarasuk & Yuan 2009). In order of hosts, 2 (H − 1) / H · S of it
    leave each of H hosts, and the rest stays on NVLink.

    Args:
        config: of the net, with its fully connected layers.
        batch: images of all GPUs together.
        ranks: GPUs.
        fc_parallel: GPUs that share the fully connected layers: fc6 and fc8 by output columns, fc7
            by input rows.
        compress: gradients are all-reduced in bfloat16.
        activations: bytes of one that is exchanged: 4 in float32, 2 in bfloat16.
        gpus_per_host: GPUs that share a network interface.

    Raises:
        InputError: when the batch is smaller than the GPUs, or these make no whole groups.
    """
    cluster = Cluster(ranks, gpus_per_host)
    _check(config, batch, cluster, fc_parallel)
    hosts, per_host = cluster.hosts, cluster.per_host
    layers = account(config).layers
    conv = [layer.parameters for layer in layers if layer.kind != "fc"]
    fc = [layer for layer in layers if layer.kind == "fc"]
    size = 2 if compress else 4
    if fc_parallel == 1:
        weights = [layer.parameters for layer in fc]
        return Traffic(
            _all_reduce(conv, size, ranks, hosts),
            _all_reduce(weights, size, ranks, hosts),
            Flow(0, 0, 0, 0),
        )
    bias = fc[1].parameters - fc[1].weights
    shards = [layer.parameters / fc_parallel for layer in fc]
    shards[1] = fc[1].weights / fc_parallel
    groups = ranks // fc_parallel
    rings = min(fc_parallel, per_host)
    span = max(1, fc_parallel // per_host)  # hosts of a group
    images = batch / groups
    features = [fc[0].weights // fc[0].output[0], fc[1].output[0], fc[2].output[0]]
    pool5, hidden, classes = (activations * images * count for count in features)
    # pool5, fc7's partial sums, fc8's input, the scores; and the gradients of all
    gathered = 2 * (pool5 + 2 * hidden + classes)
    return Traffic(
        _all_reduce([*conv, bias], size, ranks, hosts),
        _all_reduce(shards, size, groups, min(hosts, groups), rings=rings),
        _ring(gathered, fc_parallel, span, calls=8),
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A training step's prediction; times in seconds."""

    fc_parallel: int
    compress: bool
    traffic: Traffic
    compute: float
    """Forward, backward and update of the GPU that has most images."""
    gradients: float
    """All-reduce of the gradients."""
    exposed: float
    """What of it the backward pass does not hide."""
    exchange: float
    """Activations of the sharded layers, which nothing hides."""
    reading: float
    """Of a host's share of the images, beside all the rest; 0 where no limit was given."""
    seconds: float
    """Of the step."""
    images_per_second: float
    """Of all GPUs together."""
    efficiency: float
    """Images a second over those of as many GPUs that each computed the whole batch alone."""

    @property
    def mode(self) -> str:
        """The flags of `vggnet train`, or plain."""
        flags = [f"--fc-parallel {self.fc_parallel}"] * (self.fc_parallel > 1)
        return " ".join(flags + ["--compress"] * self.compress) or "plain"


def step_seconds(
    config: Config,
    batch: int,
    cluster: Cluster,
    *,
    fc_parallel: int = 1,
    compress: bool = False,
    images_per_second: float | None = None,
    loading: float | None = None,
) -> Step:
    """Predicts a training step.

    Args:
        config: of the net, with its fully connected layers.
        batch: images of all GPUs together.
        cluster: the GPUs and what connects them.
        fc_parallel: GPUs that share the fully connected layers, as in `bytes_per_step`.
        compress: gradients are all-reduced in bfloat16.
        images_per_second: of one GPU in training at the batch that it will have; the H200's if not
            given.
        loading: images a second that a host reads; without it reading is no limit.

    Raises:
        InputError: for values that make no step.
    """
    for name, value in (("images per second", images_per_second), ("loading", loading)):
        if value is not None:
            _check_positive(name, value)
    traffic = bytes_per_step(
        config,
        batch,
        cluster.gpus,
        fc_parallel=fc_parallel,
        compress=compress,
        activations=2,  # as in the measured GPU's step
        gpus_per_host=cluster.gpus_per_host,
    )
    compute = _compute(config, math.ceil(batch / cluster.gpus), images_per_second)
    gradients = (traffic.conv_gradients + traffic.fc_gradients).seconds(cluster)
    exposed = max(0.0, gradients - OVERLAP * compute)
    exchange = traffic.fc_exchange.seconds(cluster)
    reading = batch / (cluster.hosts * loading) if loading else 0.0
    seconds = max(compute + exposed + exchange, reading)
    return Step(
        fc_parallel,
        compress,
        traffic,
        compute,
        gradients,
        exposed,
        exchange,
        reading,
        seconds,
        batch / seconds,
        _compute(config, batch, images_per_second) / (cluster.gpus * seconds),
    )


def modes(
    config: Config,
    batch: int,
    cluster: Cluster,
    *,
    images_per_second: float | None = None,
    loading: float | None = None,
) -> list[Step]:
    """Plain, in groups of a host's GPUs, and in the fastest larger groups; each also compressed.

    The arguments are `step_seconds`'s.
    """

    predict = partial(
        step_seconds, config, batch, cluster, images_per_second=images_per_second, loading=loading
    )
    host = cluster.per_host
    wider = [n for n in range(2 * host, cluster.gpus + 1, host) if cluster.gpus % n == 0]
    found: list[Step] = []
    for groups in ([1], [host] if host > 1 else [], wider):
        for compress in (False, True) if groups else ():
            steps = [predict(fc_parallel=group, compress=compress) for group in groups]
            found.append(min(steps, key=lambda step: step.seconds))
    return found


def _compute(config: Config, images: int, images_per_second: float | None) -> float:
    """Seconds in which one GPU computes a step on so many images."""
    if images_per_second:
        return images / images_per_second
    return images * 6 * account(config).multiply_adds / STEP_FLOPS + STEP_OVERHEAD


def _ring(size: float, ranks: int, hosts: int, *, rings: int = 1, calls: int = 1) -> Flow:
    """All-gathers or reduce-scatters of `size` bytes in all `calls`; `rings` go through a host."""
    sent = (ranks - 1) / ranks * size
    crossing = rings * (hosts - 1) / hosts * size
    return Flow(sent, crossing, calls * (ranks // hosts - 1), calls * (hosts - 1))


def _all_reduce(
    elements: Sequence[float], size: int, ranks: int, hosts: int, *, rings: int = 1
) -> Flow:
    """Of layers' gradients, `size` bytes an element, in buckets: a scatter and a gather each."""
    buckets, held = 1, 0.0
    for count in reversed(elements):  # the last layer's gradients come first
        if held >= BUCKET:
            buckets, held = buckets + 1, 0.0
        held += 4 * count
    return _ring(2 * size * sum(elements), ranks, hosts, rings=rings, calls=2 * buckets)


def _check(config: Config, batch: int, cluster: Cluster, fc_parallel: int) -> None:
    config.check_head()
    _check_positive("batch", batch)
    _check_positive("fc parallel", fc_parallel)
    if batch < cluster.gpus:
        raise InputError(
            f"batch {batch} is smaller than {cluster.gpus} GPUs, and each needs an image: take "
            f"--batch {32 * cluster.gpus} for example (32 a GPU; the paper's recipe is for 256)"
        )
    host = cluster.per_host
    if cluster.gpus % fc_parallel or (fc_parallel % host and host % fc_parallel):
        raise InputError(
            f"fc parallel {fc_parallel}: {cluster.gpus} GPUs in hosts of {host} make no whole "
            f"groups of {fc_parallel}; take {host} for example"
        )


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name} {value:g} is not a number above 0")
