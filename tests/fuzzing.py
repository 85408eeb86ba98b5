"""Mutated weight files into `vggnet.load`: each gives a net or one InputError, soon and in little
memory.

    python tests/fuzzing.py --count 1000 [--only caffe] [--first 0]

Prints JSON: for each kind of file how many were read, how many refused, and every failure with its
seed. Inputs are read in child processes, so that one that kills its process is only a failure.
"""

import argparse
import io
import json
import os
import pickletools
import random
import resource
import signal
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Of processor time for an input."""
MEMORY = 1 << 30
"""More bytes in memory than before."""
SHOWN = 20
"""Failures of a kind of file."""
BATCH = 250
"""Inputs a child process."""

Mutant = Callable[[random.Random], bytes]

_NUMBERS = [
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xff\xff\xff\x7f" + b"\x00" * 4,
    b"\x00" * 4 + b"\x00\x00\x00\x40",
    (1 << 40).to_bytes(8, "little"),
    (1 << 31).to_bytes(4, "little"),
    (1 << 31).to_bytes(4, "big"),
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a protobuf length
]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to sixteen changes, half of them near the beginning, where most of the structure is."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        reach = len(data) if rng.random() < 0.5 else min(4096, len(data))
        at = rng.randrange(reach) if reach else 0
        kind = rng.random()
        if kind < 0.4 and data:
            data[at] = rng.randrange(256)
        elif kind < 0.5 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind < 0.7:
            number = rng.choice(_NUMBERS)
            data[at : at + len(number)] = number
        elif kind < 0.8:
            del data[at if rng.random() < 0.5 else rng.randrange(len(data) + 1) :]
        elif kind < 0.9:
            start, length = rng.randrange(len(data) + 1), rng.randrange(1, 256)
            data[at : at + length] = data[start : start + length]
        else:  # everything after it moves
            data[at:at] = rng.randbytes(rng.randrange(1, 16))
    return bytes(data)


def plain(content: bytes) -> Mutant:
    return lambda rng: mutated(content, rng)


def in_zip(content: bytes) -> Mutant:
    """A member is mutated, the zip around it stays whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    # Of PyTorch's many, the ones with structure.
    chosen = [name for name in members if "/data/" not in name]

    def mutant(rng: random.Random) -> bytes:
        changed = rng.choice(chosen)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, member in members.items():
                file.writestr(name, mutated(member, rng) if name == changed else member)
        return buffer.getvalue()

    return mutant


_INSERTED = [
    *(bytes([code]) for code in b")]}(tuselaRQb0.2\x81\x85\x86\x87\x88\x94\x8fN"),
    *(b"c" + name + b"\n" for name in (b"collections\nOrderedDict", b"collections\nCounter")),
    *(b"ctorch._utils\n_rebuild_" + name + b"\n" for name in (b"tensor_v2", b"parameter")),
    *(b"ctorch\n" + name + b"\n" for name in (b"Size", b"FloatStorage", b"device", b"float32")),
    *(b"cbuiltins\n" + name + b"\n" for name in (b"bytearray", b"set", b"complex")),
    b"X\x01\x00\x00\x00w",
    b"X\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\x7f",
]
_HUGE = [
    b"J\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff",
    *(b"\x8a\x08" + (1 << bits).to_bytes(8, "little") for bits in (31, 33, 40, 62)),
    b"\x8a\xff" + b"\x7f" * 255,
]


def opcodes(pickle: bytes) -> list[bytes]:
    starts = [at for _, _, at in pickletools.genops(pickle) if at is not None]
    return [pickle[a:b] for a, b in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]


def grammatical(pickle: bytes, rng: random.Random) -> bytes:
    """Whole steps of a pickle are changed: what comes out still has the form of one."""
    steps = opcodes(pickle)
    got = [b"h" + step[1:] for step in steps if step[:1] == b"q"]
    numbers = [i for i, step in enumerate(steps) if step[:1] in b"KMJ\x8a"]
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(1, len(steps))
        kind = rng.random()
        if kind < 0.1:
            del steps[at]
            steps = steps or [b"."]
        elif kind < 0.2:
            start = rng.randrange(len(steps))
            steps[at:at] = steps[start : start + rng.choice([1, 2, 8])] * rng.choice([1, 1, 50])
        elif kind < 0.3:
            other = rng.randrange(1, len(steps))
            steps[at], steps[other] = steps[other], steps[at]
        elif kind < 0.5:
            steps.insert(at, rng.choice(_INSERTED))
        elif kind < 0.65:
            steps.insert(at, rng.choice(got))
        elif kind < 0.85 and numbers:
            steps[min(rng.choice(numbers), len(steps) - 1)] = rng.choice(_HUGE)
        else:  # doubles some object, again and again, for a key or a value
            step = rng.choice(
                [b"h\xfe\x86q\xfe", b"h\xfeh\xfe\x87q\xfe", b"]q\xfd(h\xfeh\xfeeq\xfe"]
            )
            begun = rng.choice([b"K\x01\x85", b"]", b"}", rng.choice(got)])
            end = rng.choice([b"K\x01s", b"K\x01\x86", b"R", b"Q", b"b", b"", b"\x85R"])
            steps.insert(at, begun + b"q\xfe" + step * rng.choice([5, 60]) + end)
        if len(steps) < 2:
            break
    return b"".join(steps)


