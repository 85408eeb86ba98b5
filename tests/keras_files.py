"""Files that Keras itself writes, and what it makes of ours; run apart, for its import warns.

    python -W ignore tests/keras_files.py make FOLDER     small nets in every layout
    python -W ignore tests/keras_files.py one FOLDER      one small net in every layout
    python -W ignore tests/keras_files.py full FOLDER     VGG16 and VGG19 at full size
    python -W ignore tests/keras_files.py score FOLDER    of the files that jobs.json names

Scores and the images that they are of are beside each file, in FILE.npz.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONVOLUTIONS = {"VGG16": (2, 2, 3, 3, 3), "VGG19": (2, 2, 4, 4, 4)}
CLASSES, WIDTH = 7, 1 / 32


def run(*arguments: str | Path) -> None:
    """Runs this file with Keras on PyTorch."""
    command = [sys.executable, "-W", "ignore", __file__, *map(str, arguments)]
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def images(size: int) -> NDArray[np.uint8]:
    """RGB, N×H×W×3: noise over a gradient, so that no channel or corner is alike."""
    noise = np.random.default_rng(0).integers(0, 120, (1 if size > 200 else 2, size, size, 3))
    slope = np.linspace(0, 100, size)
    return (noise + slope[:, None, None] + slope[None, :, None] / 3).astype(np.uint8)


def layers(net: str, width: float, classes: int, *, top: bool = True, end: str = "softmax") -> Any:
    """Keras' layers after the input, under its names and with `width` times the channels."""
    from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D

    for s, count in enumerate(CONVOLUTIONS[net], start=1):
        for i in range(1, count + 1):
            channels = int(width * (64, 128, 256, 512, 512)[s - 1])
            name = f"block{s}_conv{i}"
            yield Conv2D(channels, 3, activation="relu", padding="same", name=name)
        yield MaxPooling2D(2, 2, name=f"block{s}_pool")
    if top:
        yield Flatten(name="flatten")
        yield Dense(int(4096 * width), activation="relu", name="fc1")
        yield Dense(int(4096 * width), activation="relu", name="fc2")
        yield Dense(classes, activation=end, name="predictions")


def narrow(net: str, size: int | None, steps: Any = None, **options: Any) -> Any:
    """A model as keras.applications makes them, but narrow."""
    import keras

    start = value = keras.Input((size, size, 3))
    for layer in steps or layers(net, WIDTH, CLASSES, **options):
        value = layer(value)
    return keras.Model(start, value)


