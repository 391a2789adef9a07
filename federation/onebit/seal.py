"""SEAL's BGV through `tenseal.sealapi`. The only importer of tenseal.

Theory of operation
-------------------
`sealapi` does not name BGV, but the SEAL inside implements it: parameters whose serialised scheme byte is 3 load and
work. `sealapi` reads and writes files only, so objects pass through an anonymous memory file. No byte from another
party reaches SEAL's parsers: this module builds SEAL's own encoding from integers that `federation.onebit.wire` has
checked. SEAL's encoding changes between versions, so an installed library that writes another version than the tested
one is refused.

Ciphertexts are in NTT form unless said otherwise, residues in the order in which SEAL keeps them.
"""

from __future__ import annotations

import os
import struct
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import tenseal.sealapi as sealapi  # noqa: PLR0402 - the submodule is the library
import zstandard
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.onebit.parameters import Parameters
from federation.onebit.wire import SEED_BYTES

Ciphertext: TypeAlias = Any
Plaintext: TypeAlias = Any
SecretKey: TypeAlias = Any
Residues: TypeAlias = NDArray[np.uint64]
"""(primes, N) residues in NTT form, or (N,) coefficients mod t."""

_TESTED_VERSION = (4, 3)
_HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, major, minor, compression, reserved, total size
_MAGIC = 0xA15E
_UNCOMPRESSED, _ZSTD = 0, 2
_SCHEME_BGV = 3
_UNUSED_KEY_PRIME = 16_760_833  # SEAL keeps the last prime for key switching; nothing is ever encrypted under it
_PRNG_BLAKE2XB = 1
_CIPHERTEXT_PREFIX = 73  # parms id, NTT flag, size, dimension, primes, scale, correction factor
_PLAINTEXT_COUNT = 32  # parms id before it
_INFLATED_LIMIT = 1 << 24  # no object of ours reaches 16 MiB


def _wrap(body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER.size, *_TESTED_VERSION, _UNCOMPRESSED, 0, _HEADER.size + len(body)) + body


def _array(words: Residues) -> bytes:
    """SEAL's DynArray of 64-bit words."""
    return _wrap(struct.pack("<Q", words.size) + words.astype("<u8", copy=False).tobytes())


def _read_array(body: bytes, offset: int, words: int) -> Residues:
    start = offset + _HEADER.size + 8
    if struct.unpack_from("<Q", body, start - 8)[0] != words:
        raise UsageError("SEAL wrote an object of an unexpected shape; install the pinned tenseal version")
    return np.frombuffer(body, "<u8", words, start).astype(np.uint64, copy=False)


def _load(target: Any, encoded: bytes, context: Any = None, *, secret: bool = False) -> Any:  # noqa: ANN401 - SEAL's
    with _MemoryFile(secret=secret) as file:
        file.write(encoded)
        if context is None:
            target.load(file.path)
        else:
            target.load(context, file.path)
    return target


def _save(source: Any, *, secret: bool = False) -> bytes:  # noqa: ANN401 - SEAL's own objects
    """The body of `source` in SEAL's encoding, inflated, without its outer header."""
    with _MemoryFile(secret=secret) as file:
        source.save(file.path)
        encoded = file.read()
    magic, header_size, major, minor, compression, _, size = _HEADER.unpack_from(encoded)
    if (magic, header_size, size) != (_MAGIC, _HEADER.size, len(encoded)) or (major, minor) != _TESTED_VERSION:
        raise UsageError(
            f"the installed tenseal writes SEAL {major}.{minor} objects, this version was tested with "
            f"{_TESTED_VERSION[0]}.{_TESTED_VERSION[1]}; install the versions of constraints.txt"
        )
    if compression == _UNCOMPRESSED:
        return encoded[_HEADER.size :]
    if compression != _ZSTD:
        raise UsageError("the installed tenseal compresses in an unknown way; install the versions of constraints.txt")
    return zstandard.ZstdDecompressor().decompress(encoded[_HEADER.size :], max_output_size=_INFLATED_LIMIT)


class _MemoryFile:
    """A path that SEAL can read and write, without a disk behind it where the system allows."""

    def __init__(self, *, secret: bool) -> None:
        self._secret = secret
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("seal", os.MFD_CLOEXEC)
            self.path = f"/proc/self/fd/{self._descriptor}"
            return self
        if self._secret:
            raise UsageError("this system has no anonymous memory files, and a secret key must never touch a disk")
        self._directory = tempfile.TemporaryDirectory()  # mode 0700
        self.path = str(Path(self._directory.name, "seal"))
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if self._directory is not None:
            self._directory.cleanup()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def read(self) -> bytes:
        size = os.fstat(self._descriptor).st_size
        data = os.pread(self._descriptor, size, 0)
        if len(data) != size:
            raise UsageError("a memory file was cut short; the machine may be out of memory")
        return data


