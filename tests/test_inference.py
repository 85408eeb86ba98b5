"""`vggnet.fast` against the model in float64: every net, size, batch and layer."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vggnet
from vggnet.configs import NETS
from vggnet.errors import InputError
from vggnet.evaluate import measure, posteriors
from vggnet.inference import Plain, engine
from vggnet.inference.cpu import OnCPU
from vggnet.kernels import library as building
from vggnet.model import VGG


def pixels(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def with_statistics(model: VGG) -> VGG:
    """Batch normalisation as after training: no statistics of 0 and 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("batch_norm", [False, True], ids=["", "BN"])
@pytest.mark.parametrize("net", NETS)
def test_every_layer(net: str, batch_norm: bool) -> None:
    """Named activations and scores, at the crop and dense, of odd sizes and narrow nets too."""
    for crop, width, lrn in ((64, 0.04, "caffe"), (32, 0.25, "krizhevsky")):
        model = vggnet.build(
            net,
            crop=crop,
            width=width,
            num_classes=11,
            batch_norm=batch_norm,
            lrn=lrn,  # type: ignore[arg-type]
        )
        model = with_statistics(model)
        # Those before a batch normalisation are the model's own, see below.
        kinds = {"conv"} if batch_norm else set()
        names = [layer.name for layer in model.config.layers() if layer.kind not in kinds]
        names.append("scores")
        fast = vggnet.fast(model, threads=2)
        assert isinstance(fast, OnCPU)
        exact = vggnet.build(
            net,
            crop=crop,
            width=width,
            num_classes=11,
            batch_norm=batch_norm,
            lrn=lrn,  # type: ignore[arg-type]
        )
        exact.load_state_dict(model.state_dict())
        exact.double()
        for n, height, wide in ((1, crop, crop), (3, crop + 37, crop + 70)):
            images = pixels(n, height, wide)
            with torch.inference_mode():
                expected = exact.activations(images, names)
            found = fast.activations(images, names)
            assert list(found) == names
            for name in names:
                assert found[name].shape == expected[name].shape, name
                # Rounding of some layers in float32; the bar of the scores is 1e-4.
                assert error(found[name], expected[name]) < 2e-5, name
            scores = fast(images)
            assert torch.equal(scores, found["scores"])  # what is asked for besides changes nothing
            assert torch.equal(fast.score_map(images), found["fc8"])
            if batch_norm:
                before = fast.activations(images, ["conv2_1"])["conv2_1"]
                with torch.inference_mode():
                    assert torch.equal(before, model.activations(images, ["conv2_1"])["conv2_1"])
            one_by_one = torch.cat([fast(image[None]) for image in images])
            assert torch.equal(one_by_one, scores)  # nor who else is in the batch


def test_parts_of_a_net() -> None:
    """A forward ends at the last layer that is asked for, whatever else is asked for."""
    model = vggnet.build("D", crop=32, width=0.25, num_classes=5)
    fast, images = vggnet.fast(model), pixels(2, 40, 50)
    for names in (["conv1_1"], ["pool3", "relu1_2"], ["relu5_3"], ["drop6", "conv4_2"], ["fc7"]):
        with torch.inference_mode():
            expected = model.activations(images, names)
        found = fast.activations(images, names)
        assert list(found) == names
        for name in names:
            assert error(found[name], expected[name]) < 2e-5


def test_large_maps_go_image_by_image() -> None:
    """The full width at 224: maps of megabytes, groups of output channels, as users run it."""
    model = vggnet.build("A", num_classes=20)
    fast, images = vggnet.fast(model, threads=2), pixels(3, 224, 224)
    names = ["relu1_1", "pool3", "conv4_1", "scores"]
    with torch.inference_mode():
        expected = model.activations(images, names)
    found = fast.activations(images, names)
    for name in names:
        assert error(found[name], expected[name]) < 2e-5
    assert torch.equal(fast(images), found["scores"])
    # A's eight convolutions in Winograd's domain, counted by hand: 36 values a kernel of 9.
    convolutions = [
        (64, 128),
        (128, 256),
        (256, 256),
        (256, 512),
        (512, 512),
        (512, 512),
        (512, 512),
    ]
    transformed = 4 * 36 * sum(a * b for a, b in convolutions)
    assert transformed < fast.bytes < transformed + 150e6


