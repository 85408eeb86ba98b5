"""The command line: its contracts, its exit codes, one clear line for a mistake."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vggnet import InputError, __version__, build, load, save
from vggnet.cli import main
from vggnet.rivals import RIVALS

TINY = ["--width", "0.0625", "--epochs", "1"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vggnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with code 2, nothing on standard output, and one line."""

    def call(*arguments: object) -> str:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # how argparse ends
            code = int(str(stop.code))
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.count("\n") == 1, err
        assert ": error: " in err
        return err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    found = run("train", "digits", "--net", "A", "--out", out, "--seed", 3, *TINY)
    assert found.returncode == 0, found.stderr
    assert "top-1 error" in found.stdout
    assert "net A, S=37, Q=37, dense" in found.stdout
    assert str(out / "weights.safetensors") in found.stdout
    return out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["info", "--json"], ["info", "D"], ["train", "--help"]]
)
def test_help_and_info_do_without_pytorch(arguments: list[str]) -> None:
    code = (
        "import sys; from vggnet.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_version() -> None:
    assert run("--version").stdout == f"vggnet {__version__}\n"


def test_info_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    nets = json.loads(capsys.readouterr().out)
    assert list(nets) == ["A", "A-LRN", "B", "C", "D", "E", *RIVALS]
    assert nets["Krizhevsky"]["parameters"] == 60_965_224
    assert nets["A"]["parameters"] == 132_863_336
    assert nets["A"]["receptive_field"] == {"pool5": 150, "fc6": 342}
    assert nets["D"]["weights"] == 138_344_128
    assert nets["E"]["multiply_adds"] == 19_632_062_464

    assert main(["info", "D", "--json"]) == 0
    net = json.loads(capsys.readouterr().out)
    assert net["layers"][0] == {
        "name": "conv1_1",
        "kind": "conv",
        "output": [64, 224, 224],
        "activations": 3_211_264,
        "parameters": 1792,
        "weights": 1728,
        "multiply_adds": 86_704_128,
        "receptive_field": 3,
        "stride": 1,
    }
    assert sum(layer["multiply_adds"] for layer in net["layers"]) == net["multiply_adds"]

    assert main(["info", "B-5x5", "--json", "--crop", "32", "--width", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["output"] == [32, 32, 32]
    assert main(["info", "GoogLeNet", "--json"]) == 0
    net = json.loads(capsys.readouterr().out)
    assert (net["parameters"], net["weight_layers"]) == (6_998_552, 22)
    assert net["training_memory"]["parameters"] == 4 * 13_378_280  # with the classifiers beside it
    assert main(["info", "SPP", "--json", "--crop", "100", "--width", "0.5"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert layers[0]["output"] == [48, 48, 48]
    assert layers[-1]["receptive_field"] >= 100  # the whole image
    assert main(["info", "kernels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["first_layer"]
    assert [row["single_weights"] for row in rows] == [4800, 9408]


@pytest.mark.parametrize("more", [["--crop", "320"], ["--width", "0.5"], ["--num-classes", "10"]])
def test_the_papers_count_stands_beside_what_it_counts(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info"]) == 0
    assert "Table 2, millions" in capsys.readouterr().out
    assert main(["info", *more]) == 0
    assert "Table 2, millions" not in capsys.readouterr().out


def test_info_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    text = capsys.readouterr().out
    for word in ("138,357,544", "15.470", "conv1-512", "LRN", "3,456", "9,408", "81 % more"):
        assert word in text
    for words in ("Krizhevsky   227              8   60,965,224", "145 million", "MSRA (1 net)"):
        assert words in text
    main(["info", "--crop", "32"])
    assert "last map: Krizhevsky, ZF, OverFeat." in capsys.readouterr().out
    main(["info", "GoogLeNet"])
    text = capsys.readouterr().out
    for words in ("crop 224", "inception5b     1024×7×7", "6,379,728 parameters more"):
        assert words in text
    main(["info", "D", "--batch", "64"])
    text = capsys.readouterr().out
    for word in ("3×224×224", "150,528", "102,760,448", "15,470,264,320", "batch 64"):
        assert word in text
    main(["info", "A", "--batch-norm"])
    assert "bn1_1" in capsys.readouterr().out


def test_training_writes_weights_and_metrics(trained: Path) -> None:
    assert sorted(p.name for p in trained.iterdir()) == ["metrics.jsonl", "weights.safetensors"]
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in steps] == list(range(16))
    assert all(record["loss"] > 0 for record in steps)
    model = load(trained / "weights.safetensors")
    assert (model.config.crop, model.config.num_classes, model.config.width) == (32, 10, 0.0625)


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(trained / "weights.safetensors")
    assert main(["evaluate", weights, "digits", "--scales", "32,36", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    low, high = result["top1_interval"]
    assert 0 <= low <= result["top1"] <= high <= 100
    assert result["n"] == 500
    assert result["protocol"] == {
        "net": "A",
        "S": 37,
        "Q": [32, 36],
        "method": "dense",
        "averaging": "scores",
        "flips": False,
    }
    arguments = ["--averaging", "posteriors", "--json"]
    assert main(["evaluate", weights, "digits", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["averaging"] == "posteriors"
    assert main(["evaluate", weights, "digits", "--method", "centre-crop"]) == 0
    assert "Q=37, centre-crop, without flips" in capsys.readouterr().out


def test_every_method_and_a_fusion(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(trained / "weights.safetensors")
    forwards = {"dense": 2, "multi-crop": 26, "multi-crop+dense": 27, "centre-crop": 2}
    for method, count in {**forwards, "ten-crop": 6}.items():
        arguments = ["--method", method, "--scales", "32,36", "--json"]
        assert main(["evaluate", weights, "digits", *arguments]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["protocol"]["method"], result["forwards_per_image"]) == (method, count)
        # Nothing is mirrored. At Q = 32 an image is no larger than the crop: one forward in all.
        assert (result["data"], result["part"]) == ("digits", "test")
        assert result["views_per_image"] == {
            "dense": 2, "multi-crop": 50, "multi-crop+dense": 52, "centre-crop": 2, "ten-crop": 10
        }[method]  # fmt: skip
    one = ["evaluate", weights, "digits", "--json"]
    assert main(one) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main([one[0], weights, weights, *one[2:]]) == 0
    fused = json.loads(capsys.readouterr().out)
    assert fused["protocol"]["nets"] == [["A", 37], ["A", 37]]
    assert (fused["top1"], fused["top5"]) == (alone["top1"], alone["top5"])


def test_evaluation_for_people(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = str(trained / "weights.safetensors"), tmp_path / "predictions.npz"
    arguments = ["--method", "multi-crop", "--out", str(out), "--cache", str(tmp_path / "kept")]
    assert main(["evaluate", weights, "digits", *arguments]) == 0
    text = capsys.readouterr().out
    for words in ("protocol: net A, S=37, Q=37, multi-crop", "cost: 25 forwards an image for 25"):
        assert words in text
    assert " images/s" in text
    assert "most confused:\n" in text
    assert " taken for " in text
    assert str(out) in text
    first = out.read_bytes()
    assert main(["evaluate", weights, "digits", *arguments]) == 0
    assert " images/s" not in capsys.readouterr().out  # all of it was kept
    assert out.read_bytes() == first


def test_the_plan_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reproduce", "digits", "--plan", "--out", str(tmp_path / "x"), "--only", "A, D"]
    assert main([*arguments, "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in steps] == ["A-S73", "D-S73", "D-S110", "D-S73-146"]
    assert all(step["seconds"] > 0 and step["status"] == "to do" for step in steps)
    assert main(arguments) == 0
    assert "4 runs on digits" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


def test_the_results_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "table 3, A", "--crop", "32", "--json", "--out", str(tmp_path)]
    assert main(["reproduce", "digits", *arguments, *TINY]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert [row["net"] for row in results["rows"]] == ["A"]


def test_a_folder_of_images_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bright and dark squares on noise: a user's own images, split by the program."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 60)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(level - 50, level + 50, (40 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    data, out = str(tmp_path / "images"), tmp_path / "out"
    arguments = ["--crop", "32", "--width", "0.0625", "--batch-size", "8", "--epochs", "8"]
    arguments += ["--learning-rate", "1e-3", "--scale", "37,48"]
    assert main(["train", data, "--net", "A", "--out", str(out), *arguments]) == 0
    text, note = capsys.readouterr()
    assert "images: " in note
    assert "net A, S=[37;48], Q=42, dense" in text
    model = load(out / "weights.safetensors")
    assert model.provenance.class_names == ("bright", "dark")
    assert model.provenance.S == (37, 48)
    predictions = tmp_path / "p.npz"
    weights = str(out / "weights.safetensors")
    assert main(["evaluate", weights, data, "--out", str(predictions), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] < 25
    with np.load(predictions) as found:
        assert all(name.endswith(".png") for name in found["name"].tolist())


def test_flags_reach_the_run(tmp_path: Path) -> None:
    flags = ["--dropout", "0.25", "--batch-norm", "--lrn", "caffe", "--scale", "40", "--crop", "32"]
    flags += ["--momentum", "0", "--seed", "7", "--init", "he", "--learning-rate", "1e-6"]
    arguments = ["train", "digits", "--net", "A-LRN", "--out", str(tmp_path), *flags, *TINY]
    assert main(arguments) == 0
    model = load(tmp_path / "weights.safetensors")
    config = model.config
    assert (config.dropout, config.batch_norm, config.lrn) == (0.25, True, "caffe")
    assert (model.provenance.S, model.provenance.seed) == (40, 7)
    recipe = model.provenance.recipe
    assert recipe is not None
    assert (recipe["momentum"], recipe["init"], recipe["learning_rate"]) == (0, "he", 1e-6)


def test_staged_training_from_the_command_line(trained: Path, tmp_path: Path) -> None:
    arguments = ["train", "digits", "--net", "B", "--out", str(tmp_path / "B"), *TINY]
    assert main([*arguments, "--init-from", str(trained / "weights.safetensors")]) == 0
    assert load(tmp_path / "B" / "weights.safetensors").provenance.parent is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--net", "F"], ["unknown net 'F'", "A-LRN"]),
        (["--net", "vgg16"], ["did you mean D?"]),
        (["--net", "D", "--crop", "100"], ["crop 100", "multiple of 32", "96 or 128"]),
        (["--net", "D", "--scale", "31"], ["S 31", "crop 32", "37"]),
        (["--net", "D", "--scale", "73,37"], ["S from 73 to 37", "smaller side first"]),
        (["--net", "D", "--scale", "37,55,73"], ["S [37, 55, 73]", "a pair"]),
        (["--net", "D", "--scale", "wide"], ["scale 'wide'", "256,512"]),
        (["--net", "D", "--tune", "fc"], ["tune fc", "weights of net D"]),
        (["--net", "D", "--tune", "conv"], ["tune 'conv'", "all or fc"]),
        (["--net", "D", "--width", "0"], ["width 0"]),
        (["--net", "D", "--dropout", "1"], ["dropout 1.0"]),
        (["--net", "D", "--epochs", "0"], ["epochs 0"]),
        (["--net", "D", "--epochs", "many"], ["--epochs", "many"]),
        (["--net", "D", "--init", "xavier"], ["unknown init 'xavier'", "glorot"]),
        (["--net", "D", "--lrn", "x"], ["lrn 'x'"]),
        (["--net", "D", "--device", "tpu"], ["device 'tpu'"]),
        (["--net", "D", "--device", "cpu:x"], ["device 'cpu:x'"]),
        (["--net", "D", "--scale", "10000000"], ["S 10000000", "32 times"]),
        (["--net", "D", "--init-from", "nothing.safetensors"], ["nothing.safetensors", "no such"]),
        (["--net", "D", "--init-from", "text"], ["text", "not a weight file"]),
        (["--net", "D", "--init-from", "short"], ["short", "truncated or damaged"]),
        (["--net", "D", "--init-from", "E"], ["net A, not from E"]),
        (["--net", "D", "--init-from", "wide-A"], ["conv1_1", "same width"]),
        ([], ["--net"]),
    ],
)
def test_wrong_training_writes_nothing(
    arguments: list[str],
    words: list[str],
    fails: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("no weights in here")
    save(build("E", num_classes=10, crop=32, width=0.0625), "E")
    save(build("A", num_classes=10, crop=32, width=0.125), "wide-A")
    Path("short").write_bytes(Path("E").read_bytes()[:-1])
    width = [] if "--width" in arguments else ["--width", "0.0625"]
    error = fails("train", "digits", "--out", "out", *width, *arguments)
    for word in words:
        assert word in error
    assert not Path("out").exists()


def test_wrong_words_elsewhere(fails: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    weights = trained / "weights.safetensors"
    assert "'mnist'" in fails("train", "mnist", "--net", "A", "--out", tmp_path / "x")
    assert "'mnist'" in fails("reproduce", "mnist", "--out", tmp_path / "x")
    assert "crop 40" in fails("reproduce", "digits", "--crop", 40, "--out", tmp_path / "x")
    assert "epochs 0" in fails("reproduce", "digits", "--epochs", 0, "--out", tmp_path / "x")
    assert "jobs 0" in fails("reproduce", "digits", "--jobs", 0, "--out", tmp_path / "x")
    assert "'F'" in fails("reproduce", "digits", "--only", "table 3, F", "--out", tmp_path / "x")
    assert "'imagenet'" in fails("reproduce", "imagenet", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert "scale 31" in fails("evaluate", weights, "digits", "--scales", "31")
    assert "scales ''" in fails("evaluate", weights, "digits", "--scales", "")
    assert "'a,b'" in fails("evaluate", weights, "digits", "--scales", "a,b")
    assert "'tencrop'" in fails("evaluate", weights, "digits", "--method", "tencrop")
    assert "no such file" in fails("evaluate", tmp_path / "w", "digits")
    assert "no such file" in fails("evaluate", weights, tmp_path / "w", "digits")
    save_as = tmp_path / "x.csv"
    assert "x.csv: give a name" in fails("evaluate", weights, "digits", "--out", save_as)
    below = weights / "x.npz"
    assert "is not a folder" in fails("evaluate", weights, "digits", "--out", below)
    assert "is not a folder" in fails("evaluate", weights, "digits", "--cache", below)
    assert "unknown net 'Q'" in fails("info", "Q")
    assert "as in its paper" in fails("info", "ZF", "--batch-norm")
    assert "crop 100" in fails("info", "--crop", 100)
    assert "invalid choice" in fails("trian")
    other = tmp_path / "other.safetensors"
    save(build("A", num_classes=7, crop=32, width=0.0625), other)
    assert "7 classes" in fails("evaluate", other, "digits", "--scales", "37")
    save(build("A", num_classes=10, crop=32, width=0.0625), other)
    assert "give --scales" in fails("evaluate", other, "digits")
    save(load(other), other, class_names=list("abcdefghij"))
    said = "its classes, a, b, c, …, are not those of digits, 0, 1, 2, …"
    assert said in fails("evaluate", other, "digits", "--scales", "37")
    another = ["train", "digits", "--net", "A", "--out", trained, "--seed", 4, *TINY]
    assert "seed 3 instead of 4" in fails(*another)
    (tmp_path / "file").write_text("")
    again = ["train", "digits", "--net", "A", "--out", tmp_path / "file" / "x", *TINY]
    assert "cannot be written" in fails(*again)


def test_a_failed_run_is_told_from_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "digits", "--net", "A", "--out", str(tmp_path), *TINY]
    assert main([*arguments, "--learning-rate", "1e9"]) == 1
    error = capsys.readouterr().err
    assert "the loss is" in error
    assert error.strip().count("\n") == 0
    assert issubclass(InputError, ValueError)


def test_a_full_disk_is_a_failed_run_and_says_so(tmp_path: Path) -> None:
    """Files may not grow beyond 40 KB: the first checkpoint does not fit."""
    train = ["-m", "vggnet", "train", "digits", "--net", "A", "--out", str(tmp_path), *TINY]
    shell = f"ulimit -f 40; exec {shlex.join([sys.executable, *train])}"
    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stderr
    assert "state.safetensors: could not be written" in found.stderr
    assert found.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]  # and it is empty


def test_training_goes_on_when_nobody_reads(tmp_path: Path) -> None:
    for out, end in (("pipe", "| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}"), ("closed", ">&-")):
        arguments = ["train", "digits", "--net", "A", "--width", "0.0625", "--epochs", "3"]
        command = [sys.executable, "-m", "vggnet", *arguments, "--out", str(tmp_path / out)]
        shell = f"{shlex.join(command)} {end}"
        found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
        assert (tmp_path / out / "weights.safetensors").exists()


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m vggnet info D --json | head -1; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "{\n", "")
