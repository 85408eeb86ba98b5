"""The nets that the paper compares itself with in Table 7, as data, each from its own paper.

Clarifai's is not among them: it was never published. What a paper leaves open is in
docs/choices.md. They run, train, are saved and are tested by what runs VGG: `model.VGG`'s forward
is the same line of layers, with the head as a convolution.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.layers import LRN, Inception, Layer

_VGGS_CROP = 224
SIDE_WEIGHT = 0.3
"""Of the side classifiers in the loss (Szegedy et al. 2014, §5)."""
_SIDE_DROPOUT = 0.7


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution and its ReLU."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Max-pooling. A last window that is not whole counts, as in cuda-convnet and Caffe, by which
    most of these nets were made."""

    kernel: int
    stride: int


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Spatial pyramid pooling: bins a side of each level."""

    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Net:
    """A net of another paper."""

    system: str
    """Its row in Table 7."""
    crop: int
    """Side in pixels of the crop that it was made for."""
    body: tuple[tuple[str, Conv | Pool | LRN | Inception | Pyramid], ...]
    """Layers by their names in the literature, before the classifier."""
    fc: tuple[int, ...]
    """Channels of the fully connected layers before the last. Without any, the last map is
    averaged over the window of a crop."""
    dropout: float = 0.5
    """Probability; before every fully connected layer but the first, or before the only one."""
    sides: tuple[str, ...] = ()
    """Layers with a classifier at their side in training."""
    says: str = ""
    """What is measured here, where that is not the system of the row."""
    published: str = ""
    """Parameters as its paper prints them, or as Caffe's public file has them."""


RIVALS: dict[str, Net] = {
    # Krizhevsky, Sutskever & Hinton 2012, §3.5 and Fig. 2. Two groups, as on two GPUs. The paper
    # prints a crop of 224; 55×55 positions of an 11×11 kernel at stride 4 need 227.
    "Krizhevsky": Net(
        "Krizhevsky et al. (1 net)",
        227,
        (
            ("conv1", Conv(96, 11, stride=4)),
            ("norm1", LRN()),
            ("pool1", Pool(3, 2)),  # §3.4: overlapping
            ("conv2", Conv(256, 5, padding=2, groups=2)),
            ("norm2", LRN()),
            ("pool2", Pool(3, 2)),
            ("conv3", Conv(384, 3, padding=1)),
            ("conv4", Conv(384, 3, padding=1, groups=2)),
            ("conv5", Conv(256, 3, padding=1, groups=2)),
            ("pool5", Pool(3, 2)),
        ),
        (4096, 4096),
        published="60,965,224 (Caffe)",
    ),
    # Zeiler & Fergus 2013, Fig. 3: maps of 110, 55, 26, 13, 13, 13, 13 and 6. Normalised after the
    # pooling.
    "ZF": Net(
        "Zeiler & Fergus (1 net)",
        224,
        (
            ("conv1", Conv(96, 7, stride=2, padding=1)),
            ("pool1", Pool(3, 2)),
            ("norm1", LRN()),
            ("conv2", Conv(256, 5, stride=2)),
            ("pool2", Pool(3, 2)),
            ("norm2", LRN()),
            ("conv3", Conv(384, 3, padding=1)),
            ("conv4", Conv(384, 3, padding=1)),
            ("conv5", Conv(256, 3, padding=1)),
            ("pool5", Pool(3, 2)),
        ),
        (4096, 4096),
        says="here its Fig. 3; the paper's number is its wider net's",
    ),
    # Sermanet et al. 2013, Table 1: the fast model. Not normalised, poolings do not overlap (§3.1).
    "OverFeat": Net(
        "OverFeat (1 net)",
        231,
        (
            ("conv1", Conv(96, 11, stride=4)),
            ("pool1", Pool(2, 2)),
            ("conv2", Conv(256, 5)),
            ("pool2", Pool(2, 2)),
            ("conv3", Conv(512, 3, padding=1)),
            ("conv4", Conv(1024, 3, padding=1)),
            ("conv5", Conv(1024, 3, padding=1)),
            ("pool5", Pool(2, 2)),
        ),
        (3072, 4096),
        says="here its fast net; the paper's number is its accurate net's",
        published="145 million",
    ),
    # Szegedy et al. 2014, Table 1 and Fig. 3; side classifiers and their numbers: §5.
    "GoogLeNet": Net(
        "GoogLeNet (1 net)",
        224,
        (
            ("conv1", Conv(64, 7, stride=2, padding=3)),
            ("pool1", Pool(3, 2)),
            ("norm1", LRN()),
            ("conv2_reduce", Conv(64, 1)),
            ("conv2", Conv(192, 3, padding=1)),
            ("norm2", LRN()),
            ("pool2", Pool(3, 2)),
            ("inception3a", Inception(64, 96, 128, 16, 32, 32)),
            ("inception3b", Inception(128, 128, 192, 32, 96, 64)),
            ("pool3", Pool(3, 2)),
            ("inception4a", Inception(192, 96, 208, 16, 48, 64)),
            ("inception4b", Inception(160, 112, 224, 24, 64, 64)),
            ("inception4c", Inception(128, 128, 256, 24, 64, 64)),
            ("inception4d", Inception(112, 144, 288, 32, 64, 64)),
            ("inception4e", Inception(256, 160, 320, 32, 128, 128)),
            ("pool4", Pool(3, 2)),
            ("inception5a", Inception(256, 160, 320, 32, 128, 128)),
            ("inception5b", Inception(384, 192, 384, 48, 128, 128)),
        ),
        (),
        dropout=0.4,
        sides=("inception4a", "inception4d"),
        published="6,998,552 (Caffe)",
    ),
    # He et al. 2014 (MSRA), Table 1: ZF-5, its maps 55, 27 and 13; §4.1: the pyramid's 50 bins.
    "SPP": Net(
        "MSRA (1 net)",
        224,
        (
            ("conv1", Conv(96, 7, stride=2, padding=1)),
            ("norm1", LRN()),
            ("pool1", Pool(3, 2)),
            ("conv2", Conv(256, 5, stride=2, padding=1)),
            ("norm2", LRN()),
            ("pool2", Pool(3, 2)),
            ("conv3", Conv(384, 3, padding=1)),
            ("conv4", Conv(384, 3, padding=1)),
            ("conv5", Conv(256, 3, padding=1)),
            ("spp", Pyramid((6, 3, 2, 1))),
        ),
        (4096, 4096),
        says="here its pyramid on a ZF body; the paper's number is a body of seven convolutions'",
    ),
}