def test_weights_are_prepared_by_the_first_call_that_needs_them() -> None:
    model = vggnet.build("D", crop=32, width=0.5, num_classes=5)
    images = pixels(1, 32, 32)
    whole, fast = vggnet.fast(model), vggnet.fast(model)
    assert fast.bytes == 0
    expected = whole(images)
    fast.activations(images, ["relu3_3"])
    # In Winograd's domain 36 values a kernel of 9; conv1_1 is no such layer. To stage 3 and to 5.
    few = [(32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 128)]
    most = [(128, 256), *[(256, 256)] * 5]
    missing = whole.bytes - fast.bytes
    assert missing > 4 * 16 * sum(a * b for a, b in most)  # 2×2 outputs: 16 values a kernel
    assert fast.bytes > 4 * 36 * sum(a * b for a, b in few)
    # Two threads that come at the same time get the same scores.
    found: list[Tensor] = []
    workers = [threading.Thread(target=lambda: found.append(fast(images))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 2
    assert all(torch.equal(scores, expected) for scores in found)
    assert fast.bytes == whole.bytes


def test_images_of_every_kind() -> None:
    model = vggnet.build("A", crop=32, width=0.25, num_classes=5)
    fast, images = vggnet.fast(model), pixels(2, 48, 40)
    expected = fast(images)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    for same in (channels_last, images.float(), images.double(), images.flip(3).flip(3)):
        assert torch.equal(fast(same), expected)
    wide = pixels(2, 48, 80)
    assert torch.equal(fast(wide[..., ::2]), fast(wide[..., ::2].contiguous()))


def test_without_a_head_and_other_channels() -> None:
    config = vggnet.Config("D", crop=32, width=0.25, head=False)
    from vggnet.model import empty

    model = empty(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    fast, images = vggnet.fast(model), pixels(2, 64, 40)
    with torch.inference_mode():
        expected = model.activations(images, ["pool5"])["pool5"]
    assert error(fast.activations(images, ["pool5"])["pool5"], expected) < 2e-5
    with pytest.raises(InputError, match="without its classifier"):
        fast(images)
    grey = vggnet.build("A", crop=32, width=0.25, in_channels=1, num_classes=5)
    images = images[:, :1]
    with torch.inference_mode():
        assert error(vggnet.fast(grey)(images), grey(images)) < 2e-5


@pytest.mark.parametrize("fc", ["bfloat16", "int8"])
def test_stored_weights(fc: str) -> None:
    """Against the model with its weights rounded as the format rounds them."""
    model = vggnet.build("A", crop=32, width=0.5, num_classes=50)
    rounded = vggnet.build("A", crop=32, width=0.5, num_classes=50)
    rounded.load_state_dict(model.state_dict())
    for name in ("fc6", "fc7", "fc8"):
        weight = getattr(rounded, name).weight.data
        if fc == "bfloat16":
            weight.copy_(weight.bfloat16())
        else:
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            weight.copy_((weight / step).round() * step)
    images = pixels(4, 32, 64)
    fast = vggnet.fast(model, fc=fc)  # type: ignore[arg-type]
    with torch.inference_mode():
        assert error(fast(images), rounded.double()(images)) < 2e-5
    assert fc in fast.engine


def test_nothing_asked_for_and_no_images() -> None:
    model = vggnet.build("A", crop=32, width=0.25, num_classes=5)
    fast = vggnet.fast(model)
    assert fast.activations(pixels(1, 32, 32), []) == {}
    assert fast(pixels(0, 32, 40)).shape == (0, 5)
    assert fast.activations(pixels(0, 32, 40), ["pool2"])["pool2"].shape == (0, 32, 8, 10)


def test_errors() -> None:
    model = vggnet.build("A", crop=32, width=0.25)
    fast = vggnet.fast(model)
    with pytest.raises(InputError, match="smaller than the crop 32"):
        fast(pixels(1, 16, 32))
    with pytest.raises(InputError, match="add a batch dimension"):
        fast(pixels(1, 32, 32)[0])
    with pytest.raises(InputError, match="no layer 'conv9'"):
        fast.activations(pixels(1, 32, 32), ["conv9"])
    with pytest.raises(InputError, match="fc 'int4' is not known"):
        vggnet.fast(model, fc="int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads 0"):
        vggnet.fast(model, threads=0)
    with pytest.raises(InputError, match="gradient"):
        fast(pixels(1, 32, 32).float().requires_grad_())
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(InputError, match="weights have changed"):
        fast(pixels(1, 32, 32))
    with torch.no_grad():
        dict(model.named_parameters())["fc6.weight"][0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        vggnet.fast(model, fc="int8")


def test_where_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = vggnet.build("A", crop=32, width=0.25, num_classes=5), pixels(2, 32, 40)
    with torch.inference_mode():
        expected = model(images)
    monkeypatch.setenv(building.OFF, "0")
    with pytest.warns(UserWarning, match="turned off"):
        plain = vggnet.fast(model)
    assert isinstance(plain, Plain)
    assert torch.equal(plain(images), expected)
    with pytest.raises(InputError, match="fc int8: the kernels are turned off"):
        vggnet.fast(model, fc="int8")
    monkeypatch.delenv(building.OFF)
    model.train()
    with pytest.warns(UserWarning, match="float64"):
        plain = vggnet.fast(model.double())
    assert error(plain(images), expected.double()) < 1e-5  # without dropout
    assert model.training


def test_evaluation_uses_it() -> None:
    """Posteriors of both differ by rounding alone, and are those of what was asked for."""
    model = vggnet.build("B", crop=32, width=0.25, num_classes=5)
    images = [image.permute(1, 2, 0).numpy() for image in pixels(3, 50, 40)]
    plain = posteriors(model, images, scales=[32, 48], method="multi-crop+dense", fast=False)
    quick = posteriors(model, images, scales=[32, 48], method="multi-crop+dense")
    assert abs(plain - quick).max() < 1e-5
    assert (plain != quick).any()  # it is another computation
    from vggnet.protocols import Protocol

    terms = Protocol("B", None, (32,), "dense", "scores", True).terms
    (alone,) = measure([engine(model)], images, [terms])
    (inside,) = measure([model], images, [terms])
    assert (alone[terms[0]].posteriors == inside[terms[0]].posteriors).all()


def test_features_can_be_trained_upon() -> None:
    """What comes out is an ordinary tensor: a layer on top of it learns."""
    fast = vggnet.fast(vggnet.build("A", crop=32, width=0.25))
    features = fast.activations(pixels(2, 32, 32), ["fc7"])["fc7"].flatten(1)
    layer = nn.Linear(features.shape[1], 2)
    layer(features).sum().backward()
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad[0], features.sum(dim=0))


def test_from_several_threads() -> None:
    model = vggnet.build("A", crop=32, width=0.25, num_classes=5)
    fast = vggnet.fast(model, threads=2)
    batches = [pixels(2, 32 + 8 * i, 40, seed=i) for i in range(4)]
    expected = [fast(batch) for batch in batches]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(20) if not torch.equal(fast(batches[i]), expected[i]))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_after_a_fork() -> None:
    """A forked process has none of the pool's threads; it makes its own."""
    import multiprocessing
    import warnings

    model = vggnet.build("A", crop=32, width=0.25, num_classes=5)
    fast, images = vggnet.fast(model, threads=2), pixels(1, 32, 32)
    expected = fast(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the point
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=lambda: sender.send(fast(images).tolist()))
        child.start()
    assert receiver.poll(60)
    assert receiver.recv() == expected.tolist()
    child.join(60)
    assert child.exitcode == 0


def test_no_allocation_in_steady_state(tmp_path: Path) -> None:
    """The buffers of the second call are those of the first, however the batch changes below it."""
    fast = vggnet.fast(vggnet.build("D", crop=32, width=0.25))
    fast(pixels(8, 64, 64))
    before = fast.bytes
    for n, side in ((8, 64), (3, 64), (8, 32)):
        fast(pixels(n, side, side))
    assert fast.bytes == before
