"""Checkpoints that many ranks write together and any number of them reads, of safetensors.

By PyTorch's distributed checkpoints: what all ranks have is written by one of them, a divided
tensor in its parts. Nothing is unpickled.
"""

import warnings
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)

from vggnet.errors import InputError


def save(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a checkpoint into a new folder; all ranks together.

    Args:
        folder: on a disk that every rank's machine sees.
        tensors: whole ones, equal on all ranks, and divided ones (DTensor).
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    state_dict_saver.save(plain, storage_writer=writer)


def load(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills tensors from a checkpoint, each rank the parts that are its own.

    Args:
        folder: that `save` wrote, by as many ranks or by others.
        tensors: whole or divided ones to be filled; outside of torchrun whole ones.

    Raises:
        InputError: for a folder that is not there, damaged or without one of the tensors.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        reader.read_metadata()  # what PyTorch would print a traceback of, and go on
        with warnings.catch_warnings():
            # Of a process that is alone, which is no mistake here.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            state_dict_loader.load(tensors, storage_reader=reader)
    except (CheckpointException, SafetensorError, OSError, RuntimeError) as error:
        why = str(error).strip().splitlines()
        raise InputError(
            f"{folder}: is damaged or not whole ({why[-1] if why else error!r}); to start the run "
            f"anew, delete {folder.parent}"
        ) from None
