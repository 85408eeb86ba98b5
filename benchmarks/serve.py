"""`vggnet serve` under load on this machine: net D, 224×224, by the centre crop.

Random weights at width 1, written to a file; the server is a process of its own, started by
`vggnet serve` with its defaults, and so is the generator of load, which shares the processors with
it. Every request is a JPEG of 341×256 pixels in a body of its own, on a connection that stays; a
client sends its next request when the last one is answered. One that is refused with 503 waits as
long as Retry-After says, then tries again (`impatient`: at once).

- `clients`: for 1, 8, as many as there are places in the server (`capacity`) and 64 clients, what
  became of 2,000 requests: answers a second, milliseconds of answers and of refusals (median and
  99th percentile), the server's resident memory in each quarter of the run.
- `batching`: 8 clients at this server and at one with `--batch 1`, in turns, round by round;
  answers a second, and of each round the ratio, median and quartiles.

    .venv/bin/python benchmarks/serve.py [--out FILE] [--requests 2000] [--rounds 5] [--quick]
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vggnet
from vggnet.model import Provenance

PLACES = 12
"""Pictures that the server takes in, its default."""
PATH = "/v1/predict?method=centre-crop&scales=256&top=5"


@dataclass(slots=True)
class Server:
    """A running `vggnet serve`."""

    port: int
    pid: int

    def memory(self) -> float:
        """Resident megabytes (10^6 bytes)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 / 1e6 if found else float("nan")


@contextmanager
def server(weights: Path, *more: str) -> Iterator[Server]:
    """Started and warm; ended by SIGTERM, which must leave exit code 0."""
    command = [sys.executable, "-m", "vggnet", "serve", str(weights), "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"http://127\.0\.0\.1:(\d+) answers", line):
                break
        else:
            sys.exit("the server did not start")
        try:
            yield Server(int(found[1]), process.pid)
        finally:
            process.terminate()
    if process.returncode != 0:
        sys.exit(f"the server ended with {process.returncode}")


@dataclass(slots=True)
class Seen:
    """What clients saw."""

    answers: list[float] = field(default_factory=list)
    """Seconds."""
    refusals: list[float] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    """Statuses that are neither."""
    seconds: float = 0.0


async def load(port: int, clients: int, requests: int, body: bytes, impatient: bool) -> Seen:
    """Until so many requests are answered."""
    seen, left = Seen(), requests
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            start = time.perf_counter()
            writer.write(head + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(answer.split(" ", 2)[1])
            length = re.search(r"content-length: (\d+)", answer, re.IGNORECASE)
            assert length is not None
            await reader.readexactly(int(length[1]))
            seconds = time.perf_counter() - start
            if status == 200:
                seen.answers.append(seconds)
            elif status == 503:
                seen.refusals.append(seconds)
                left += 1
                after = re.search(r"retry-after: (\d+)", answer, re.IGNORECASE)
                assert after is not None
                if not impatient:
                    await asyncio.sleep(int(after[1]))
                if "connection: close" in answer.lower():
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
            else:
                seen.others.append(status)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seen.seconds = time.perf_counter() - start
    return seen


def _generate(port: int, clients: int, requests: int, body: bytes, impatient: bool) -> Seen:
    return asyncio.run(load(port, clients, requests, body, impatient))


def run(
    where: Server, clients: int, requests: int, body: bytes, impatient: bool = False
) -> dict[str, Any]:
    """A run of load from a process of its own, and the server's memory meanwhile."""
    memory = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(abs, (1,))  # it has started
        work = pool.apply_async(_generate, (where.port, clients, requests, body, impatient))
        while not work.ready():
            memory.append(where.memory())
            work.wait(0.25)
        seen = work.get()
    quarters = [part.max() for part in np.array_split(np.array(memory), 4) if len(part)]
    return {
        "clients": clients,
        "impatient": impatient,
        "answers": len(seen.answers),
        "refusals": len(seen.refusals),
        "other_statuses": sorted(seen.others),
        "answers_a_second": round(len(seen.answers) / seen.seconds, 1),
        "answer_ms": _percentiles(seen.answers),
        "refusal_ms": _percentiles(seen.refusals),
        "memory_mb": [round(float(part), 1) for part in quarters],
    }


def _percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {
        name: round(1000 * float(np.percentile(seconds, share)), 1)
        for name, share in (("median", 50), ("p99", 99), ("largest", 100))
    }


def picture() -> bytes:
    """A photograph's worth of detail: noise of several sizes."""
    rng = np.random.default_rng(0)
    total = np.zeros((256, 341, 3))
    for side in (4, 16, 64):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((341, 256), Image.Resampling.BICUBIC), float) / 3
    file = io.BytesIO()
    Image.fromarray(total.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small net; its numbers say nothing")
    args = parser.parse_args()
    body = picture()
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "versions": {"vggnet": vggnet.__version__, "torch": torch.__version__},
        "body_bytes": len(body),
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "net.safetensors"
        model = vggnet.build("D", width=0.0625 if args.quick else 1.0, init="he")
        model.provenance = Provenance(S=256)
        vggnet.save(model, weights)
        with server(weights) as batched:
            # The places, which is what the server works at when it is full.
            runs = [run(batched, clients, args.requests, body) for clients in (1, 8, PLACES, 64)]
            runs.append(run(batched, 64, args.requests, body, impatient=True))
            found["clients"] = runs
            capacity = runs[2]["answer_ms"]["p99"]
            found["p99_over_that_at_capacity"] = [
                round(one["answer_ms"]["p99"] / capacity, 2) for one in runs[3:]
            ]
            with server(weights, "--batch", "1") as single:
                pairs = []
                each = max(8, args.requests // (2 * args.rounds))
                for turn in range(args.rounds):
                    order = (batched, single) if turn % 2 else (single, batched)
                    speeds = {
                        one.port: run(one, 8, each, body)["answers_a_second"] for one in order
                    }
                    pairs.append((speeds[batched.port], speeds[single.port]))
        ratios = [one / other for one, other in pairs]
        found["batching"] = {
            "answers_a_second": [statistics.median(column) for column in zip(*pairs, strict=True)],
            "ratio": round(statistics.median(ratios), 3),
            "quartiles": [round(float(np.percentile(ratios, share)), 3) for share in (25, 75)],
        }
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
