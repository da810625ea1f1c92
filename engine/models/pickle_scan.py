"""Looks through a pickle without obeying it: which names it calls, and whether it is built to hurt. No torch.

torch's own safe reader allows more than tensors need: encoders that double their input at each
call, arrays of any size, and keys that take for ever to hash. What is here is the list of what
checkpoints are seen to hold; whatever is not on it is refused before anything is made.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

LONGEST = 32_000_000
"""In bytes, of all that is no tensor; real checkpoints stay below 2 MB."""
MOST_STEPS = 2_000_000
"""Instructions of a pickle; a full checkpoint with its optimizer has some 200 000."""
HEAVIEST_KEY = 64
"""Parts of a key, counted as often as they are met: tuples of tuples double with each level."""

_NUMBERS = "Byte Char Short Int Long Half Float Double Bool BFloat16 Float8_e4m3fn Float8_e5m2"
STORAGES = tuple(f"{name}Storage" for name in _NUMBERS.split())
_KINDS = "uint8 int8 int16 int32 int64 float16 float32 float64 bool bfloat16 half float long"
DTYPES = tuple(_KINDS.split())
CODEC = "_codecs.encode"
ORDERED = "collections.OrderedDict"
CALLED = frozenset(
    [
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        CODEC,
        ORDERED,
    ]
)
"""Of which torch makes tensors and the tables around them."""
NAMED = frozenset(
    ["torch.storage.UntypedStorage", *(f"torch.{name}" for name in (*STORAGES, *DTYPES))]
)
"""Told to those, never called: a storage would be as large as it is asked to be."""

_PLAIN = "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT LONG1 SHORT_BINSTRING"
_LEAVES = frozenset([*_PLAIN.split(), "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"])
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CALLING = frozenset(["INST", "OBJ", "STACK_GLOBAL", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"])


class Acts(Exception):
    """The pickle would call what is no part of a tensor; `name` is what, or empty."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True, eq=False)
class _Value:
    """What is known of something on the pickle's stack."""

    weight: int = 1
    name: str = ""
    """Dotted, of a global."""
    text: str | None = None
    items: Sequence[_Value] = ()
    """Of a tuple."""


_LEAF = _Value()


def scan(file: BytesIO, harmless: frozenset[str]) -> None:
    """Walk through one pickle of `file`; Acts for a call that is not known, ValueError for damage.

    `harmless` are dotted names allowed besides those of tensors. Afterwards `file` stands behind the
    pickle.
    """
    walk = _Walk(CALLED | harmless)
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if steps > MOST_STEPS:
            raise ValueError("too many instructions")
        try:
            walk.step(opcode.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError("the stack does not hold what is asked for") from error


class _Walk:
    """The stack and the memo of a pickle, with values told apart only as far as it matters."""

    def __init__(self, called: frozenset[str]) -> None:
        self._called = called
        self._stack: list[_Value] = []
        self._marks: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}

    def step(self, name: str, argument: object) -> None:
        """Follow one instruction."""
        stack = self._stack
        if name in _LEAVES:
            stack.append(_LEAF)
        elif name in ("BINUNICODE", "SHORT_BINUNICODE"):
            stack.append(_Value(text=str(argument)))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[_place(argument)])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[_place(argument)] = stack[-1]
        elif name == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif name in _TUPLES:
            self._tuple([stack.pop() for _ in range(_TUPLES[name])][::-1])
        elif name == "TUPLE":
            self._tuple(self._since_mark())
        elif name == "GLOBAL":
            stack.append(self._global(str(argument)))
        elif name in _CALLING:
            raise Acts(self._named(name, argument))
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._change(name)

    def _change(self, name: str) -> None:
        match name:
            case "REDUCE" | "NEWOBJ":
                arguments = self._stack.pop()
                self._check_call(self._stack.pop(), arguments)
                self._stack.append(_LEAF)
            case "BUILD" | "APPEND":
                del self._stack[-1]
                self._stack[-1]
            case "APPENDS":
                self._since_mark()
            case "SETITEM":
                _, key = self._stack.pop(), self._stack.pop()
                _check_keys([key])
            case "SETITEMS":
                _check_keys(self._since_mark()[::2])
            case "BINPERSID":
                _check_keys([self._stack.pop()])
                self._stack.append(_LEAF)
            case _:
                raise ValueError(f"an instruction that torch does not write: {name}")

    def _since_mark(self) -> list[_Value]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _tuple(self, items: list[_Value]) -> None:
        self._stack.append(_Value(1 + sum(item.weight for item in items), items=items))

    def _global(self, argument: str) -> _Value:
        name = argument.replace(" ", ".")
        # "a b" and "a.b" would read the same otherwise.
        if argument.count(" ") != 1 or name not in self._called | NAMED:
            raise Acts(name)
        return _Value(name=name)

    def _check_call(self, called: _Value, arguments: _Value) -> None:
        if called.name not in self._called:
            raise Acts(called.name)
        if called.name == ORDERED and arguments.items:
            raise ValueError("a table that is filled while it is made")
        # Of a text only: what is encoded again grows with each round.
        if called.name == CODEC and not _is_text_as_bytes(arguments.items):
            raise Acts(called.name)

    def _named(self, name: str, argument: object) -> str:
        if name == "STACK_GLOBAL":
            return ".".join(value.text or "?" for value in self._stack[-2:])
        return str(argument).replace(" ", ".") if name == "INST" else ""


def _place(argument: object) -> int:
    if not isinstance(argument, int):
        raise ValueError("a place that is no number")
    return argument


def _check_keys(keys: Sequence[_Value]) -> None:
    if any(key.weight > HEAVIEST_KEY for key in keys):
        raise ValueError("a key without end")


def _is_text_as_bytes(arguments: Sequence[_Value]) -> bool:
    texts = [value.text for value in arguments]
    return len(texts) == 2 and texts[0] is not None and texts[1] == "latin1"
