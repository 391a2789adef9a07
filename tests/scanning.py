"""Looks for secrets of people in files, messages and the memory of processes, in every form that they might have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from federation.onebit import SessionKey, binary_code
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.onebit.seal import _save
from federation.onebit.slots import from_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.wallet import Wallet

_KEY_BYTES = 8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HASH = np.uint64(0x9E3779B97F4A7C15)
_HASH_SHIFT = np.uint64(64 - 22)


class Needles:
    """Byte strings to look for all at once, each with the name of what it would betray.

    A table of hashed beginnings sorts out nearly every place of a haystack; what is left is compared.
    """

    def __init__(self) -> None:
        self._by_key: dict[int, list[tuple[bytes, str]]] = {}
        self._table = np.zeros(1 << 22, bool)

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def add(self, name: str, data: bytes, *, window: int, step: int) -> None:
        """Every window of so many bytes of `data`, at every step, whatever stands before and after it."""
        for start in range(0, max(len(data) - window, 0) + 1, step):
            needle = data[start : start + window]
            if max(needle[:_KEY_BYTES].count(0), needle[:_KEY_BYTES].count(255)) > _KEY_BYTES - 3:
                continue  # small numbers are everywhere; the windows before and after this one are found
            (key,) = words = np.frombuffer(needle, "<u8", 1)
            self._by_key.setdefault(int(key), []).append((needle, name))
            self._table[words * _HASH >> _HASH_SHIFT] = True

    def find(self, haystack: bytes) -> set[str]:
        """Names of what is in there, at any offset."""
        found = set()
        for offset in range(min(_KEY_BYTES, len(haystack))):
            words = np.frombuffer(haystack, "<u8", (len(haystack) - offset) // _KEY_BYTES, offset)
            for place in np.flatnonzero(self._table[words * _HASH >> _HASH_SHIFT]):
                begin = offset + _KEY_BYTES * int(place)
                for needle, name in self._by_key.get(int(words[place]), ()):
                    if haystack.startswith(needle, begin):
                        found.add(name)
        return found

    def find_in(self, haystacks: Iterable[bytes]) -> set[str]:
        """Names of what is in any of them."""
        return set().union(*map(self.find, haystacks))


def add_embedding(needles: Needles, name: str, vector: NDArray[np.float64]) -> None:
    """Any eight consecutive numbers, in every precision and byte order."""
    for kind in ("f8", "f4", "f2"):
        for order in "<>":
            data = vector.astype(order + kind).tobytes()
            needles.add(f"{name} as {order}{kind}", data, window=8 * int(kind[1]), step=int(kind[1]))


def add_code(needles: Needles, name: str, code: NDArray[np.uint8]) -> None:
    """A binary code packed in both orders, a byte or a character a bit, and as the ring has it before encryption."""
    for order in ("little", "big"):
        needles.add(f"{name} packed {order}", np.packbits(code, bitorder=order).tobytes(), window=16, step=1)
    needles.add(f"{name} in bytes", code.tobytes(), window=64, step=1)
    needles.add(f"{name} in text", (code + ord("0")).astype(np.uint8).tobytes(), window=64, step=1)
    for parameters in (ONEBIT_1024, ONEBIT_2048):
        if parameters.slots == len(code):
            coefficients = from_bits(code, parameters)[:: parameters.slot_degree]
            needles.add(f"{name} in the ring", coefficients.tobytes(), window=64, step=8)


def add_wallet(needles: Needles, name: str, wallet: Wallet) -> None:
    """Device key, and code seed and pad of the template."""
    secret = wallet.require_template_secret()
    values = {
        "code seed": secret.seed.secret_bytes(),
        "pad": secret.pad,
        "device key": wallet.signing_key.private_bytes_raw(),
    }
    for what, value in values.items():
        needles.add(f"{name}'s {what}", value, window=16, step=8)
        needles.add(f"{name}'s {what} in hex", value.hex().encode(), window=32, step=16)


def add_session_key(needles: Needles, name: str, key: SessionKey, coefficients: NDArray[np.int64]) -> None:
    """A key that lives for one session: a byte a coefficient, and as the library holds it.

    As words of eight bytes it cannot be looked for: there are three of them, and all memory is full of those.
    """
    needles.add(f"{name} in bytes", coefficients.astype(np.int8).tobytes(), window=64, step=8)
    transformed = _save(key._key, secret=True)[-(1 << 14) :]
    needles.add(f"{name} transformed", transformed, window=64, step=64)


def add_person(needles: Needles, name: str, wallet: Wallet, faces: Iterable[NDArray[np.float64]]) -> None:
    """Everything secret of somebody: the wallet, and the embeddings that the device was shown."""
    add_wallet(needles, name, wallet)
    secret = wallet.require_template_secret()
    for number, face in enumerate(faces):
        add_embedding(needles, f"{name}'s embedding {number}", face)
        add_code(needles, f"{name}'s code {number}", binary_code(face, secret.seed, secret.parameters.slots))


def memory_of(pid: int) -> Iterator[bytes]:
    """All that a process has written: the pages that exist of its private writable mappings."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory, Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if not re.search(r" rw.p ", line):
                continue
            begin, end = (int(part, 16) // _PAGE_BYTES for part in re.match(r"(\w+)-(\w+)", line).groups())
            pagemap.seek(8 * begin)
            exists = np.frombuffer(pagemap.read(8 * (end - begin)), "<u8") >> np.uint64(62) != 0
            edges = np.flatnonzero(np.diff(exists, prepend=False, append=False)) + begin
            for first, after in edges.reshape(-1, 2):
                with suppress(OSError):  # unmapped meanwhile
                    memory.seek(int(first) * _PAGE_BYTES)
                    yield memory.read(int(after - first) * _PAGE_BYTES)


def family_of(pid: int) -> list[int]:
    """A process with all that descend from it."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [pid, *(one for child in children for one in family_of(child))]


def files_under(directory: Path) -> Iterator[bytes]:
    """Contents of every file."""
    return (path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
