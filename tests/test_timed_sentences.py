"""Sentences of the documentation that say what was timed, held against benchmarks/results."""

from collections.abc import Sequence

import pytest

from documentation import check_sentence
from measured import committed, ratio
from vggnet.published import PUBLISHED

AVX512, AVX2 = committed("peers-avx512-cpu"), committed("peers-cpu")
TRAINING, FEATURES = committed("training-avx512-cpu"), committed("features-cpu")
H200, WEIGHTS = committed("gpu-fast-h200"), committed("gpu-weights-h200")
SERVE, PROTOCOLS = committed("serve-cpu"), committed("protocols-cpu")
DATA, EXPORT = committed("data-cpu"), committed("export-cpu")
FC, NARROW, LISTING = (committed(f"{name}-cpu") for name in ("fc", "features-narrow", "listing"))
FIRST = committed("first-steps-cpu")["seconds"]
TRAFFIC, TRAFFIC_256 = committed("traffic-gloo"), committed("traffic-256-gloo")

INT8 = [
    results[f"int8_{b}"][way]
    for results in (AVX512, AVX2)
    for way in ("onnxruntime", "openvino")
    for b in ("b1", "b8")
]
SPREAD = TRAINING["spread"]["train_b8"]
P99 = [one["answer_ms"]["p99"] for one in SERVE["clients"]]
IMPATIENT = SERVE["clients"][-1]
INDEX, WAIT = DATA["index_of_a_million"], DATA["train"]
SHARES = [
    EXPORT["full_size"][b][f"{way}_int8_vs_float32"]
    for way in ("onnx", "openvino")
    for b in ("batch_1", "batch_8")
]
LARGE = {rate: sizes["2048x1536"] for rate, sizes in DATA["by_bitrate"].items()}
COST = {
    tuple(one["Q"]): one["giga_multiply_adds"]
    for one in PROTOCOLS["by_protocol"]
    if one["method"] == "dense"
}


