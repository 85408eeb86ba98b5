"""Posteriors kept in files, so that however many tables need them, they are computed once."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vggnet import checkpoint
from vggnet.distributed import World
from vggnet.errors import InputError
from vggnet.evaluate import OnBad, measure
from vggnet.files import existing, sha256, write_atomically
from vggnet.model import VGG
from vggnet.parts import Part
from vggnet.passes import Measured
from vggnet.protocols import Term

_COSTS = ("forwards", "multiply_adds", "as_crop")
_ALONE = World()
_PROTOCOLS = 2
"""Goes up when the same term of the same weights and images gives other posteriors."""


def note_sha256(weights: Path) -> str:
    """Notes a weight file's hash beside it, so that its posteriors are found without it.

    Weights of the paper's width are half a gigabyte: they need not travel with their results.
    """
    found = sha256(weights)
    write_atomically(
        _note_of(weights), lambda temporary: temporary.write_text(f"{found}\n", "ascii")
    )
    return found


def _note_of(weights: Path) -> Path:
    return weights.with_name(f"{weights.name}.sha256")


class PosteriorCache:
    """A folder of files, one for each net, images and term.

    A file's name has a hash over what produced it: the weight file's bytes, the images and their
    labels (`Part.fingerprint`), the term. Changed weights or images have other names, so they
    never meet posteriors that are not theirs. Values are kept in float32; what comes out is the
    same whether it was just computed or read.

    Args:
        folder: made when something is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.computed = False
        """Whether the last call of `measure` computed everything that it gave."""
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def measure(
        self,
        weights: Sequence[Path],
        part: Part,
        wanted: Sequence[Collection[Term]],
        *,
        device: str = "cpu",
        workers: int = 0,
        on_bad: OnBad | None = None,
        progress: bool = False,
        label: str = "evaluating",
        world: World = _ALONE,
    ) -> list[dict[Term, Measured]]:
        """As `evaluate.measure`, of nets in weight files; computes only what is not kept yet.

        Args:
            weights: a file for each net.
            part: images and labels.
            wanted: for each net its terms.
            device: what to compute on.
            workers, on_bad: as for `evaluate.measure`; where an image could not be read, nothing
                is kept.
            progress, label: of the progress bar.
            world: as for `evaluate.measure`; the first rank writes.
        """
        hashes = [self._sha256(path) for path in weights]
        found = [
            {term: kept for term in terms if (kept := self._read(file, part, term)) is not None}
            for file, terms in zip(hashes, wanted, strict=True)
        ]
        missing = [
            [term for term in terms if term not in kept]
            for terms, kept in zip(wanted, found, strict=True)
        ]
        self.computed = not any(found)
        incomplete = [i for i, terms in enumerate(missing) if terms]
        models: list[VGG] = [checkpoint.load(weights[i]).to(device) for i in incomplete]
        computed = (
            measure(
                models,
                part.images,
                [missing[i] for i in incomplete],
                workers=workers,
                on_bad=on_bad,
                progress=progress,
                label=label,
                world=world,
            )
            if models
            else []
        )
        for i, terms in zip(incomplete, computed, strict=True):
            for term, value in terms.items():
                if value.read == len(part) and world.is_first:
                    self._write(hashes[i], part, term, value)
                rounded = value.posteriors.astype(np.float32).astype(np.float64)
                found[i][term] = replace(value, posteriors=rounded)
        world.wait()  # what is written is there for all
        return found

    def _sha256(self, path: Path) -> str:
        """Of a weight file, read again only when it has changed; where the weights were left
        elsewhere, as a file beside them has noted it (`note_sha256`)."""
        if not path.exists() and (noted := _note_of(path)).exists():
            return noted.read_text("ascii").strip()
        status = existing(path).stat()
        known = path, status.st_size, status.st_mtime_ns
        if known not in self._hashes:
            self._hashes[known] = sha256(path)
        return self._hashes[known]

    def _path(self, file: str, part: Part, term: Term) -> tuple[Path, dict[str, Any]]:
        key = {
            "weights": file,
            "images": part.fingerprint,
            "term": asdict(term),
            "protocols": _PROTOCOLS,
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        readable = f"{file[:8]}-{term.method}-Q{term.Q}"
        return self.folder / f"{readable}-{name}.safetensors", key

    def _read(self, file: str, part: Part, term: Term) -> Measured | None:
        path, key = self._path(file, part, term)
        if not path.exists():
            return None
        try:
            tensors, metadata = checkpoint.read_tensors(path)
            header = checkpoint.parse_header(path, metadata)
            if header["key"] != key or len(tensors["posteriors"]) != len(part):
                return None
            values = tensors["posteriors"].numpy().astype(np.float64)
            return Measured(values, *(header[name] for name in _COSTS))
        except (InputError, KeyError):
            return None  # damaged: computed anew and written over

    def _write(self, file: str, part: Part, term: Term, value: Measured) -> None:
        path, key = self._path(file, part, term)
        header = {"key": key} | {name: getattr(value, name) for name in _COSTS}
        posteriors = torch.from_numpy(value.posteriors).float()
        checkpoint.write_tensors(path, {"posteriors": posteriors}, header)
