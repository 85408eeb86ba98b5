"""Paints one picture in the style of another (Gatys et al. 2016, CVPR).

The picture starts as CONTENT and is changed until net E sees the content of CONTENT (relu4_2) and
the style of STYLE (Gram matrices of relu1_1 to relu5_1) in it. With the authors' or torchvision's
VGG-19 (`vggnet weights fetch torchvision/vgg19`); any other VGG that has these layers works too.

    python examples/style_transfer.py photo.jpg painting.jpg out.png --weights vgg19.pth

Three things are not as in the paper: pictures keep the net's own max-pooling, the start is CONTENT,
not noise, and each loss is counted in what a grey picture loses. So the two weights mean the same
for nets whose activations are of another scale.

Ctrl-C ends it early and saves the best picture so far. Exit codes: 0 done, 1 writing failed, 2 bad
input and nothing written, 130 interrupted.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import vggnet
from vggnet.features import GATYS_CONTENT, GATYS_STYLE
from vggnet.files import check_writable, write_atomically
from vggnet.images import decode, rescale

MINIMUM = 32
"""Smallest side in pixels: the net pools five times."""
KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Of the picture that is written, by its name's ending."""


class Best:
    """The picture of the least loss so far."""

    first: float | None = None
    """The loss that it started from."""
    found: tuple[float, Tensor] | None = None
    """Loss and picture, set at once: Ctrl-C may come between any two statements."""

    def offer(self, loss: float, picture: Tensor) -> None:
        if self.first is None:
            self.first = loss
        if loss < (self.found[0] if self.found else math.inf):
            self.found = loss, picture.detach().clone()


def read(path: Path, size: int) -> Tensor:
    """A picture, RGB 0–1, 1×3×H×W, its smallest side `size` pixels."""
    pixels = torch.from_numpy(rescale(decode(path), size))
    # Contiguous, as L-BFGS wants what it changes.
    return pixels.permute(2, 0, 1)[None].float().contiguous() / 255


def write(picture: Tensor, path: Path) -> None:
    pixels = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    image, kind = Image.fromarray(pixels), KINDS[path.suffix.lower()]
    write_atomically(path, lambda temporary: image.save(temporary, kind))


def paint(
    content: Tensor, style: Tensor, model: vggnet.VGG, args: argparse.Namespace, best: Best
) -> None:
    """Changes the content picture for `args.steps` evaluations of the losses."""
    of_content = vggnet.PerceptualLoss(model, GATYS_CONTENT)
    of_style = vggnet.StyleLoss(model, GATYS_STYLE)
    with torch.no_grad():
        grey = torch.full_like(content, 0.5)
        content_weight = args.content_weight / of_content(grey, content).clamp_min(1e-30)
        style_weight = args.style_weight / of_style(grey, style).clamp_min(1e-30)

    picture = content.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [picture],
        max_iter=args.steps,
        max_eval=args.steps,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    with tqdm(total=args.steps, desc="painting") as bar:

        def evaluate() -> Tensor:
            optimizer.zero_grad()
            shown = picture.clamp(0, 1)
            loss: Tensor = content_weight * of_content(shown, content)
            loss += style_weight * of_style(shown, style)
            loss.backward()  # type: ignore[no-untyped-call]
            best.offer(loss.item(), shown)
            bar.set_postfix(loss=f"{loss.item():.4g}", refresh=False)
            bar.update()
            return loss

        optimizer.step(evaluate)  # type: ignore[no-untyped-call]


def run(args: argparse.Namespace) -> int:
    if args.size < MINIMUM:
        raise vggnet.InputError(f"--size {args.size}: take {MINIMUM} pixels or more")
    if args.steps < 1:
        raise vggnet.InputError(f"--steps {args.steps}: take 1 or more")
    if min(args.content_weight, args.style_weight) < 0:
        raise vggnet.InputError("--content-weight and --style-weight: take 0 or more")
    if args.out.suffix.lower() not in KINDS:
        raise vggnet.InputError(f"{args.out}: end it in {', '.join(KINDS)}")
    if args.out.resolve() in (args.content.resolve(), args.style.resolve()):
        raise vggnet.InputError(f"{args.out}: is one of the pictures: choose another name")
    check_writable(args.out)
    content, style = read(args.content, args.size), read(args.style, args.size)
    model, best, status = vggnet.load(args.weights, head=False), Best(), 0
    try:
        paint(content, style, model, args, best)
    except KeyboardInterrupt:
        status = 130
    if best.found:
        write(best.found[1], args.out)
        print(f"{args.out}: loss {best.first:.4g} at first, {best.found[0]:.4g} now")
    elif status == 0:
        raise vggnet.InputError(f"{args.weights}: the loss is not finite with these weights")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("content", type=Path, metavar="CONTENT")
    parser.add_argument("style", type=Path, metavar="STYLE")
    parser.add_argument("out", type=Path, metavar="OUT", help=", ".join(KINDS))
    parser.add_argument("--weights", type=Path, required=True, help="of net E, in any format")
    parser.add_argument("--size", type=int, default=256, help="smallest side in pixels")
    parser.add_argument("--steps", type=int, default=200, help="evaluations of the losses")
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--style-weight", type=float, default=100.0)
    args = parser.parse_args()
    try:
        return run(args)
    except (vggnet.InputError, vggnet.RunError) as error:
        print(f"style_transfer: {error}", file=sys.stderr)
        return 2 if isinstance(error, vggnet.InputError) else 1
    except KeyboardInterrupt:  # before there was anything to save
        return 130


if __name__ == "__main__":
    sys.exit(main())
