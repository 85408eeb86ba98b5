"""Whether a file's layers are those of a VGG net: by name, by settings, and in its order."""

import re
from pathlib import Path

from vggnet.errors import InputError


def our_name(path: Path, name: str) -> str:
    """Of a layer with weights under the authors' names, which are ours but for a renamed last one,
    such as fc8_flickr.

    Raises:
        InputError: for a layer that no VGG net has.
    """
    if name.startswith("fc8"):
        return "fc8"
    if not re.fullmatch(r"conv[1-9]_[1-9]|fc[67]", name):
        raise InputError(
            f"{path}: its layer {name[:60]!r} has weights, and no VGG net of the paper has such a "
            "layer (they are conv1_1, …, fc8)"
        )
    return name


def check_convolution(path: Path, name: str, kernel: int, **settings: list[int]) -> None:
    """Refuses a convolution of other settings than VGG's, which give the same weights other scores.

    Args:
        path: named in the error.
        name: of the layer, ours.
        kernel: its side in pixels.
        settings: all values of `pad`, and of `stride`, `dilation`, `group` where there are any.
    """
    for what, values in settings.items():
        wanted = (kernel // 2 if name.startswith("conv") else 0) if what == "pad" else 1
        if any(value != wanted for value in values):
            raise InputError(
                f"{path}: {name} has {what} {' '.join(map(str, values[:4]))}, and a VGG net's has "
                f"{wanted}: it is another net"
            )


def check_pooling(path: Path, name: str, **settings: list[int]) -> None:
    """Refuses a pooling of other settings than VGG's, which are 2×2 at a stride of 2.

    Args:
        path: named in the error.
        name: of the layer, the file's.
        settings: all values of `kernel`, `stride` and `pad`. Of top, bottom, left and right, a pad
            may be 1 at the bottom and on the right: where sides are even, as here they are of
            images whose sides are multiples of 32, a window never reaches it.
    """
    for what, values in settings.items():
        wanted = 0 if what == "pad" else 2
        unreached = what == "pad" and len(values) == 4 and values[::2] == [0, 0]
        allowed = {0, 1} if unreached else {wanted}
        if not values or not allowed.issuperset(values):
            raise InputError(
                f"{path}: {name[:60]!r} pools with {what} {' '.join(map(str, values[:4])) or '?'}, "
                f"and a VGG net with {wanted}: it is another net"
            )


def check_sequence(path: Path, layers: list[tuple[str, str]]) -> None:
    """Refuses layers in another order than a VGG net's, too few or too many.

    A ReLU follows each layer with weights but fc8, and a pooling the last ReLU of each stage. Where
    dropout stands is nothing to the scores, which soft-max, losses and the like take as they are.

    Args:
        path: named in the error.
        layers: of each what it is (`conv1_1`, …, `fc8`, `relu`, `pool`, `dropout`, or `end` for
            soft-max and the like) and its name in the file.
    """
    found = [layer for layer in layers if layer[0] != "dropout"]
    while found and found[-1][0] == "end":
        found.pop()
    weighted = sorted(what for what, _ in found if what.startswith(("conv", "fc")))
    wanted = []
    for name, following in zip(weighted, [*weighted[1:], ""], strict=False):
        wanted += [name] if name == "fc8" else [name, "relu"]
        if name.startswith("conv") and following[:5] != name[:5]:
            wanted.append("pool")
    # Both end with what the other cannot have there, so that none is longer unseen.
    for (what, name), right in zip([*found, ("", "")], [*wanted, ""], strict=False):
        if what != right:
            where = f"its layer {name[:60]!r} stands" if what else "its layers end"
            raise InputError(
                f"{path}: {where} where a VGG net has {right or 'no more'}: it is another net"
            )
