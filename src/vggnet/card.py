"""The card of a net on the Hub: what it is, how it is used, and errors with their protocols."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from vggnet import __version__
from vggnet.configs import MINIMUM, Config
from vggnet.errors import InputError
from vggnet.model import VGG, Provenance
from vggnet.protocols import Fusion, Protocol, scale_text
from vggnet.recipes import as_scale
from vggnet.scoring import Result

Stated = Result | Mapping[str, Any]
"""A result of an evaluation, or what `vggnet evaluate --json` printed of one."""

_ON_HUB = {
    "imagenet": "ILSVRC/imagenet-1k",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar-10": "uoft-cs/cifar10",
    "cifar-100": "uoft-cs/cifar100",
}
"""Names of data sets there."""
_FEW = 100
"""Classes whose names the card lists; all names are in the weight file."""


def card(
    model: VGG,
    results: Sequence[Stated] = (),
    *,
    dataset: str | None = None,
    license: str | None = None,
    repo: str | None = None,
) -> str:
    """README.md with the metadata that the Hub reads.

    Args:
        model: the net.
        results: its errors.
        dataset: name of the data set that the results are on; by default the one it was trained on.
        license: an SPDX-like name as the Hub has them, such as cc-by-4.0.
        repo: on the Hub, for the code in the card; without it, that reads the file beside the card.

    Raises:
        InputError: for results that are not this net's, or of an unknown data set, or a net that is
            not VGG's.
    """
    model.config.check_vgg("a card")
    if isinstance(results, Result | Mapping):
        raise InputError("results: give a list of them, also of one")
    found = [as_result(result) for result in results]
    title = model.config.title
    for result in found:
        if isinstance(result.protocol, Fusion):
            raise InputError("results: a fusion's error is not that of one net: leave it out")
        if result.protocol.net != title:
            raise InputError(f"results: are of net {result.protocol.net}, the net is {title}")
    dataset = dataset or model.provenance.dataset
    if found and dataset is None:
        raise InputError("results: of which data set? Give dataset='…' too")
    sections = [
        _head(model),
        _use(model.config, repo),
        _images(model),
        _errors(found, dataset),
        _training(model.provenance),
        _classes(model),
        _licence(license),
    ]
    return (
        f"---\n{_metadata(model, found, dataset, license)}\n---\n\n" + "\n\n".join(sections) + "\n"
    )


def as_result(stated: Stated) -> Result:
    """A result as such, also from the JSON of `vggnet evaluate --json`.

    Raises:
        InputError: for what is not one.
    """
    if isinstance(stated, Result):
        return stated
    try:
        known = {field.name for field in fields(Result)}
        values = {key: value for key, value in stated.items() if key in known}
        values["protocol"] = _protocol(stated["protocol"])
        for key in ("top1_interval", "top5_interval"):
            low, high = values[key]
            values[key] = float(low), float(high)
        for key in ("top1", "top5"):
            values[key] = float(values[key])
        return Result(**values)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"results: {str(stated)[:60]!r} is no Result, nor what vggnet evaluate --json prints "
            f"({error!r})"
        ) from None


def _protocol(found: Mapping[str, Any]) -> Protocol | Fusion:
    if "nets" in found:
        each = zip(found["nets"], found["Q"], strict=True)
        return Fusion(tuple(_one(found, net, S, Q) for (net, S), Q in each))
    return _one(found, found["net"], found["S"], found["Q"])


def _one(found: Mapping[str, Any], net: str, S: Any, Q: Sequence[int]) -> Protocol:  # noqa: N803
    scale = None if S is None else as_scale(S)
    return Protocol(net, scale, tuple(Q), found["method"], found["averaging"], found["flips"])


def _metadata(
    model: VGG, results: Sequence[Result], dataset: str | None, license: str | None
) -> str:
    """YAML; every error stands in it with its protocol."""
    from huggingface_hub import EvalResult, ModelCardData

    trained = model.provenance.dataset
    data = ModelCardData(
        library_name="vggnet",
        license=license,
        tags=["vgg", f"vgg-{model.config.title.lower()}", "pytorch", "arxiv:1409.1556"],
        pipeline_tag=_task(model.config),
        datasets=[_ON_HUB[trained]] if trained in _ON_HUB else None,
        metrics=["error"] if results else None,
        model_name=f"VGG {model.config.title}" if results else None,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=_ON_HUB.get(dataset or "", dataset or ""),
                dataset_name=dataset or "",
                metric_type="error",
                metric_name=f"{name} error, %",
                metric_value=round(value, 2),
                metric_args={
                    "protocol": str(result.protocol),
                    "n": result.n,
                    "interval": [round(bound, 2) for bound in interval],
                },
            )
            for result in results
            for name, value, interval in (
                ("top-1", result.top1, result.top1_interval),
                ("top-5", result.top5, result.top5_interval),
            )
        ]
        or None,
    )
    return str(data.to_yaml())


def _task(config: Config) -> str:
    if config.boxes is not None:
        return "object-detection"
    return "image-classification" if config.head else "image-feature-extraction"


def _head(model: VGG) -> str:
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    what = f"{config.num_classes:,} classes" if config.head else "without a classifier"
    options = [
        f"{config.width:g} of the paper's width" * (config.width != 1),
        "with batch normalisation, which the paper has not" * config.batch_norm,
        f"{config.in_channels} channels in" * (config.in_channels != 3),
        "giving boxes, no class scores" * (config.boxes is not None),
    ]
    more = "".join(f", {option}" for option in options if option)
    return (
        f"# VGG net {config.title}, {what}\n\n"
        f"Net {config.net} of [Simonyan & Zisserman 2014](https://arxiv.org/abs/1409.1556): "
        f"{config.weight_layers} weight layers, {count:,} parameters, {what}, trained for crops of "
        f"{config.crop}×{config.crop}{more}. `model.safetensors` was written by vggnet "
        f"{__version__} and describes itself."
    )


def _use(config: Config, repo: str | None) -> str:
    """Code that runs as it stands."""
    source = f"VGG.from_pretrained({repo!r})" if repo else 'load("model.safetensors")'
    shape = f"1, {config.in_channels}, {config.crop}, {config.crop}"
    last = [layer.name for layer in config.layers() if layer.kind == "relu"][-1]
    scores = (
        "    scores = model(images)  # before the soft-max",
        "posterior, index = scores.softmax(1).max(1)",
        "names = model.provenance.class_names",
        "print(names[index] if names else index.item(), posterior.item())",
    )
    activations = (
        f'    found = model.activations(images, ["{last}", "pool5"])',
        "print({name: value.shape for name, value in found.items()})",
    )
    boxes = (
        "    found = model(images)  # centre from the crop's, width, height; in crops",
        "print(found.view(len(images), -1, 4))",
    )
    rest = activations if not config.head else scores if config.boxes is None else boxes
    lines = (
        "import torch",
        "import vggnet",
        "",
        f"model = vggnet.{source}",
        f"images = torch.randint(0, 256, ({shape}), dtype=torch.uint8)  # yours here",
        "with torch.inference_mode():",
        *rest,
    )
    code = "\n".join(lines)
    return f"## Use\n\n```console\npip install 'vggnet[hub]'\n```\n\n```python\n{code}\n```"


def _images(model: VGG) -> str:
    config = model.config
    order = "RGB, 0–255" if config.in_channels == 3 else f"{config.in_channels} channels, 0–255"
    mean = ", ".join(f"{value:.3f}" for value in model.mean.tolist())
    smallest = config.crop if config.head else MINIMUM
    return (
        f"## Images\n\n{order}, as uint8 or float, N×{config.in_channels}×H×W with H and W of "
        f"{smallest} or more. The net subtracts its mean ({mean}) itself; do not divide or "
        "normalise before."
    )


def _errors(results: Sequence[Result], dataset: str | None) -> str:
    if not results:
        return "## Errors\n\nNo error is stated: none was given together with its protocol."
    lines = [
        "| top-1 error, % | top-5 error, % | images | protocol |",
        "|---|---|---|---|",
    ]
    for result in results:
        top1 = _interval(result.top1, result.top1_interval)
        top5 = _interval(result.top5, result.top5_interval)
        unread = f" ({result.unread:,} more could not be read)" if result.unread else ""
        lines.append(f"| {top1} | {top5} | {result.n:,}{unread} | {result.protocol} |")
    table = "\n".join(lines)
    return (
        f"## Errors\n\nOn {dataset}, with 95 % Wilson intervals. S is the smallest side of the "
        "training images, Q of the test images, in pixels; errors under different protocols do not "
        f"compare.\n\n{table}"
    )


def _interval(error: float, bounds: tuple[float, float]) -> str:
    return f"{error:.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]"


def _training(known: Provenance) -> str:
    facts = {
        "data set": known.dataset,
        "SHA-256 over its training and validation images": known.data,
        "S": None if known.S is None else scale_text(known.S),
        "seed": known.seed,
        "SHA-256 of the weights it started from": known.parent,
        "converted from": known.source,
    }
    facts |= {
        key.replace("_", " "): value
        for key, value in (known.recipe or {}).items()
        if key not in ("model", "S", "seed")
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value is not None]
    return "## Training\n\n" + ("\n".join(lines) or "Not known: the weight file does not say.")


def _classes(model: VGG) -> str:
    names = model.provenance.class_names
    if names is None or not model.config.head:
        text = "The weight file has no names." if model.config.head else "None."
    else:
        more = f", … ({len(names):,} in the weight file)" if len(names) > _FEW else ""
        text = ", ".join(names[:_FEW]) + more
    return f"## Classes\n\n{text}"


def _licence(license: str | None) -> str:
    stated = license or "Not stated. Weights come under terms of their own, not under vggnet's."
    return f"## Licence\n\n{stated}"
