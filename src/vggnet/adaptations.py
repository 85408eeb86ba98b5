"""The paper's training runs fitted to other data than ImageNet: size, batch, rate, epochs.

Each function takes a run of `recipes` and names its departures.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vggnet.recipes import PAPER_CROP, TrainConfig, in_proportion


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How the paper's runs are fitted to a data set; the defaults leave them as they are."""

    crop: int = PAPER_CROP
    """Side of the crop in pixels."""
    width: float = 1.0
    """Multiplies the nets' channels."""
    grid_crop: int | None = None
    """For the whole grid, where it is another: at a crop of 32 the score map of S = 384's images
    is one cell, which sees no more than a crop in the upper left corner."""
    grid_width: float | None = None
    fit: Callable[[TrainConfig], TrainConfig] = lambda recipe: recipe
    """Batch size, rate and epochs for the amount of data."""


def on_digits(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on 1,000 images of digits instead of 1.3 million photographs.

    Departures: batches of 64, since one of 256 would leave four steps an epoch; half the rate, at
    which so few steps settle (docs/LOG.md); 45 epochs at most, 6 without a gain being a plateau.
    The runs at S = 384 and jittered start from trained nets: 20 epochs, 4 a plateau, and twice
    the paper's rate, since so much of a digit is outside its crop that they have much to learn.
    B-5x5 has a fifth of the rate: at half of it, its 5×5 convolutions die from a random start.
    OverFeat keeps its rate, which is a tenth of the others'.
    """
    if recipe.S == in_proportion(256, recipe.model.crop):
        rate, epochs, patience = recipe.learning_rate / 2, 45, 6
    else:
        rate, epochs, patience = recipe.learning_rate * 2, 20, 4
    if recipe.model.net == "B-5x5":
        rate = recipe.learning_rate / 5
    if recipe.model.net == "OverFeat" and recipe.S == in_proportion(256, recipe.model.crop):
        rate = recipe.learning_rate
    return replace(recipe, batch_size=64, learning_rate=rate, epochs=epochs, patience=patience)


def on_fashion_mnist(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on 55,000 images of garments, 28×28 grey.

    Departures: batches of 128; 8 epochs at most, 1 without a gain being a plateau. The runs at S =
    384 and jittered start from trained nets: 6 epochs at twice the paper's rate, as on the digits.
    B-5x5 has a fifth of the rate: at the paper's it does not learn (docs/LOG.md).
    At the paper's width `on_fashion_mnist_in_full` is taken instead.
    """
    if recipe.model.width >= 1:
        return on_fashion_mnist_in_full(recipe)
    return _on_small_images(recipe, epochs=8, later_epochs=6, patience=1)


def on_fashion_mnist_in_full(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on Fashion-MNIST at the paper's width, for a GPU.

    Batches of 256, rates, momentum and penalty are the paper's. Departures: 30 epochs at most, 3
    without a gain being a plateau; the runs at S = 384 and jittered start from trained nets: 20.
    """
    epochs = 30 if recipe.S == in_proportion(256, recipe.model.crop) else 20
    return replace(recipe, epochs=epochs, patience=3)


def on_cifar_10(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on 45,000 photographs of 32×32, CIFAR-10's; CIFAR-100's too.

    Departures: batches of 128; 12 epochs at most, 2 without a gain being a plateau. The runs at S =
    384 and jittered start from trained nets: 8 epochs at twice the paper's rate, as on the digits.
    B-5x5 has a fifth of the rate.
    The images are enlarged: S = 256 is 73 pixels at a crop of 64. At the paper's width
    `on_cifar_10_in_full` is taken instead. Drawn from Fashion-MNIST's, not measured.
    """
    if recipe.model.width >= 1:
        return on_cifar_10_in_full(recipe)
    return _on_small_images(recipe, epochs=12, later_epochs=8, patience=2)


def _on_small_images(
    recipe: TrainConfig, *, epochs: int, later_epochs: int, patience: int
) -> TrainConfig:
    """Batches of 128; `later_epochs` for the runs that start from trained nets."""
    rate = recipe.learning_rate
    if recipe.S != in_proportion(256, recipe.model.crop):
        rate, epochs = rate * 2, later_epochs
    elif recipe.model.net == "B-5x5":
        rate /= 5
    return replace(recipe, batch_size=128, learning_rate=rate, epochs=epochs, patience=patience)


def on_cifar_10_in_full(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on CIFAR-10 or CIFAR-100 at the paper's width, for a GPU.

    Batches of 256, rates, momentum and penalty are the paper's, and so are 74 epochs at most.
    Departures: 4 epochs without a gain are a plateau; the runs at S = 384 and jittered start from
    trained nets: 20 epochs. Not measured.
    """
    epochs = recipe.epochs if recipe.S == in_proportion(256, recipe.model.crop) else 20
    return replace(recipe, epochs=epochs, patience=4)


def on_digits_on_photos(recipe: TrainConfig) -> TrainConfig:
    """A run of the paper on 3,000 canvases.

    Departures: batches of 64; 30 epochs at most, 6 without a gain being a plateau. Net A does not
    learn from a random start here: it starts from one trained on `digits` at the same crop. The
    runs at S = 384 have four times the paper's rate, and 15 epochs. Boxes have five times the
    paper's rate (at ten times some of them diverge), and 100 epochs.
    """
    recipe = replace(recipe, batch_size=64, epochs=30, patience=6)
    if recipe.model.boxes is not None:
        return replace(recipe, learning_rate=recipe.learning_rate * 5, epochs=100)
    if recipe.S != in_proportion(256, recipe.model.crop):
        return replace(recipe, learning_rate=recipe.learning_rate * 4, epochs=15)
    return recipe


ADAPTATIONS = {
    "digits": Adaptation(32, 0.125, grid_crop=64, grid_width=0.0625, fit=on_digits),
    "digits-on-photos": Adaptation(64, 0.125, fit=on_digits_on_photos),
    "fashion-mnist": Adaptation(64, 0.125, fit=on_fashion_mnist),
    "cifar-10": Adaptation(64, 0.125, fit=on_cifar_10),
    "cifar-100": Adaptation(64, 0.125, fit=on_cifar_10),
}


def adaptation(data: str) -> Adaptation:
    """That of a data set, by its name or by what the command line calls it."""
    return ADAPTATIONS.get(data.partition(":")[0], Adaptation())