MEASURED_HERE = {net.system: net.says for net in RIVALS.values() if net.says} | dict.fromkeys(
    ("Clarifai (multiple nets)", "Clarifai (1 net)"), "not measured: the net was never published"
)
"""What Table 7 says of a row where its nets are measured."""


@dataclass(frozen=True, slots=True)
class Rival(Config):
    """One of `RIVALS` and its options. `crop` is of any side that leaves its last map something.

    The last layer is called fc8, as the literature calls it in the others, in GoogLeNet too.

    Raises:
        InputError: as `Config`; for a crop that is too small, or an option that is VGG's alone.
    """

    def check_net(self) -> None:
        if self.net not in RIVALS:
            raise InputError(f"unknown net {self.net!r}: the nets are {', '.join(RIVALS)}")
        if self.batch_norm or not self.head or self.boxes is not None:
            raise InputError(
                f"net {self.net} is as in its paper: leave batch_norm, head and boxes out"
            )

    def check_crop(self) -> None:
        if not self._fits(self.crop):
            least = next(crop for crop in range(self.crop + 1, 225) if self._fits(crop))
            raise InputError(
                f"crop {self.crop} leaves nothing of net {self.net}'s last map: take {least} or "
                "more"
            )

    @property
    def of_paper(self) -> Net:
        return RIVALS[self.net]

    @property
    def is_vgg(self) -> bool:
        return False

    @property
    def minimum(self) -> int:
        return self.crop

    def channels(self, paper: int) -> int:
        """An even number, for Krizhevsky's two groups."""
        return 2 * max(1, round(paper * self.width / 2))

    def layers(self) -> tuple[Layer, ...]:
        """Every step in order: the body, then `fc6`, `relu6`, `drop6`, …, `fc8`, as VGG's."""
        body = list(self._body(self.crop))
        layers, side = [layer for layer, _ in body], body[-1][1]
        channels = layers[-1].out_channels
        if not self.of_paper.fc:
            layers.append(Layer("pool5", "mean", channels, channels, side))
            layers.append(Layer("drop7", "dropout", channels, channels))
        for number, paper in enumerate(self.of_paper.fc, start=6):
            out = self.channels(paper)
            layers.append(Layer(f"fc{number}", "fc", channels, out, side))
            layers.append(Layer(f"relu{number}", "relu", out, out))
            layers.append(Layer(f"drop{number}", "dropout", out, out))
            channels, side = out, 1
        layers.append(Layer("fc8", "fc", channels, self.num_classes))
        return tuple(layers)

    def sides(self) -> dict[str, tuple[Layer, ...]]:
        """GoogLeNet's (§5): 5×5 mean pooling of stride 3, 1×1 to 128, FC-1024, FC-classes."""
        found: dict[str, tuple[Layer, ...]] = {}
        for layer, side in self._body(self.crop):
            if layer.name not in self.of_paper.sides:
                continue
            name, channels = f"side{len(found) + 1}", layer.out_channels
            few, many = self.channels(128), self.channels(1024)
            # At small crops the map is smaller than the window.
            pool = Layer(f"{name}_pool", "mean", channels, channels, min(5, side), stride=3)
            found[layer.name] = (
                pool,
                Layer(f"{name}_conv", "conv", channels, few),
                Layer(f"{name}_relu1", "relu", few, few),
                Layer(f"{name}_fc1", "fc", few, many, pool.side(side)),
                Layer(f"{name}_relu2", "relu", many, many),
                Layer(f"{name}_drop", "dropout", many, many, rate=_SIDE_DROPOUT),
                Layer(f"{name}_fc2", "fc", many, self.num_classes),
            )
        return found

    def _fits(self, crop: int) -> bool:
        return all(side >= 1 for _, side in self._body(crop))

    def _body(self, crop: int) -> Iterator[tuple[Layer, int]]:
        """The layers before the classifier, each with its output's side at this crop."""
        channels, side = self.in_channels, crop
        for name, item in self.of_paper.body:
            layer = self._layer(name, item, channels)
            channels, side = layer.out_channels, layer.side(side)
            yield layer, side
            if isinstance(item, Conv):
                yield Layer(name.replace("conv", "relu"), "relu", channels, channels), side

    def _layer(
        self, name: str, item: Conv | Pool | LRN | Inception | Pyramid, inputs: int
    ) -> Layer:
        match item:
            case Conv():
                out = self.channels(item.channels)
                options = item.kernel, None, item.stride, item.padding, item.groups
                return Layer(name, "conv", inputs, out, *options)
            case Pool():
                return Layer(
                    name, "pool", inputs, inputs, item.kernel, None, item.stride, ceil=True
                )
            case LRN():
                return Layer(name, "lrn", inputs, inputs, lrn=item)
            case Inception():
                widths = Inception(**{k: self.channels(v) for k, v in asdict(item).items()})
                return Layer(name, "inception", inputs, widths.channels, inception=widths)
            case Pyramid():
                bins = sum(level * level for level in item.levels)
                return Layer(name, "pyramid", inputs, inputs * bins, pyramid=item.levels)


def of(values: dict[str, Any]) -> Config:
    """The config of these values, which a weight file has; its net tells whose it is.

    Raises:
        InputError: as `Config` and `Rival`.
    """
    return (Rival if values.get("net") in RIVALS else Config)(**values)


def beside(net: str, vgg: Config) -> Rival:
    """A rival as it is compared with VGG: the crop that it was made for, in VGG's proportion to
    224; the same classes and width; its own paper's dropout."""
    crop = round(RIVALS[net].crop * vgg.crop / _VGGS_CROP)
    return Rival(net, vgg.num_classes, vgg.in_channels, crop, vgg.width, RIVALS[net].dropout)
