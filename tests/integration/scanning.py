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
from federation.onebit.sampling import ternary
from federation.onebit.seal import _save
from federation.onebit.slots import from_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.wallet.wallet import Wallet
    from federation.onebit import Parameters

TEMPLATE_BEGINS = 8
"""Bytes of a template message that are the same for everybody."""
_KEY_BYTES = 8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HASH = np.uint64(0x9E3779B97F4A7C15)
_HASH_SHIFT = np.uint64(64 - 22)


class Needles:
    """Byte strings to look for all at once, each with the name of what it would betray.

    A table of hashed beginnings sorts out most places of a haystack, the beginnings themselves nearly all others; what
    is left is compared.
    """

    def __init__(self) -> None:
        self._by_key: dict[int, list[tuple[bytes, str]]] = {}
        self._table = np.zeros(1 << 22, bool)
        self._keys = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def add(self, name: str, data: bytes, *, window: int, step: int) -> None:
        """Every window of so many bytes of `data`, at every step, whatever stands before and after it."""
        for start in range(0, max(len(data) - window, 0) + 1, step):
            needle = data[start : start + window]
            if needle[:_KEY_BYTES].count(0) > _KEY_BYTES - 3 or len(set(needle[:_KEY_BYTES])) == 1:
                continue  # such beginnings are everywhere; the windows before and after this one are found
            (key,) = words = np.frombuffer(needle, "<u8", 1)
            self._by_key.setdefault(int(key), []).append((needle, name))
            self._table[words * _HASH >> _HASH_SHIFT] = True

    def find(self, haystack: bytes) -> set[str]:
        """Names of what is in there, at any offset."""
        if len(self._keys) != len(self._by_key):
            self._keys = np.array(sorted(self._by_key), np.uint64)
        found = set()
        for offset in range(min(_KEY_BYTES, len(haystack))):
            words = np.frombuffer(haystack, "<u8", (len(haystack) - offset) // _KEY_BYTES, offset)
            likely = np.flatnonzero(self._table[words * _HASH >> _HASH_SHIFT])
            nearest = np.searchsorted(self._keys, words[likely]).clip(max=len(self._keys) - 1)
            for place in likely[self._keys[nearest] == words[likely]]:
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


def add_code(needles: Needles, name: str, code: NDArray[np.uint8], parameters: Parameters, *, bits: int) -> None:
    """Bits packed in both orders, a byte or a character each, and as a probe has them before encryption.

    Args:
        bits: how many in a row are found: more of them where the server may have something similar.
    """
    for order in ("little", "big"):
        needles.add(f"{name} packed {order}", np.packbits(code, bitorder=order).tobytes(), window=bits // 8, step=1)
    needles.add(f"{name} in bytes", code.tobytes(), window=bits, step=1)
    needles.add(f"{name} in text", (code + ord("0")).astype(np.uint8).tobytes(), window=bits, step=1)
    coefficients, apart = from_bits(code, parameters), parameters.slot_degree
    needles.add(f"{name} in the ring", coefficients.tobytes(), window=64 * apart, step=8 * apart)
    needles.add(f"{name} as a polynomial in y", coefficients[::apart].tobytes(), window=64, step=8)


def add_secret(needles: Needles, name: str, value: bytes) -> None:
    """Any 16 bytes in a row, and their hexadecimal digits."""
    needles.add(name, value, window=16, step=8)
    needles.add(f"{name} in hex", value.hex().encode(), window=32, step=16)


def add_wallet(needles: Needles, name: str, wallet: Wallet) -> None:
    """Device key, and seed and pad of the template if there is one."""
    add_secret(needles, f"{name}'s device key", wallet.signing_key.private_bytes_raw())
    secret = wallet.template_secret
    if secret is not None:
        add_secret(needles, f"{name}'s code seed", secret.seed.secret_bytes())
        needles.add(f"{name}'s pad in hex", secret.pad.hex().encode(), window=32, step=2)
        pad = np.unpackbits(np.frombuffer(secret.pad, np.uint8), bitorder="little")
        add_code(needles, f"{name}'s pad", pad, secret.parameters, bits=128)


def add_face(needles: Needles, name: str, wallet: Wallet, face: NDArray[np.float64]) -> None:
    """A capture that was shown to a device: its embedding, its code, and its code under the pad.

    The server has the padded code of the reference. That of another capture would show it how far apart they are.
    """
    secret = wallet.require_template_secret()
    code = binary_code(face, secret.seed, secret.parameters.slots)
    add_embedding(needles, f"{name} embedded", face)
    add_code(needles, f"{name} as a code", code, secret.parameters, bits=128)
    add_code(needles, f"{name} under the pad", secret.padded_code(face), secret.parameters, bits=256)


def add_template(needles: Needles, name: str, template: bytes) -> None:
    """What a server stores, salt and padded code: it may leave it to nobody."""
    needles.add(name, template[TEMPLATE_BEGINS:], window=16, step=1)
    needles.add(f"{name} in hex", template[TEMPLATE_BEGINS:].hex().encode(), window=32, step=2)


def a_session_key(needles: Needles, name: str, parameters: Parameters) -> SessionKey:
    """A fresh one, as its coefficients, modulo the plaintext modulus, and as the library holds it."""
    coefficients = ternary(parameters.ring_dimension, os.urandom)
    key = SessionKey(parameters, coefficients)
    needles.add(f"{name} in bytes", coefficients.astype(np.int8).tobytes(), window=64, step=8)
    residues = (coefficients % parameters.plain_modulus).astype("<u8")
    needles.add(f"{name} in the ring", residues.tobytes(), window=256, step=8)
    needles.add(f"{name}, transformed", _save(key._key, secret=True)[-(1 << 14) :], window=64, step=64)
    return key


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
