"""Tensors from files that `torch.save` wrote, read without running anything that the files contain.

A `.pt` file is an uncompressed zip archive: `data.pkl`, a pickle that describes the object, and one entry of raw bytes
for each storage. A pickle is a program, so no unpickler runs here, not even a restricted one such as
`torch.load(weights_only=True)`, whose list of allowed functions grows with every release and whose machine calls them.
`pickletools.genops`, a parser, splits the program into its opcodes. A small stack machine below reads those that build
plain data. It imports nothing and calls nothing: a global is a name, and of the calls only the three that rebuild
tensors are understood; any other name is refused. Tensors are checked against the sizes of the archive's entries before
a byte is allocated, and only those that are asked for are read. Nothing is extracted to the disk.
"""

from __future__ import annotations

import math
import pickletools  # nosec B403
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano_llada.core.errors import UserError

MOST_PICKLE_BYTES = 16 * 2**20
"""A data.pkl describes tensors and holds options and loss curves; the weights are elsewhere."""
DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TENSOR, PARAMETER, ORDERED = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "OrderedDict"
INERT = frozenset({  # holders of data that training scripts save beside weights: never called, their values not read
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.device",
    "torch.Size",
})  # fmt: skip

_ZIP_ERRORS = (OSError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError, struct.error)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file, not read yet."""

    entry: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # in elements, as the strides


@dataclass(frozen=True)
class Opaque:
    """A value of a known harmless kind that is not looked at."""

    name: str


@dataclass(frozen=True)
class _Name:
    """A global of the pickle: its name, never the thing."""

    full: str


@dataclass(frozen=True)
class _Storage:
    entry: str
    dtype: torch.dtype


class _Refused(ValueError):
    """The pickle holds something that is not plain data or tensors."""


class _Mark:
    """What MARK puts on the stack."""


class TorchFile:
    """An open torch archive: `content` is its object with `StoredTensor`s in place of tensors, `read` fetches one.

    Raises:
        UserError: for anything but an uncompressed archive of `torch.save` that holds plain data and tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = _entries(path)
        name = next((name for name in self._entries if name.endswith("/data.pkl")), None)
        if name is None:
            raise UserError(f"{path} is a zip archive without data.pkl: torch.save did not write it")
        self._root = name.removesuffix("data.pkl")
        if f"{self._root}constants.pkl" in self._entries:
            raise UserError(f"{path} is a TorchScript archive, which holds code; save the model's state_dict instead")
        if self._entries[name] > MOST_PICKLE_BYTES:
            raise UserError(
                f"{path}: data.pkl has {self._entries[name]:,} bytes; a checkpoint's has at most {MOST_PICKLE_BYTES:,}"
            )
        order = f"{self._root}byteorder"
        if order in self._entries and self._bytes(order).strip() != b"little":
            raise UserError(f"{path} was written on a big-endian machine, which is not supported")
        try:
            self.content = _Machine(self._root, self._entries).run(self._bytes(name))
        except _Refused as error:
            raise UserError(f"{path} is refused: {error}. Nothing in it was run") from error
        except (ValueError, IndexError, TypeError, OverflowError, RecursionError, UnicodeError) as error:
            raise UserError(f"{path}: data.pkl is damaged ({error})") from error

    def read(self, stored: StoredTensor) -> Tensor:
        """The tensor, contiguous, in a memory of its own. Raises UserError if its bytes are damaged."""
        data = self._bytes(stored.entry)
        flat = torch.frombuffer(bytearray(data), dtype=stored.dtype) if data else torch.empty(0, dtype=stored.dtype)
        return flat.as_strided(stored.shape, stored.stride, stored.offset).clone(memory_format=torch.contiguous_format)

    def _bytes(self, entry: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(entry)
        except _ZIP_ERRORS as error:
            raise UserError(f"{self.path} is damaged at {entry}: {error}") from error


def _entries(path: Path) -> dict[str, int]:
    """Sizes of the archive's entries. Raises UserError for what `torch.save` never writes."""
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except _ZIP_ERRORS as error:
        raise UserError(
            f"{path} is not an archive of torch.save ({error}). If it is a pickle file of torch before 1.6, save it "
            "again with a newer torch: unpickling can run anything"
        ) from error
    found: dict[str, int] = {}
    for info in infos:
        if info.filename.startswith(("/", "\\")) or ".." in info.filename.replace("\\", "/").split("/"):
            raise UserError(f"{path} is refused: the entry {info.filename[:80]!a} points outside the archive")
        if info.filename in found:
            raise UserError(f"{path} is refused: it has two entries called {info.filename[:80]!a}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise UserError(f"{path} is refused: the entry {info.filename[:80]!a} is compressed or encrypted")
        found[info.filename] = info.file_size
    if sum(found.values()) > size:
        raise UserError(f"{path} is refused: its entries claim {sum(found.values()):,} bytes, it has {size:,}")
    return found


class _Machine:
    """Reads the opcodes of a pickle that build plain data: None, numbers, texts, lists, tuples, dicts, tensors."""

    def __init__(self, root: str, entries: Mapping[str, int]) -> None:
        self._root, self._sizes = root, entries
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """The object that the pickle describes. Raises _Refused, or ValueError and its kin if it is damaged."""
        for opcode, argument, place in pickletools.genops(program):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise _Refused(f"its pickle has the opcode {name} at byte {place}, which no checkpoint needs")
        raise ValueError("it has no end")

    def since_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        place = len(self._stack) - 1
        while not isinstance(self._stack[place], _Mark):
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def take(self, count: int) -> tuple[Any, ...]:
        """The last `count` values, off the stack."""
        if len(self._stack) < count:
            raise ValueError("the stack is empty")
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        return items

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def remember(self, number: int | None) -> None:
        """Memoise the top of the stack."""
        self._memo[len(self._memo) if number is None else number] = self._stack[-1]

    def recall(self, number: int) -> None:
        """Put a memoised value on the stack."""
        if number not in self._memo:
            raise ValueError(f"memo {number} is missing")
        self._stack.append(self._memo[number])

    def extend(self, items: Sequence[Any]) -> None:
        """Append to the list on top of the stack."""
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError("items are appended to something that is not a list")

    def set_items(self, items: Sequence[Any]) -> None:
        """Enter keys and values into the dict on top of the stack. Keys are texts or numbers, as hashing is shallow."""
        target = self._stack[-1]
        if not isinstance(target, dict | Opaque):
            raise ValueError("items are entered into something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float):
                raise _Refused(f"a dict has a key of type {type(key).__name__}")
            if isinstance(target, dict):
                target[key] = value

    def load_name(self, name: object) -> None:
        """A global: only its name."""
        full = str(name).replace(" ", ".")
        if full == "collections.OrderedDict":
            full = ORDERED
        kind = full.removeprefix("torch.")
        if full not in (TENSOR, PARAMETER, ORDERED) and full not in INERT and kind not in DTYPES:
            raise _Refused(f"it names {full[:80]!a}, which is not a tensor or plain data")
        self._stack.append(_Name(full))

    def reduce(self) -> None:
        """A call: understood, not made, for tensors; anything else of a known name is opaque."""
        called, arguments = self.take(2)
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise _Refused("it calls something that is not a name")
        if called.full == ORDERED and not arguments:
            self._stack.append({})
        elif called.full == TENSOR:
            self._stack.append(self._tensor(arguments))
        elif called.full == PARAMETER and arguments and isinstance(arguments[0], StoredTensor):
            self._stack.append(arguments[0])
        elif called.full in INERT:
            self._stack.append(Opaque(called.full))
        else:
            raise _Refused(f"it calls {called.full} in an unknown way")

    def build(self) -> None:
        """State for an object: what an OrderedDict or a holder of data carries besides is not needed."""
        target, _ = self.take(2)
        if not isinstance(target, dict | Opaque | StoredTensor):
            raise _Refused("it sets the state of something that is not plain data")
        self._stack.append(target)

    def load_storage(self) -> None:
        """A persistent id: ('storage', type, key, device, elements)."""
        (described,) = self.take(1)
        if not isinstance(described, tuple) or len(described) != 5 or described[0] != "storage":
            raise _Refused("it refers to something outside of itself that is not a storage")
        _, kind, key, _, count = described
        dtype = DTYPES.get(kind.full.removeprefix("torch.")) if isinstance(kind, _Name) else None
        if dtype is None or not isinstance(key, str) or not _whole(count):
            raise _Refused("it has a storage of an unknown kind")
        entry = f"{self._root}data/{key}"
        if entry not in self._sizes:
            raise ValueError(f"the bytes of storage {key[:80]!a} are missing")
        if count * dtype.itemsize != self._sizes[entry]:
            raise _Refused(
                f"storage {key[:80]!a} claims {count:,} elements of {dtype.itemsize} bytes, and has "
                f"{self._sizes[entry]:,}"
            )
        self._stack.append(_Storage(entry, dtype))

    def _tensor(self, arguments: tuple[Any, ...]) -> StoredTensor:
        if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
            raise _Refused("it has a tensor of an unknown kind")
        storage, offset, shape, stride = arguments[:4]
        if not (_whole(offset) and _wholes(shape) and _wholes(stride) and len(shape) == len(stride) <= 8):
            raise _Refused("it has a tensor whose shape is not made of whole numbers")
        count = self._sizes[storage.entry] // storage.dtype.itemsize
        used = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
        elements = math.prod(shape)
        if elements and (used > count or elements > count):
            raise _Refused(f"a tensor of shape {shape} does not fit into its storage of {count:,} elements")
        return StoredTensor(storage.entry, storage.dtype, shape, stride, offset if elements else 0)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _wholes(value: object) -> bool:
    return isinstance(value, tuple) and all(_whole(item) for item in value)


def _stack_global(machine: _Machine) -> None:
    module, name = machine.take(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Refused("it names something that is not text")
    machine.load_name(f"{module} {name}")


def _new_object(machine: _Machine) -> None:
    called, _ = machine.take(2)
    if not isinstance(called, _Name) or called.full not in INERT:
        raise _Refused("it makes an object that is not plain data")
    machine.push(Opaque(called.full))


_LITERALS = frozenset({
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
})  # fmt: skip
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": lambda machine, number: machine.remember(number),
    "LONG_BINPUT": lambda machine, number: machine.remember(number),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    "BINGET": lambda machine, number: machine.recall(number),
    "LONG_BINGET": lambda machine, number: machine.recall(number),
    "GLOBAL": lambda machine, name: machine.load_name(name),
    "STACK_GLOBAL": lambda machine, _: _stack_global(machine),
    "BINPERSID": lambda machine, _: machine.load_storage(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: _new_object(machine),
    "BUILD": lambda machine, _: machine.build(),
}
