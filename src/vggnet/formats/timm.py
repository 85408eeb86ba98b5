"""timm's vgg11, vgg13, vgg16 and vgg19, each with and without batch normalisation.

timm runs fc6 and fc7 as convolutions and averages before the last layer, which is linear: its
scores are our dense scores, averaged over the score map (§3.2), on images of any size.
"""

from pathlib import Path

from torch import Tensor

from vggnet.formats.foreign import TORCHVISION, Foreign
from vggnet.formats.torchvision import match, renamed

_HEAD = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}


def is_timm(tensors: dict[str, Tensor]) -> bool:
    """Whether names are timm's rather than torchvision's."""
    return any(key.startswith(("pre_logits.", "head.")) for key in tensors)


def read(path: Path, tensors: dict[str, Tensor]) -> Foreign:
    """A state_dict of timm's names; fc6 is out×C×k×k, flattened to our out×(C·k·k).

    Raises:
        InputError: for keys that are not those of one of its nets.
    """
    config = match(path, tensors, "timm", _HEAD)
    return Foreign("timm", renamed(tensors, config, _HEAD), TORCHVISION)
