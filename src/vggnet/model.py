"""The net: one class, one linear forward for all configurations, at the crop's size or larger."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vggnet import initialize
from vggnet.configs import HEAD, Config
from vggnet.errors import InputError
from vggnet.modules import FullyConnected, ReLU, module
from vggnet.pages import in_large_pages
from vggnet.recipes import Scale

if TYPE_CHECKING:
    from vggnet.card import Stated

# R, G, B means of the ILSVRC-2012 training images as the authors released them with nets D and E.
IMAGENET_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a net's weights come from; it is saved in the weight file and comes back with it."""

    class_names: tuple[str, ...] | None = None
    """In the order of the scores."""
    dataset: str | None = None
    """Name of the data set that it was trained on."""
    data: str | None = None
    """SHA-256 over that data set's training and validation images (`Dataset.trained_on`)."""
    S: Scale | None = None
    """Smallest side in pixels of the training images, or the range it was drawn from (§3.1)."""
    seed: int | None = None
    """Of the run."""
    recipe: dict[str, Any] | None = None
    """Every value of the `TrainConfig`."""
    parent: str | None = None
    """SHA-256 of the weight file that the training started from, if there was one."""
    source: str | None = None
    """Of weights that other software wrote: whose format, what images they expected there, and the
    SHA-256 of the file."""


