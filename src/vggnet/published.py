"""Known public VGG weights as data: where they are, under what licence, how good by whose word.

Nothing here was measured by us: every number is its publisher's and bears its protocol. Where a
publisher says nothing, the row has None or 'not stated'.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal

from vggnet.configs import Config
from vggnet.errors import InputError
from vggnet.formats.foreign import CAFFE, FEATURES, RGB_MEAN, TORCHVISION

NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Error:
    """Errors on the validation images of ILSVRC-2012, in percent, as their publisher has them."""

    top1: float | None
    top5: float | None
    protocol: str
    source: str


@dataclass(frozen=True, slots=True)
class Checksum:
    """A hash of the file, or its first digits."""

    kind: Literal["sha256", "sha1", "md5"]
    digits: str
    """Hexadecimal; torchvision publishes the first 8."""
    source: str


@dataclass(frozen=True, slots=True)
class Published:
    """One public file of weights."""

    name: str
    """Publisher and net, as `vggnet weights fetch` takes it."""
    net: str
    """A, B, D or E of Table 1."""
    batch_norm: bool
    head: bool
    """Whether it has the classifier, fc6 to fc8."""
    format: str
    """torchvision, timm, Keras, Caffe or MatConvNet: what `vggnet convert` will find."""
    url: str
    repo: str | None
    """On the Hub, where the Hub's client fetches it."""
    licence: str
    licence_source: str
    checksum: Checksum | None
    mib: float | None
    """Size in MiB (2^20 bytes), where it is published or was recorded in downloads."""
    errors: tuple[Error, ...]
    """The publisher's main number first; empty where there is none."""
    preprocessing: str
    """What the file's own software does to images first; the net that vggnet makes of the file
    takes RGB 0–255 all the same."""
    source: str
    """Of the facts without one of their own."""
    note: str = ""

    @property
    def config(self) -> Config:
        return Config(self.net, batch_norm=self.batch_norm, head=self.head)

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def publisher(self) -> str:
        return self.name.partition("/")[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find(name: str) -> Published:
    """The row of this name.

    Raises:
        InputError: for another name, with the nearest ones.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    same = [key for key in PUBLISHED if key.partition("/")[2].split(".")[0] == name]
    near = same or get_close_matches(name, PUBLISHED, n=3)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise InputError(f"no weights named {name!r} are known: {meant}vggnet weights lists them")


_TORCHVISION_SOURCE = "https://github.com/pytorch/vision, torchvision/models/vgg.py"
_TORCHVISION_LICENCE = (
    "https://github.com/pytorch/vision, README.md, Pre-trained Model License: models 'may have "
    "their own licenses'; it names none for VGG's"
)
# Net, batch normalisation, file, accuracies in percent, MiB: of {NAME}_Weights.IMAGENET1K_V1.
_TORCHVISION = {
    "vgg11": ("A", False, "vgg11-8a719046.pth", 69.020, 88.628, 506.840),
    "vgg11_bn": ("A", True, "vgg11_bn-6002323d.pth", 70.370, 89.810, 506.881),
    "vgg13": ("B", False, "vgg13-19584684.pth", 69.928, 89.246, 507.545),
    "vgg13_bn": ("B", True, "vgg13_bn-abd245e5.pth", 71.586, 90.374, 507.590),
    "vgg16": ("D", False, "vgg16-397923af.pth", 71.592, 90.382, 527.796),
    "vgg16_bn": ("D", True, "vgg16_bn-6c64b313.pth", 73.360, 91.516, 527.866),
    "vgg19": ("E", False, "vgg19-dcbb9e9d.pth", 72.376, 90.876, 548.051),
    "vgg19_bn": ("E", True, "vgg19_bn-c79401a0.pth", 74.218, 91.842, 548.143),
}
_RENAMED = {"vgg11": "vgg11-bbd30ac9.pth", "vgg13": "vgg13-c768596a.pth"}


def _torchvision() -> Iterator[Published]:
    for name, (net, batch_norm, file, top1, top5, mib) in _TORCHVISION.items():
        yield Published(
            f"torchvision/{name}",
            net,
            batch_norm,
            True,
            "torchvision",
            f"https://download.pytorch.org/models/{file}",
            None,
            NOT_STATED,
            _TORCHVISION_LICENCE,
            _in_name(file),
            mib,
            (
                Error(
                    round(100 - top1, 3),
                    round(100 - top5, 3),
                    "centre crop 224, smallest side 256",
                    f"{_TORCHVISION_SOURCE}: accuracies of its own transforms",
                ),
            ),
            str(TORCHVISION),
            f"{_TORCHVISION_SOURCE}: {name.upper()}_Weights.IMAGENET1K_V1",
            f"older torchvision fetched {_RENAMED[name]}" if name in _RENAMED else "",
        )
    file = "vgg16_features-amdegroot-88682ab5.pth"
    yield Published(
        "torchvision/vgg16-features",
        "D",
        False,
        False,
        "torchvision",
        f"https://download.pytorch.org/models/{file}",
        None,
        NOT_STATED,
        _TORCHVISION_LICENCE,
        _in_name(file),
        527.802,
        (),
        str(FEATURES),
        f"{_TORCHVISION_SOURCE}: VGG16_Weights.IMAGENET1K_FEATURES",
        "convolutions only, from github.com/amdegroot/ssd.pytorch; the file's classifier is NaN",
    )


def _in_name(file: str) -> Checksum:
    digits = file.removesuffix(".pth").rpartition("-")[2]
    return Checksum("sha256", digits, "in the file's name, as torch.hub checks it")


_TIMM_SOURCE = "https://github.com/huggingface/pytorch-image-models"
# Net, batch normalisation, errors in percent: of results/results-imagenet.csv.
_TIMM = {
    "vgg11": ("A", False, 30.950, 11.370),
    "vgg11_bn": ("A", True, 29.626, 10.198),
    "vgg13": ("B", False, 30.050, 10.738),
    "vgg13_bn": ("B", True, 28.440, 9.628),
    "vgg16": ("D", False, 28.406, 9.602),
    "vgg16_bn": ("D", True, 26.646, 8.510),
    "vgg19": ("E", False, 27.600, 9.122),
    "vgg19_bn": ("E", True, 25.770, 8.152),
}


def _timm() -> Iterator[Published]:
    for name, (net, batch_norm, top1, top5) in _TIMM.items():
        repo = f"timm/{name}.tv_in1k"
        yield Published(
            repo,
            net,
            batch_norm,
            True,
            "timm",
            f"https://huggingface.co/{repo}/resolve/main/model.safetensors",
            repo,
            "bsd-3-clause",
            f"{_TIMM_SOURCE}, timm/models/vgg.py: default_cfgs",
            None,  # the Hub's client checks the Hub's own
            None,
            (
                Error(
                    top1,
                    top5,
                    "centre crop 224, smallest side 256",
                    f"{_TIMM_SOURCE}, results/results-imagenet.csv: crop_pct 0.875, bilinear",
                ),
            ),
            str(TORCHVISION),
            f"{_TIMM_SOURCE}, timm/models/vgg.py: default_cfgs",
            f"torchvision's {name} under timm's names",
        )


_OXFORD = "http://www.robots.ox.ac.uk/~vgg/research/very_deep/"
_KERAS_SOURCE = "https://github.com/keras-team/keras, keras/src/applications"
_KERAS_README = "https://github.com/keras-team/keras-applications, README.md"
# Net, end of the file's name, MD5, bytes: the sizes are those that Keras' downloads show.
_KERAS = {
    "vgg16": ("D", "", "64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
    "vgg16-notop": ("D", "_notop", "6d6bbae143d832006294945121d1f1fc", 58_889_256),
    "vgg19": ("E", "", "cbe5617147190e668d6c5d5026f83318", 574_710_816),
    "vgg19-notop": ("E", "_notop", "253f8cb515780f3b799900260a226db6", 80_134_624),
}
# Top-1 and top-5 of a centre crop, top-5 of ten crops: of keras-applications' README.
_KERAS_ERRORS = {"vgg16": (28.732, 9.950, 8.834), "vgg19": (28.744, 10.012, 8.774)}


def _keras() -> Iterator[Published]:
    for name, (net, end, md5, size) in _KERAS.items():
        model = name.removesuffix("-notop")
        errors: tuple[Error, ...] = ()
        if not end:
            top1, top5, ten = _KERAS_ERRORS[name]
            errors = (
                Error(top1, top5, "centre crop, input 224", _KERAS_README),
                Error(None, ten, "ten crops, input 224", _KERAS_README),
            )
        yield Published(
            f"keras/{name}",
            net,
            False,
            not end,
            "Keras",
            "https://storage.googleapis.com/tensorflow/keras-applications/"
            f"{model}/{model}_weights_tf_dim_ordering_tf_kernels{end}.h5",
            None,
            "CC BY 4.0",
            "Keras' documentation (keras.io/applications, License): ported from the weights "
            f"released at {_OXFORD} under it",
            Checksum("md5", md5, f"{_KERAS_SOURCE}/{model}.py: file_hash"),
            round(size / 2**20, 1),
            errors,
            str(CAFFE),
            f"{_KERAS_SOURCE}/{model}.py",
            "the authors' convolutions" if end else "the authors' weights",
        )


_PAPER = "https://arxiv.org/abs/1409.1556"
# Net, layers, SHA-1, bytes, top-1 and top-5 at one scale and at three: of the paper's tables.
_AUTHORS = {
    "vgg16": (
        ("D", 16, "9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24", 553_432_081),
        (25.6, 8.1),
        (24.8, 7.5),
        "211839e770f7b538e2d8",
    ),
    "vgg19": (
        ("E", 19, "239785e7862442717d831f682bb824055e51e9ba", 574_671_192),
        (25.5, 8.0),
        (24.8, 7.5),
        "3785162f95cd2d5fee77",
    ),
}


def _authors() -> Iterator[Published]:
    for name, ((net, layers, sha1, size), single, multi, gist) in _AUTHORS.items():
        yield Published(
            f"authors/{name}",
            net,
            False,
            True,
            "Caffe",
            "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/"
            f"VGG_ILSVRC_{layers}_layers.caffemodel",
            None,
            "CC BY 4.0",
            f"the authors' gist refers to {_OXFORD}; that it says so is told by Keras' "
            "documentation and by the Open Model Zoo (models/public/vgg16/model.yml)",
            Checksum(
                "sha1",
                sha1,
                "MXNet's model zoo for both nets, OpenCV's download_models.py for the 16-layer "
                "one; the authors publish none",
            ),
            round(size / 2**20, 1),
            (
                Error(*multi, "dense, Q=256, 384, 512, flips", f"{_PAPER}, Table 4"),
                Error(*single, "dense, Q=384, flips", f"{_PAPER}, Table 3"),
            ),
            str(CAFFE),
            f"https://gist.github.com/ksimonyan/{gist}; size: the Open Model Zoo, "
            f"models/public/{name}/model.yml",
            "trained with S in [256;512]",
        )


_MATCONVNET_SOURCE = "https://github.com/vlfeat/matconvnet, doc/site/docs/pretrained.md"
# Net, file, MD5, errors in percent.
_MATCONVNET = {
    "vgg16": ("D", "imagenet-vgg-verydeep-16", "f72d927587ca4c97fbd165ec9cb9997f", 28.5, 9.9),
    "vgg19": ("E", "imagenet-vgg-verydeep-19", "106118b7cf60435e6d8e04f6a6dc3657", 28.7, 9.9),
    "vgg16-own": (
        "D",
        "imagenet-matconvnet-vgg-verydeep-16",
        "89a117515f66c3d7b0eb9d0516c65141",
        28.3,
        9.5,
    ),
}


def _matconvnet() -> Iterator[Published]:
    for name, (net, file, md5, top1, top5) in _MATCONVNET.items():
        own = name.endswith("-own")
        yield Published(
            f"matconvnet/{name}",
            net,
            False,
            True,
            "MatConvNet",
            f"http://www.vlfeat.org/matconvnet/models/{file}.mat",
            None,
            NOT_STATED,
            f"{_MATCONVNET_SOURCE}: 'please credit the original authors'",
            Checksum("md5", md5, f"{_MATCONVNET_SOURCE}, File checksums"),
            None,
            (Error(top1, top5, "centre crop", _MATCONVNET_SOURCE),),
            "as the file's meta.normalization says" if own else str(RGB_MEAN),
            _MATCONVNET_SOURCE,
            "trained with MatConvNet and batch normalisation, which was then folded into the "
            "convolutions"
            if own
            else "the authors' weights, imported from Caffe",
        )


PUBLISHED: dict[str, Published] = {
    row.name: row
    for rows in (_torchvision(), _timm(), _keras(), _authors(), _matconvnet())
    for row in rows
}
"""By name, the publishers one after another."""