@pytest.mark.parametrize(
    ("page", "sentence", "values"),
    [
        (
            "README.md",
            "of net D on two cores, batch 1 | {} ms | {} ms, timed on plain PyTorch layers |",
            [AVX512["forward_b1"]["vggnet"], AVX512["forward_b1"]["torch_eager"]],
        ),
        (
            "README.md",
            "On one H200, in bfloat16: {} images a second at batch 256, where torchvision's vgg16 "
            "(eager, channels_last, autocast) does {} and timm's {}, and {} in training at batch "
            "256 against {}",
            [
                *(H200["inference"]["batch_256"][way] for way in ("vggnet", "torchvision", "timm")),
                *(H200["training"][way] for way in ("vggnet", "torchvision")),
            ],
        ),
        (
            "docs/speed.md",
            "ONNX Runtime {} and {}, OpenVINO {} and {}; with AVX2 {} and {}, {} and {}, which",
            INT8,
        ),
        (
            "docs/speed.md",
            "of the largest: vggnet {}, ONNX Runtime {}, OpenVINO {}, ncnn {}, MNN {}.",
            [
                AVX512["difference"]["forward_b1"][way]
                for way in ("vggnet", "onnxruntime", "openvino", "ncnn", "MNN")
            ],
        ),
        (
            "docs/speed.md",
            "takes {} ms an image (quartiles {}–{}) where the kernels take {} ({}–{}), "
            "channels_last uncompiled {} ({}–{}) and contiguous {} ({}–{})",
            [
                number
                for way in ("torch_compile", "vggnet", "torch_channels_last", "torch_eager")
                for number in (TRAINING["train_b8"][way], *SPREAD[way])
            ],
        ),
        (
            "docs/speed.md",
            "The step does {} % of the GPU's own product of 8192³ in bfloat16 ({} TFLOP/s; "
            "target: {} %), counted as three forwards, with {} GB",
            [
                100 * H200["training"]["share_of_peak"],
                H200["training"]["peak_tflops"],
                100 * H200["bars"]["training step, share of the peak"]["asked"],
                H200["training"]["peak_memory_gb"],
            ],
        ),
        (
            "docs/speed.md",
            "Scores in bfloat16 are within {} of float64's largest; of {} random images the first "
            "class is the same in all and the first five in {}. float32 means PyTorch's default, "
            "which lets cuDNN round to TF32: {}.",
            [
                H200["scores"]["bfloat16"]["difference"],
                H200["scores"]["images"],
                H200["scores"]["bfloat16"]["same_five"],
                H200["scores"]["float32"]["difference"],
            ],
        ),
        (
            "docs/features.md",
            "Values agree to {} of the largest. PyTorch's import is {} MB of every peak",
            [
                max(max(ways.values()) for ways in FEATURES["difference"].values()),
                FEATURES["peak_memory_mb"]["torch"],
            ],
        ),
        (
            "docs/serving.md",
            "On two cores with net D, {} clients get {} answers a second, {} times what they get "
            "unbatched; {} clients get the same rate, and the 99th percentile of their answers "
            "is {} times that of {} clients",
            [
                8,
                SERVE["clients"][1]["answers_a_second"],
                SERVE["batching"]["ratio"],
                64,
                P99[3] / P99[2],
                12,
            ],
        ),
        (
            "docs/results.md",
            "the 99th percentile of the answers is {} times that at 12, and {} times that at 8.",
            [P99[3] / P99[2], P99[3] / P99[1]],
        ),
        (
            "docs/results.md",
            "{} refusals a second beside the answers, whose rate more than halves ({} times "
            "the 99th",
            [
                round(
                    IMPATIENT["refusals"] / IMPATIENT["answers"] * IMPATIENT["answers_a_second"], -1
                ),
                P99[4] / P99[2],
            ],
        ),
        (
            "docs/results.md",
            "{} answers a second against {} with `--batch 1`, {} times (quartiles of the "
            "rounds {}–{})",
            [*SERVE["batching"]["answers_a_second"], *ratio(SERVE["batching"])],
        ),
        (
            "docs/results.md",
            "cost {} times the multiply-adds of a dense evaluation at Q = 256",
            [PROTOCOLS["by_protocol"][1]["giga_multiply_adds"] / COST[256,]],
        ),
        (
            "docs/results.md",
            "the one pass is {} times as fast (quartiles {}–{}, {} rounds)",
            [
                PROTOCOLS["table_5"]["ratio"],
                *PROTOCOLS["table_5"]["ratio_quartiles"],
                PROTOCOLS["rounds"],
            ],
        ),
        (
            "docs/results.md",
            "of which {} train, {} worker, {} steps of {} s: the loop waits {} % of the time",
            [
                WAIT["files"],
                WAIT["workers"],
                WAIT["steps"],
                WAIT["seconds_per_step"],
                100 * WAIT["share_waited"],
            ],
        ),
        (
            "docs/results.md",
            "two workers over epochs: {} MB after 2, {} MB after 50.",
            [*DATA["memory"].values()],
        ),
        (
            "docs/results.md",
            "names {} MB, with the index {} MB, at most {} MB while it is read; "
            "the index's file has {} MB",
            [
                INDEX[key]
                for key in (
                    "names_mb",
                    "names_and_index_mb",
                    "names_and_index_at_most_mb",
                    "index_file_mb",
                )
            ],
        ),
        (
            "docs/results.md",
            "ONNX Runtime {} ({}–{}) at batch 1 and {} ({}–{}) at batch 8, OpenVINO {} "
            "({}–{}) and {}.",
            [*(number for one in SHARES[:3] for number in ratio(one)), SHARES[3]["ratio"]],
        ),
        (
            "docs/scaling.md",
            "At 4 processes and the paper's batch `--fc-parallel 4` sends {} % of plain's bytes",
            [
                100
                * TRAFFIC_256["rows"][0]["mb_sent_by_a_rank"]
                / TRAFFIC["rows"][4]["mb_sent_by_a_rank"]
            ],
        ),
        (
            "docs/scaling.md",
            "one H200, bfloat16, net D at 224, batch 256: {} images/s",
            [H200["training"]["vggnet"]],
        ),
        (
            "docs/scaling.md",
            "at the {} of one that [results.md](results.md) measured on JPEGs of 500×375",
            [DATA["by_bitrate"]["usual"]["500x375"]["loaders"]["images_per_second"]["vggnet, 1"]],
        ),
        (
            "docs/weights.md",
            "give their own scores to {} of the largest",
            [WEIGHTS["largest"]],
        ),
        (
            "docs/results.md",
            "{} bits a pixel are read {} times as fast, those of {} more than four times",
            [
                LARGE["heavy"]["bits_per_pixel"],
                LARGE["heavy"]["loaders"]["vs_pillow"]["ratio"],
                LARGE["usual"]["bits_per_pixel"],
            ],
        ),
        ("docs/results.md", "ratios are medians of {} rounds in turns", [DATA["rounds"]]),
        ("docs/results.md", "images a second at 224 in {} rounds in turns", [EXPORT["rounds"]]),
        (
            "docs/features.md",
            "milliseconds an image, medians of {} rounds in turns",
            [FEATURES["rounds"]],
        ),
        (
            "docs/results.md",
            "centre crop of 224; {} answers in each row",
            [min(one["answers"] for one in SERVE["clients"])],
        ),
        (
            "docs/results.md",
            "D at crop {} and width 1/{} on three JPEG files",
            [PROTOCOLS["crop"], 1 / PROTOCOLS["width"]],
        ),
        (
            "docs/results.md",
            "S = {}, a random crop of {}, a flip, batches of {} of uint8",
            [DATA[key] for key in ("S", "crop", "batch")],
        ),
        ("docs/guide.md", "vggnet weights # {} public files", [len(PUBLISHED)]),
        ("README.md", "`make demo` takes {} seconds on two cores", [FIRST["make demo"]]),
        (
            "README.md",
            "# {} seconds on two cores, the next one {}",
            [FIRST["train A"], FIRST["train D"]],
        ),
        (
            "docs/speed.md",
            "{} MB of transformed weights, made in {} s, and {} MB of buffers at 224 and batch 8",
            [
                FC["memory"][key]
                for key in ("weights_mb", "seconds_to_transform", "buffers_at_batch_8_mb")
            ],
        ),
        ("docs/speed.md", "for `relu3_3` {} MB are.", [FC["memory"]["weights_to_relu3_3_mb"]]),
        (
            "docs/features.md",
            "{} MB up to `relu3_3`, {} MB for",
            [FC["memory"]["weights_to_relu3_3_mb"], FC["memory"]["weights_mb"]],
        ),
        (
            "docs/features.md",
            "batch 8 takes it {} times ({}–{}) as long at 224 and {} times ({}–{}) at 256",
            [
                number
                for case in ("b8_224", "b8_256")
                for number in ratio(NARROW["ratios"][case]["best_cut"])
            ],
        ),
        (
            "docs/results.md",
            "A folder of {} files in 1,000 classes is listed in {} s ({}–{}, {} times, page cache "
            "warm) and takes {} MB more of memory",
            [
                LISTING["files"],
                LISTING["seconds"],
                *LISTING["fastest_and_slowest"],
                LISTING["rounds"],
                LISTING["memory_mb"],
            ],
        ),
        (
            "docs/results.md",
            "Exporting to ncnn takes {} MB, to torch {}.",
            [EXPORT["memory_mb"][f"{way} float32"] for way in ("ncnn", "torch")],
        ),
    ],
)
def test_sentences(page: str, sentence: str, values: Sequence[float]) -> None:
    check_sentence(page, sentence, values)