def randomize(model: Any, seed: int) -> None:
    """Weights and biases at random, so that activations stay near 1 and classes differ."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if len(layer.weights) != 2:
            continue
        kernel, bias = layer.get_weights()
        bound = (6 / np.prod(kernel.shape[:-1])) ** 0.5
        bound *= {"block1_conv1": 1 / 60, "predictions": 1.5}.get(layer.name, 1)
        layer.set_weights(
            [
                (generator.random(kernel.shape, np.float32) - 0.5) * np.float32(2 * bound),
                (generator.random(bias.shape, np.float32) - 0.5) * np.float32(0.5),
            ]
        )


def expected(model: Any, net: str, size: int, path: Path) -> None:
    """What Keras makes of the images, put beside the file."""
    import keras

    ours = images(size)
    app = keras.applications.vgg16 if net == "VGG16" else keras.applications.vgg19
    found = model.predict(app.preprocess_input(ours.astype(np.float32)), verbose=0)
    np.savez(f"{path}.npz", images=ours, found=found)


def keep(folder: Path, name: str, model: Any, net: str = "VGG16", size: int = 32) -> None:
    """Saves a model in every layout that Keras 3 writes."""
    randomize(model, seed=len(name))
    model.save_weights(folder / f"{name}.weights.h5")
    model.save(folder / f"{name}.keras")
    model.save(folder / f"{name}.whole.h5")
    legacy(model, folder / f"{name}.legacy.h5")
    expected(model, net, size, folder / name)


def make(folder: Path) -> None:
    import keras
    from keras import layers as kinds

    keep(folder, "vgg16", narrow("VGG16", 64), size=64)
    keep(folder, "vgg19", narrow("VGG19", 32, end="linear"), "VGG19")
    keep(folder, "vgg16-notop", narrow("VGG16", None, top=False), size=96)
    pooled = [*layers("VGG19", WIDTH, 0, top=False), kinds.GlobalAveragePooling2D()]
    keep(folder, "vgg19-pooled", narrow("VGG19", None, pooled), "VGG19")
    steps = list(layers("VGG16", WIDTH, CLASSES))
    steps[-1:-1] = [kinds.Dropout(0.5)]
    copies = [type(step).from_config(step.get_config() | {"name": None}) for step in steps]
    keep(folder, "unnamed", keras.Sequential([keras.Input((32, 32, 3)), *copies]))
    keep(folder, "adam", compiled(narrow("VGG16", 32)))

    bare = list(layers("VGG16", WIDTH, 0, top=False))
    mine = [kinds.Flatten(), kinds.Dense(9, activation="softmax", name="mine")]
    keep(folder, "own-head", narrow("VGG16", 32, [*bare, *mine]))
    vgg = narrow("VGG16", 32, top=False)
    vgg.name = "vgg"
    nested = keras.Sequential([vgg, kinds.Flatten(), kinds.Dense(9, activation="softmax")])
    randomize(vgg, 5)
    nested.save(folder / "nested.keras")
    nested.save(folder / "nested.whole.h5")
    nested.save_weights(folder / "nested.weights.h5")
    rescaled = [kinds.Rescaling(1 / 255), *layers("VGG16", WIDTH, CLASSES)]
    keep(folder, "rescaled", narrow("VGG16", 32, rescaled))
    normed = list(layers("VGG16", WIDTH, CLASSES))
    normed.insert(1, kinds.BatchNormalization(scale=False, center=False))
    keep(folder, "normed", narrow("VGG16", 32, normed))
    # What the error about another head tells people to do, word for word but for the name.
    vgg = keras.models.load_model(folder / "own-head.keras")
    alone = keras.Model(vgg.input, vgg.get_layer("block5_pool").output)
    alone.save_weights(folder / "alone.weights.h5")
    expected(alone, "VGG16", 32, folder / "alone")


def compiled(model: Any) -> Any:
    """A model after a step of training, whose files hold an optimizer's arrays too."""
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.train_on_batch(np.zeros((1, 32, 32, 3)), np.eye(CLASSES)[:1])
    return model


def full(folder: Path) -> None:
    """Keras' own classes, 1,000 classes, images of 224: VGG16 as weights, VGG19 as a model."""
    import keras

    without_initialization()
    vgg16 = keras.applications.VGG16(weights=None)
    randomize(vgg16, 1)
    legacy(vgg16, folder / "vgg16.h5")
    expected(vgg16, "VGG16", 224, folder / "vgg16.h5")
    del vgg16
    vgg19 = keras.applications.VGG19(weights=None)
    randomize(vgg19, 2)
    vgg19.save(folder / "vgg19.keras")
    expected(vgg19, "VGG19", 224, folder / "vgg19.keras")


def without_initialization() -> None:
    """Half a gigabyte at random takes seconds, and is replaced at once."""
    import keras

    keras.initializers.GlorotUniform.__call__ = lambda self, shape, dtype=None: keras.ops.zeros(
        shape, dtype
    )


def legacy(model: Any, path: Path) -> None:
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def score(folder: Path) -> None:
    """Loads files that are not Keras' own, each as its job says, and keeps the scores."""
    import keras

    without_initialization()
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        path, net = folder / name, job["net"]
        if job["width"] == 1:
            model = getattr(keras.applications, net)(weights=str(path), **job["options"])
        else:
            model = narrow(net, job["size"], layers(net, job["width"], CLASSES, top=job["top"]))
            model.load_weights(path)
        expected(model, net, job["size"], path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", target]:
            make(Path(target))
        case ["one", target]:
            keep(Path(target), "vgg16", narrow("VGG16", 32))
        case ["full", target]:
            full(Path(target))
        case ["score", target]:
            score(Path(target))
