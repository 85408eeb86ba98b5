"""OpenVINO's intermediate representation: an .xml with the graph, and a .bin with the weights."""

from pathlib import Path
from typing import Any

from vggnet.errors import RunError
from vggnet.export.libraries import library, quiet


def read(graph: Any) -> Any:
    """The `openvino.Model` of an ONNX graph, a ModelProto."""
    openvino = library("openvino", "openvino")
    with quiet():
        return openvino.Core().read_model(graph.SerializeToString())


def write(model: Any, path: Path, described: dict[str, str], *, half: bool) -> None:
    """Writes an `openvino.Model` to `path`, ….xml, and the .bin beside it.

    Args:
        model: as `read` gives it.
        path: of the .xml.
        described: what goes into the model's `rt_info`, under `vggnet`.
        half: store weights as float16. OpenVINO's own default is to do so; here it is not.

    Raises:
        RunError: when writing fails, the disk being full for example.
    """
    for key, value in described.items():
        model.set_rt_info(value, ["vggnet", key])
    try:
        library("openvino", "openvino").save_model(model, str(path), compress_to_fp16=half)
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1]
        raise RunError(f"{path.name}: OpenVINO could not write it ({why})") from None