@lru_cache(maxsize=4)
def engine(parameters: Parameters) -> Engine:
    """The engine of this process for `parameters`. Building one takes tens of milliseconds; it holds no secret."""
    return Engine(parameters)


class Engine:
    """BGV arithmetic under one parameter set. Holds no key: every secret comes in as an argument."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._context = self._new_context((*parameters.data_primes, _UNUSED_KEY_PRIME))
        self._first = self._context.first_parms_id()
        self._last = self._context.last_parms_id()
        self._evaluator = sealapi.Evaluator(self._context)

    def _new_context(self, primes: tuple[int, ...]) -> Any:  # noqa: ANN401 - SEALContext
        moduli = b"".join(_wrap(struct.pack("<Q", prime)) for prime in (*primes, self.parameters.plain_modulus))
        encoded = _wrap(struct.pack("<BQQ", _SCHEME_BGV, self.parameters.ring_dimension, len(primes)) + moduli)
        loaded = _load(sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV), encoded)
        expand_chain = True
        context = sealapi.SEALContext(loaded, expand_chain, sealapi.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise UsageError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
        return context

    # ------------------------------------------------------------------ the device

    def secret_key(self, coefficients: NDArray[np.int64]) -> SecretKey:
        """The secret key with the given (N,) ternary coefficients."""
        # SEAL keeps a secret key as a plaintext in NTT form at the key level, so its own transform makes one.
        residues = (coefficients % self.parameters.plain_modulus).astype(np.uint64)
        plaintext = self._plaintext(residues)
        self._evaluator.transform_to_ntt_inplace(plaintext, self._context.key_parms_id())
        return _load(sealapi.SecretKey(), _wrap(_save(plaintext, secret=True)), self._context, secret=True)

    def encrypt(self, secret: SecretKey, coefficients: Residues) -> tuple[bytes, Residues]:
        """A fresh symmetric encryption of (N,) coefficients mod t. Returns (seed, residues (2, N))."""
        encryptor = sealapi.Encryptor(self._context, secret)
        body = _save(encryptor.encrypt_symmetric(self._plaintext(coefficients)))
        shape = (len(self.parameters.data_primes), self.parameters.ring_dimension)
        words = _read_array(body, _CIPHERTEXT_PREFIX, shape[0] * shape[1])
        return body[-SEED_BYTES:], words.reshape(shape)

    # ------------------------------------------------------------------ the server

    def load_probe(self, seed: bytes, residues: Residues) -> Ciphertext:
        """A fresh ciphertext: (2, N) residues that are already checked, and the expansion of the seed."""
        prng = _wrap(bytes([_PRNG_BLAKE2XB]) + seed)
        body = self._prefix() + _array(residues) + prng
        return _load(sealapi.Ciphertext(), _wrap(body), self._context)

    def multiplier(self, values: Residues) -> Plaintext:
        """A plaintext in NTT form, from (2, N) residues of any polynomial modulo q."""
        body = struct.pack("<4Q", *self._first) + struct.pack("<Qd", values.size, 1.0) + _array(values)
        return _load(sealapi.Plaintext(), _wrap(body), self._context)

    def ciphertext(self, first: Residues, second: Residues) -> Ciphertext:
        """A ciphertext from two components, (2, N) residues each."""
        body = self._prefix() + _array(np.stack([first, second]))
        return _load(sealapi.Ciphertext(), _wrap(body), self._context)

    def evaluate(self, probe: Ciphertext, multiplier: Plaintext, mask: Ciphertext) -> Residues:
        """``multiplier * probe + mask``, switched down to q_0: (2, N) components."""
        result = sealapi.Ciphertext()
        self._evaluator.multiply_plain(probe, multiplier, result)
        self._evaluator.add_inplace(result, mask)
        self._evaluator.mod_switch_to_inplace(result, self._last)
        words = _read_array(_save(result), _CIPHERTEXT_PREFIX, 2 * self.parameters.ring_dimension)
        return words.reshape(2, -1)

    # ------------------------------------------------------------------ from checked integers

    def _plaintext(self, coefficients: Residues) -> Plaintext:
        """(N,) coefficients mod t -> plaintext. Of a device: secret."""
        body = bytes(_PLAINTEXT_COUNT) + struct.pack("<Qd", coefficients.size, 1.0) + _array(coefficients)
        return _load(sealapi.Plaintext(), _wrap(body), self._context, secret=True)

    def _prefix(self) -> bytes:
        """What stands before the residues of a fresh ciphertext of two components in NTT form."""
        parameters, ntt, size, scale, correction = self.parameters, True, 2, 1.0, 1
        shape = (size, parameters.ring_dimension, len(parameters.data_primes))
        return struct.pack("<4Q?QQQdQ", *self._first, ntt, *shape, scale, correction)