class VGG(nn.Module):
    """One of the paper's nets, taking images as they are: RGB, 0–255, N×3×H×W, uint8 or float.

    A config of `rivals.py` makes it one of the nets that the paper compares itself with.

    The mean RGB is subtracted inside (a buffer, `mean`), which is the paper's only pre-processing
    (§2.1). The layers are attributes named as in the literature: `conv1_1`, `relu1_1`, `pool1`, …,
    `fc6`, `fc7`, `fc8`, in the order of `Config.layers`.

    The head is convolutional (§3.2): fc6 looks at every window of pool5, fc7 and fc8 at every cell.
    On an image of the crop's size there is one window, and the net is the classification net of
    §2; on a larger one the same weights give a map of class scores.

    Args:
        config: the net and its options.
        mean: one value a channel, 0–255. ImageNet's mean RGB by default for three channels, and
            the middle of the range, 127.5, for any other number of channels.
    """

    mean: Tensor

    def __init__(self, config: Config, mean: Sequence[float] | None = None) -> None:
        super().__init__()
        self.config = config
        if mean is None:
            mean = IMAGENET_MEAN if config.in_channels == 3 else [127.5] * config.in_channels
        if len(mean) != config.in_channels:
            raise InputError(
                f"mean has {len(mean)} values for {config.in_channels} channels: give one each"
            )
        # As floats, not only as a buffer: building on the meta device keeps no values.
        self._mean_values = tuple(float(value) for value in mean)
        self.register_buffer("mean", torch.tensor(self._mean_values))
        self.provenance = Provenance()
        self._names = tuple(layer.name for layer in config.layers())
        sides = (layer for layers in config.sides().values() for layer in layers)
        for layer in (*config.layers(), *sides):
            self.add_module(layer.name, module(layer, config))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before the soft-max, averaged over the score map: N×K.

        `torch.compile` and `torch.export` take it with dynamic batch and size. PyTorch's export
        tells a map of one cell from larger ones: for one program that takes the crop's size too,
        export under `torch.fx.experimental._config.patch(backed_size_oblivious=True)`.

        Args:
            images: N×C×H×W, RGB 0–255, H and W each at least the crop.

        Raises:
            InputError: for another number of dimensions or channels, an image below the crop, or
                a net without its classifier (`Config.head`).
        """
        self.config.check_head()
        return self.run(images, ("scores",))["scores"]

    def score_map(self, images: Tensor) -> Tensor:
        """The map of class scores before the soft-max: N×K×h×w, 1×1 at the crop's size.

        Cell (i, j) is what the net says of the window of pool5 whose corner is (i, j); neighbouring
        cells are 32 pixels apart in the image.
        """
        self.config.check_head()
        return self.run(images, ("fc8",))["fc8"]

    def training_scores(self, images: Tensor) -> tuple[Tensor, ...]:
        """What a loss is of, each N×K: the net's scores, then those of the classifiers that it has
        at its side for training (`Config.sides`: GoogLeNet's two; VGG has none)."""
        sides = self.config.sides()
        found = self.run(images, ("scores", *sides))
        scores = [found["scores"]]
        for at, layers in sides.items():
            x = found[at]
            for layer in layers:
                x = getattr(self, layer.name)(x)
            scores.append(x.mean(dim=(2, 3)))
        return tuple(scores)

    def activations(self, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Named outputs of one forward, which ends at the last of them.

        Args:
            images: as for `forward`; for layers before fc6 of any size from 32 pixels up.
            names: of layers (`conv3_3` before the ReLU, `relu3_3` after it, `pool5`, `fc7`, …);
                `fc8` is the score map and `scores` its average, `forward`'s result.

        Returns:
            A dict in the order of `names`; each N×C×h×w, `scores` N×K.

        Raises:
            InputError: for a name that the net does not have, or images that it does not take.
        """
        names = self.known_layers(names)
        if not names:
            return {}
        found = self.run(images, tuple(dict.fromkeys(names)))
        return {name: found[name] for name in names}

    def known_layers(self, names: Iterable[str]) -> list[str]:
        """The names as a list; raises InputError for one that `activations` does not know."""
        if isinstance(names, str):
            raise InputError(f"activations takes a list of names: [{names!r}]")
        names = list(names)
        known = [*self._names, *["scores"] * self.config.head]
        for name in names:
            if name not in known:
                raise InputError(
                    f"net {self.config.net} has no layer {name!r}; it has {', '.join(known)}"
                )
        return names

    def run(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """Outputs by their `names`, `scores` at the end among them, of one forward of images,
        N×C×H×W, which ends at the last of them."""
        self.check_images(images, names)
        self.check_device(images)
        x = self.subtract_mean(images)
        kept: dict[str, Tensor] = {}
        own = False  # whether x is the fresh output of a layer that nobody else reads
        for name in self._names:
            layer = getattr(self, name)
            # A ReLU writes over its input (a tenth of the time of a forward on a CPU), unless
            # somebody asked for that input, by name or with a hook.
            watched = _is_watched(layer)
            x = layer(x, own and not watched) if isinstance(layer, ReLU) else layer(x)
            if name in names:
                kept[name] = x
                if len(kept) == len(names):
                    return kept
            fresh = isinstance(layer, nn.Conv2d | nn.BatchNorm2d | FullyConnected)
            own = fresh and not watched and name not in names
        kept["scores"] = x.mean(dim=(2, 3))
        return kept

    def check_images(self, images: Tensor, names: Collection[str] = ("scores",)) -> None:
        """Raises InputError for images, N×C×H×W, of which the net cannot give these `names`."""
        if not isinstance(images, Tensor):
            raise InputError(
                f"images are a {type(images).__name__}: give a tensor, N×{self.config.in_channels}"
                "×H×W; of an array H×W×3 it is torch.from_numpy(array).permute(2, 0, 1)[None]"
            )
        head = not set(names).isdisjoint(HEAD)
        smallest = self.config.crop if head else self.config.minimum
        channels = self.config.in_channels
        if images.dim() != 4 or images.shape[1] != channels:
            raise InputError(
                f"images of shape {tuple(images.shape)}: net {self.config.net} takes "
                f"N×{channels}×H×W" + (" (one image: add a batch dimension)" * (images.dim() == 3))
            )
        if images.shape[2] < smallest or images.shape[3] < smallest:
            crop = head or smallest == self.config.crop
            what = "the crop" if crop else "five poolings leave anything of,"
            raise InputError(
                f"images of {images.shape[2]}×{images.shape[3]} pixels are smaller than {what} "
                f"{smallest}: rescale them to a smallest side of {smallest} or more"
            )

    def check_device(self, images: Tensor) -> None:
        """Raises InputError for images on another device than the net."""
        own, theirs = self.mean.device, images.device
        if own != theirs:
            raise InputError(f"images are on {theirs}, the net on {own}: images.to({str(own)!r})")

    def subtract_mean(self, images: Tensor) -> Tensor:
        """Images less the net's mean RGB, in the net's dtype."""
        # In float32 at least: in bfloat16 the difference of two numbers near 128 is off by 0.5
        # (a net cast to bfloat16 has rounded its mean too, by up to 0.25).
        wide = torch.promote_types(self.mean.dtype, torch.float32)
        x = images.to(wide) - self.mean.to(wide).view(1, -1, 1, 1)
        return x.to(self.mean.dtype)

    def extra_repr(self) -> str:
        return str(self.config)

    # The imports of the next three point down, since the methods' place is here: the one exception
    # in tests/test_layout.py.

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        file: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> "VGG":
        """Reads a net from a repository on the Hub, or from a folder that `save_pretrained` wrote.

        A repository's weights may be vggnet's, or timm's or torchvision's, such as those of
        timm/vgg16.tv_in1k; the net takes RGB 0–255 all the same. Of timm's, config.json beside them
        says what images they take and what the classes are called, unless `preprocessing` or
        `class_names` are given.

        Args:
            name: of the repository, user/name; or a folder.
            file: in it; model.safetensors or pytorch_model.bin by default.
            revision: a branch, a tag or a commit.
            cache_dir: instead of the Hub client's own.
            token: for private repositories; by default that of `hf auth login`.
            local_files_only: take what is in the cache, ask nobody.
            options: `net`, `preprocessing` and `class_names` of `vggnet.load`.

        Raises:
            InputError: for a repository or file that is not there or may not be read, without
                huggingface_hub, or as `vggnet.load`.
            RunError: when the Hub cannot be reached and the cache does not have the file.
        """
        from vggnet import hub

        return hub.load(
            name,
            file=file,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            **options,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        results: "Sequence[Stated]" = (),
        *,
        dataset: str | None = None,
        license: str | None = None,
    ) -> None:
        """Writes a folder as a repository on the Hub has it.

        It holds model.safetensors, which describes itself; README.md, the card, written anew; and
        config.json, which is there for the Hub and is not read.

        Args:
            folder: is made.
            results: errors for the card, each with its protocol: `scoring.Result`, or what
                `vggnet evaluate --json` printed. Without them the card states no error.
            dataset: name of the one that the results are on; by default the training's.
            license: of the weights, by the Hub's names, such as cc-by-4.0.

        Raises:
            InputError: for results that are not this net's, without huggingface_hub, or for a
                folder that cannot be written.
            RunError: when writing fails there.
        """
        from vggnet import hub

        hub.save(self, folder, results, dataset=dataset, license=license)

    def push_to_hub(
        self,
        repo: str,
        results: "Sequence[Stated]" = (),
        *,
        dataset: str | None = None,
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        message: str = "Weights and card, by vggnet",
    ) -> str:
        """Publishes the folder of `save_pretrained` as a repository on the Hub.

        Args:
            repo: user/name; made where it is not there.
            results, dataset, license: as for `save_pretrained`.
            private: whether a repository that is made is private; by default as its owner's are.
            token: by default that of `hf auth login`.
            branch: main by default.
            message: of the commit.

        Returns:
            The URL of the commit.

        Raises:
            InputError: as `save_pretrained`; for a name that cannot be, or without the right.
            RunError: when the Hub cannot be reached.
        """
        from vggnet import hub

        return hub.push(
            self,
            repo,
            results,
            dataset=dataset,
            license=license,
            private=private,
            token=token,
            branch=branch,
            commit_message=message,
        )


def _is_watched(layer: nn.Module) -> bool:
    """Whether a hook of any kind sees the layer's input, output or gradients.

    A compiler decides for itself what to overwrite: to it, every layer is watched.
    """
    return bool(
        torch.compiler.is_compiling()
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def empty(config: Config, mean: Sequence[float] | None = None) -> VGG:
    """A net whose weights are allocated but not set, in evaluation mode; `mean` is set."""
    with torch.device("meta"):
        model = VGG(config, mean)
    # Not by `to_empty`, whose `empty_like` imports sympy for tensors on the meta device.
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(layer, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    for parameter in model.parameters():
        in_large_pages(parameter)
    with torch.no_grad():
        model.mean.copy_(torch.tensor(model._mean_values))
    return model.eval()


def build(
    net: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    crop: int = 224,
    width: float = 1.0,
    dropout: float = 0.5,
    batch_norm: bool = False,
    lrn: initialize.LRNConvention = "krizhevsky",
    mean: Sequence[float] | None = None,
    init: initialize.Init = "glorot",
    seed: int = 0,
) -> VGG:
    """A net with random weights, in evaluation mode.

    Args:
        net: A, A-LRN, B, C, D, E (Table 1) or B-5x5 (§4.1).
        num_classes: channels of fc8.
        in_channels: channels of the image; 3 is RGB.
        crop: side of the training crop in pixels, a multiple of 32.
        width: multiplies the channels of every layer but the last.
        dropout: probability, after fc6 and fc7 in training.
        batch_norm: batch normalisation after every convolution (not in the paper).
        lrn: whose formula A-LRN uses.
        mean: one value a channel, 0–255, subtracted inside; ImageNet's mean RGB by default.
        init: how the weights are drawn, see `vggnet.initialize`.
        seed: of the draw; one seed gives one net.

    Raises:
        InputError: on a wrong value, naming it and the remedy.

    Example:
        >>> model = build("D", num_classes=10, crop=32, width=0.125)
        >>> model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([1, 10])
    """
    config = Config(net, num_classes, in_channels, crop, width, dropout, batch_norm, lrn)
    initialize.check(init)
    model = empty(config, mean)
    initialize.initialize_(model, init, torch.Generator().manual_seed(seed))
    return model
