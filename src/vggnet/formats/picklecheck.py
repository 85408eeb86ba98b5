"""What a pickle of PyTorch's would build, followed without building it.

`weights_only=True` runs no foreign program, but a few hundred bytes can still ask it for three
gigabytes, or for a hash that takes for ever. So every step of a pickle is followed here first, with
nodes in place of objects, and a pickle is refused that does other things than state_dicts and the
checkpoints of training scripts do.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

import torch

STEPS = 200_000
"""A tensor takes 50 steps, a number in a list one. VGG-E with batch normalisation and the state of
Adam takes 20,000; what needs ten times as many is not made to hold weights."""

_REBUILD = ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")
_DICTS = ("collections.OrderedDict", "collections.Counter")
"""A Counter is in the state of MultiStepLR."""
_CALLED = {
    *_DICTS,
    *(f"torch._utils._rebuild_{name}" for name in _REBUILD),
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
}
_NAMED = {f"torch.{name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
"""Are passed to what is called, and are not called themselves."""


class PickleError(ValueError):
    """A pickle that is not to be read; says why."""


class ForeignError(PickleError):
    """It names a Python object that no state_dict needs, which is the message."""


@dataclass(slots=True, eq=False)
class Node:
    """An object that the pickle would make."""

    kind: str
    """plain (a number, a string, None), tuple, list, dict, global, or made (by a call)."""
    value: object = None
    """Of a plain one; of a global, or one made by it, its name."""
    items: list["Node"] = field(default_factory=list)
    """Of a tuple or a list; a dict's keys."""
    size: int = 1
    """Nodes in it, each as often as it occurs."""
    shared: bool = False
    """Has been fetched from the memo, so it may be in several places and must stay as it is."""

    def add(self, items: list["Node"], kept: list["Node"]) -> None:
        if self.shared:
            raise PickleError("changes an object that is used elsewhere")
        self.items += kept
        self.size += sum(item.size for item in items)


def follow(file: IO[bytes], has_room: Callable[[int], bool]) -> tuple[Node, list[object]]:
    """The object of the pickle that begins here, and the keys of the storages that it refers to.

    The sizes of all that is fetched from the memo, or passed to a call, count as steps. So what
    the pickle spells out is never larger than `STEPS`, written out in full, and neither a hash nor
    a `repr` of it takes long.

    Args:
        file: stands after the pickle then.
        has_room: whether the file can have a storage of that many elements.

    Raises:
        PickleError: for other things than weights and plain values.
        Exception: nearly any, for a damaged one.
    """
    pickle = _Pickle(has_room)
    for opcode, argument, _ in pickletools.genops(file):
        pickle.step(opcode.name, argument)
    return pickle.stack[-1], pickle.storages