def by_opcode(zipped: bytes, legacy: bytes) -> Mutant:
    """The pickle of a zip file, or one of the five of a file from before PyTorch 1.6."""
    with zipfile.ZipFile(io.BytesIO(zipped)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    stream, pickles = io.BytesIO(legacy), []
    for _ in range(5):
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        pickles.append(legacy[start : stream.tell()])
    rest = legacy[stream.tell() :]

    def mutant(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            changed = rng.choice([2, 3, 3, 3, 4])
            mine = [*pickles]
            mine[changed] = grammatical(mine[changed], rng)
            return b"".join(mine) + rest
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, member in members.items():
                pickled = name.endswith("data.pkl")
                file.writestr(name, grammatical(member, rng) if pickled else member)
        return buffer.getvalue()

    return mutant


def in_variables(content: bytes) -> Mutant:
    """The packed variables of a MAT-file are mutated before they are packed again."""
    variables, at = [], 128
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        variables.append(zlib.decompress(content[at + 8 : at + 8 + size]))
        at += 8 + size

    def mutant(rng: random.Random) -> bytes:
        changed = rng.randrange(len(variables))
        result = content[:128]
        for i, variable in enumerate(variables):
            packed = zlib.compress(mutated(variable, rng) if i == changed else variable, 1)
            result += struct.pack("<II", 15, len(packed)) + packed
        return result

    return mutant


def kinds() -> dict[str, Mutant]:
    """A small net in every format, and how it is mutated."""
    import torch
    from safetensors.torch import save_file

    import caffe_files
    import keras_files
    import mat_files
    import vggnet
    from vggnet.formats import torchvision

    callable(vggnet.load)  # imported before there are children
    model = vggnet.build("A", crop=32, width=1 / 64, num_classes=3)
    state = torchvision.state_dict(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vggnet.save(model, folder / "own")
        torch.save(state, folder / "zip")
        torch.save(state, folder / "legacy", _use_new_zipfile_serialization=False)
        save_file(state, folder / "safetensors")
        keras_files.run("one", folder)
        theirs = caffe_files.random_weights("A", 32, 3)
        mat_files.matconvnet(folder / "mat", theirs)
        mat_files.matconvnet(folder / "packed", theirs, compressed=True)
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {
        "vggnet": plain(content["own"]),
        "safetensors": plain(content["safetensors"]),
        "torch-zip": plain(content["zip"]),
        "torch-inside": in_zip(content["zip"]),
        "torch-legacy": plain(content["legacy"]),
        "torch-grammar": by_opcode(content["zip"], content["legacy"]),
        "keras-legacy": plain(content["vgg16.legacy.h5"]),
        "keras-whole": plain(content["vgg16.whole.h5"]),
        "keras-weights": plain(content["vgg16.weights.h5"]),
        "keras-zip": plain(content["vgg16.keras"]),
        "keras-inside": in_zip(content["vgg16.keras"]),
        "caffe-old": plain(caffe_files.caffemodel(theirs, caffe_files.OLD)),
        "caffe-new": plain(caffe_files.caffemodel(theirs, caffe_files.NEW)),
        "matlab": plain(content["mat"]),
        "matlab-packed": plain(content["packed"]),
        "matlab-inside": in_variables(content["packed"]),
    }


def _child(mutant: Mutant, seeds: range, path: Path, report: int) -> None:
    """Reads inputs and tells of each; a crash leaves the seed that was begun as the last line."""
    import vggnet

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 4 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def tell(*words: object) -> None:
        os.write(report, (json.dumps(words) + "\n").encode())

    for seed in seeds:
        tell("begun", seed)
        path.write_bytes(mutant(random.Random(seed)))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            vggnet.load(path)
            result = "read"
        except vggnet.InputError as error:
            text = str(error)
            result = "refused" if str(path) in text and "\n" not in text else f"said {text!r}"
        except BaseException as error:
            result = f"raised {error!r}"[:200]
        signal.setitimer(signal.ITIMER_PROF, 0)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before > MEMORY:
            tell(seed, "took more than a gigabyte")
            return
        tell(seed, result)


def fuzz(mutant: Mutant, seeds: range, folder: Path) -> tuple[Counter[str], dict[int, str]]:
    """What came of the inputs, and the failures by seed."""
    counts: Counter[str] = Counter()
    failures: dict[int, str] = {}
    first = seeds.start
    while first < seeds.stop:
        batch = range(first, min(first + BATCH, seeds.stop))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                _child(mutant, batch, folder / "file", writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            lines = [json.loads(line) for line in file]
        _, status = os.waitpid(child, 0)
        begun = [seed for word, seed in lines if word == "begun"]
        results = {seed: result for seed, result in lines if seed != "begun"}
        for seed, result in results.items():
            counts[result if result in ("read", "refused") else "failed"] += 1
            if result not in ("read", "refused") and len(failures) < SHOWN:
                failures[seed] = result
        if begun[-1] not in results:
            hung = status == signal.SIGPROF
            failures[begun[-1]] = "over 2 s" if hung else f"died, status {status}"
            counts["failed"] += 1
        first = begun[-1] + 1
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True, help="inputs of all kinds together")
    parser.add_argument("--only", help="a kind of file")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    chosen = {name: mutant for name, mutant in kinds().items() if args.only in (None, name)}
    each = -(-args.count // len(chosen))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, mutant in chosen.items():
            counts, failures = fuzz(mutant, range(args.first, args.first + each), Path(folder))
            found[name] = {**counts, "failures": failures}
            print(name, dict(counts), failures, file=sys.stderr, flush=True)
    print(json.dumps(found))
    return any(kind["failures"] for kind in found.values())


if __name__ == "__main__":
    sys.exit(main())
