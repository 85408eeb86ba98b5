"""The layers of a `.caffemodel`, one at a time.

A file is one protocol buffer (caffe.proto of BVLC/caffe), of which four dozen fields matter here.
They are described below and read with Google's `protobuf`. It builds whatever number of parts a
message has, so these are counted first.
"""

import functools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vggnet.errors import InputError

_LARGEST = 1 << 31
"""Bytes: no protocol buffer is larger."""
_MOST_FIELDS = 1000
"""In one message. The authors' E has 45 layers, and each of them a dozen fields."""
_MOST_IN_ALL = 10_000
"""Fields in all messages of a file: a net of 19 layers with every setting has under a thousand."""

_SUBSET = {
    "NetParameter": ("layers 2 V1LayerParameter*", "layer 100 LayerParameter*"),
    "V1LayerParameter": (
        "layer 1 bytes",  # a layer of a still older form, V0
        "bottom 2 bytes*",
        "top 3 bytes*",
        "name 4 bytes",
        "type 5 int32",
        "blobs 6 BlobProto*",
        "convolution_param 10 ConvolutionParameter",
        "dropout_param 12 DropoutParameter",
        "inner_product_param 17 InnerProductParameter",
        "pooling_param 19 PoolingParameter",
        "relu_param 30 ReLUParameter",
        "transform_param 36 TransformationParameter",
    ),
    "LayerParameter": (
        "name 1 bytes",
        "type 2 bytes",
        "bottom 3 bytes*",
        "top 4 bytes*",
        "blobs 7 BlobProto*",
        "transform_param 100 TransformationParameter",
        "convolution_param 106 ConvolutionParameter",
        "dropout_param 108 DropoutParameter",
        "inner_product_param 117 InnerProductParameter",
        "pooling_param 121 PoolingParameter",
        "relu_param 123 ReLUParameter",
    ),
    "BlobProto": (
        "num 1 int32",  # the sizes of a blob from before it had a shape
        "channels 2 int32",
        "height 3 int32",
        "width 4 int32",
        "data 5 bytes*",
        "shape 7 BlobShape",
        "double_data 8 bytes*",
    ),
    "BlobShape": ("dim 1 int64*",),
    "ConvolutionParameter": (
        "pad 3 uint32*",
        "group 5 uint32*",
        "stride 6 uint32*",
        "pad_h 9 uint32*",
        "pad_w 10 uint32*",
        "stride_h 13 uint32*",
        "stride_w 14 uint32*",
        "dilation 18 uint32*",
    ),
    "DropoutParameter": ("scale_train 2 bool*",),  # of some variants of Caffe
    "InnerProductParameter": ("transpose 6 bool",),
    "PoolingParameter": (
        "pool 1 int32*",  # 0 takes the maximum
        "kernel_size 2 uint32*",
        "stride 3 uint32*",
        "pad 4 uint32*",
        "kernel_h 5 uint32*",
        "kernel_w 6 uint32*",
        "stride_h 7 uint32*",
        "stride_w 8 uint32*",
        "pad_h 9 uint32*",
        "pad_w 10 uint32*",
        "global_pooling 12 bool*",
    ),
    "ReLUParameter": ("negative_slope 1 float*",),
    "TransformationParameter": ("scale 1 float", "mean_file 4 bytes", "mean_value 5 float*"),
}
"""What is read of caffe.proto: name, number and type of a field, `*` where it is repeated.

Packed floats, `data` and `double_data`, are bytes with a length on the wire. Called bytes, repeated
since a writer may pack them in pieces, NumPy takes them as they lie; called floats, each of 138
million would become a Python object. (Caffe always packs them: floats one by one are no data here.)
Text is bytes because in a damaged file it need not be UTF-8. Settings are repeated, so that a
missing one is empty and not zero.
"""


def layers(path: Path) -> Iterator[Any]:
    """Every layer of a file, as a NetParameter that has only this one, in `layers` or `layer`.

    Raises:
        InputError: for a file that is damaged, larger than 2 GiB or of more fields than a net has;
            or without protobuf.
    """
    try:
        net = net_parameter()
    except ImportError:
        raise InputError(
            f"{path}: reading Caffe's files needs protobuf: pip install 'vggnet[caffe]'"
        ) from None
    try:
        if path.stat().st_size >= _LARGEST:
            raise InputError(f"{path}: is larger than 2 GiB, which no file of Caffe's is")
        with path.open("rb") as file:
            for start, end in _parts(path, file, net.DESCRIPTOR):
                file.seek(start)
                yield _parsed(path, net, file, end - start)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


@functools.cache
def net_parameter() -> Any:
    """The class of NetParameter, in a pool of its own beside Caffe's, where that is installed."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto.Type
    file = descriptor_pb2.FileDescriptorProto(name="vggnet/caffe.proto", package="vggnet")
    for message, fields in _SUBSET.items():
        described = file.message_type.add(name=message)
        for field in fields:
            name, number, kind = field.split()
            repeated, kind = kind.endswith("*"), kind.rstrip("*")
            added = described.field.add(name=name, number=int(number), label=3 if repeated else 1)
            if kind in _SUBSET:
                added.type, added.type_name = kinds.Value("TYPE_MESSAGE"), f".vggnet.{kind}"
            else:
                added.type = kinds.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("vggnet.NetParameter"))


def _parsed(path: Path, net: Any, file: BinaryIO, size: int) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return net.FromString(file.read(size))
    except DecodeError:
        raise _damaged(path) from None


def _parts(path: Path, file: BinaryIO, net: Any) -> list[tuple[int, int]]:
    """Where the layers of a net lie, each by itself a net of one layer; refuses too many fields.

    Fields are counted in the messages that `net`, a descriptor, knows, and every byte of packed
    numbers as one more, since it can become a number.
    """
    if not os.fstat(file.fileno()).st_size:
        return []
    parts: list[tuple[int, int]] = []
    in_all = 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        messages = [(0, len(data), net)]
        for begin, end, message in messages:  # which grows by the messages inside
            fields = 0
            for number, start, content, stop in _fields(path, data, begin, end):
                fields += 1
                known = message.fields_by_number.get(number)
                if known is not None and known.message_type:
                    messages.append((content, stop, known.message_type))
                    if message is net:
                        parts.append((start, stop))
                elif known is not None and known.type != known.TYPE_BYTES:
                    fields += stop - content
                if fields > _MOST_FIELDS or in_all + fields > _MOST_IN_ALL:
                    raise InputError(
                        f"{path}: has more than {_MOST_FIELDS:,} fields in one message or "
                        f"{_MOST_IN_ALL:,} in all: no weights of Caffe's"
                    )
            in_all += fields
    return parts


def _fields(
    path: Path, data: mmap.mmap, position: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Of a message: number (0 of what has no length), start, start of the content, end."""
    while position < end:
        start = position
        key, position = _varint(path, data, position)
        kind = key & 7
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind in (0, 2):
            value, position = _varint(path, data, position)
            size = value if kind == 2 else 0
        content, position = position, position + size
        if kind not in (0, 1, 2, 5) or key >> 32 or position > end:  # 3 and 4 are groups
            raise _damaged(path)
        yield key >> 3 if kind == 2 else 0, start, content, position


def _varint(path: Path, data: mmap.mmap, position: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; and where the next field begins."""
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise _damaged(path)


def _damaged(path: Path) -> InputError:
    return InputError(
        f"{path}: cannot be read as Caffe's weights (truncated or damaged, or another format): "
        "copy or download it again"
    )