class _Pickle:
    """The state of PyTorch's machine: a stack, the stacks below its marks, a memo."""

    def __init__(self, has_room: Callable[[int], bool]) -> None:
        self.has_room = has_room
        self.steps = 0
        self.stack: list[Node] = []
        self.below: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.storages: list[object] = []

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > STEPS:
            raise PickleError(f"takes more than {STEPS:,} steps to read, where a tensor takes 50")

    def step(self, name: str, argument: object) -> None:
        self.spend(1)
        stack = self.stack
        if name in ("PROTO", "STOP"):
            if name == "PROTO" and argument != 2:
                raise PickleError(
                    f"is a pickle of protocol {argument}, which torch.save does not write"
                )
        elif name in _PLAIN:
            if isinstance(argument, int) and argument.bit_length() > 80:
                raise PickleError("has a number of more than 80 bits")
            stack.append(Node("plain", argument))
        elif name in _EMPTY:
            stack.append(Node(_EMPTY[name]))
        elif name in ("BINPUT", "LONG_BINPUT"):
            assert isinstance(argument, int)
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            assert isinstance(argument, int)
            node = self.memo[argument]
            node.shared = True
            self.spend(node.size)
            stack.append(node)
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "GLOBAL":
            stack.append(Node("global", _allowed(str(argument))))
        elif name == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            self.spend(arguments.size)
            stack.append(_called(stack.pop(), arguments))
        elif name == "BUILD":
            _build(self.stack, stack.pop())
        elif name in _TUPLES or name == "TUPLE":
            items = self.taken(_TUPLES.get(name))
            self.stack.append(Node("tuple", items=items, size=1 + sum(i.size for i in items)))
        elif name in ("APPEND", "APPENDS"):
            items = self.taken(1 if name == "APPEND" else None)
            self.target("list").add(items, items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.taken(2 if name == "SETITEM" else None)
            keys = [_key(item) for item in items[::2]]
            if len(items) != 2 * len(keys):
                raise PickleError("has a key without its value")
            self.target("dict").add(items, keys)
        else:
            raise PickleError(f"does what torch.save does not ({name})")

    def taken(self, count: int | None) -> list[Node]:
        """The last few of the stack, or those after the last mark."""
        if count is None:
            items, self.stack = self.stack, self.below.pop()
            return items
        if len(self.stack) < count:
            raise PickleError("takes what is not there")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def target(self, kind: str) -> Node:
        node = self.stack[-1]
        if node.kind != kind:
            raise PickleError(f"takes a {node.kind} for a {kind}")
        return node

    def storage(self, node: Node) -> Node:
        """('storage', its type, its key, its device, its elements[, a view of it])."""
        values = [item.value for item in node.items]
        if node.kind != "tuple" or len(values) not in (5, 6) or values[0] not in ("storage",):
            raise PickleError("refers to other data than a tensor's")
        *simple, numel = node.items[:5]
        view = node.items[5:]
        if any(item.kind not in ("plain", "global") for item in simple) or any(
            item.kind not in ("plain", "tuple") or item.size > 4 for item in view
        ):
            raise PickleError("refers to a tensor's data by other than its name")
        if type(numel.value) is not int or not 0 <= numel.value or not self.has_room(numel.value):
            raise PickleError("has a tensor with more values than the file has")
        self.storages.append(values[2])
        return Node("made", "storage")


_PLAIN = {"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}
_PLAIN |= {"BINUNICODE", "SHORT_BINSTRING"}
_EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "dict"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _allowed(argument: str) -> str:
    name = argument.replace(" ", ".")
    storage = name.startswith(("torch.", "torch.storage.", "torch.cuda.")) and name.endswith(
        "Storage"
    )
    if not storage and name not in _CALLED and name not in _NAMED:
        raise ForeignError(name)
    return name


def _key(node: Node) -> Node:
    """Other keys, and long numbers, can be made to have the same hash, or one that takes long."""
    if node.kind != "plain" or (isinstance(node.value, int) and node.value.bit_length() > 64):
        raise PickleError("has a dict with other keys than strings and numbers")
    return node


def _called(function: Node, arguments: Node) -> Node:
    if function.kind != "global" or function.value not in _CALLED or arguments.kind != "tuple":
        raise PickleError("calls what state_dicts do not")
    size = arguments.size + 1
    if function.value not in _DICTS:
        return Node("made", function.value, size=size)
    if len(arguments.items) > 1:
        raise PickleError("has a dict of other than keys and values")
    made = Node("dict", function.value, size=size)
    for source in arguments.items:
        if source.kind == "dict":
            made.items += source.items
        elif source.kind == "list" and function.value == _DICTS[0]:  # as Python 2 wrote them
            for pair in source.items:
                if pair.kind not in ("list", "tuple") or len(pair.items) != 2:
                    raise PickleError("has a dict of other than keys and values")
                made.items.append(_key(pair.items[0]))
        else:
            raise PickleError("has a dict of other than keys and values")
    return made


def _build(stack: list[Node], state: Node) -> None:
    """An attribute could take the place of a method, such as `items`."""
    target = stack[-1]
    named = all(key.value == "_metadata" for key in state.items)
    if target.value != _DICTS[0] or target.kind != "dict" or state.kind != "dict" or not named:
        raise PickleError("sets attributes that a state_dict has not")
    target.add([state], [])
