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
from functools import cached_property, lru_cache
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
"""(primes, N) residues, or (N,) coefficients mod t."""

_TESTED_VERSION = (4, 3)
_HEADER = struct.Struct("<HBBBBHQ")  # magic, header size, major, minor, compression, reserved, total size
_MAGIC = 0xA15E
_UNCOMPRESSED, _ZSTD = 0, 2
_SCHEME_BFV, _SCHEME_BGV = 1, 3
_UNUSED_KEY_PRIME = 16_760_833  # SEAL keeps the last prime for key switching; nothing is ever encrypted under it
_PRNG_BLAKE2XB = 1
_DIGIT_SHIFTS = np.array([0, 16, 32], np.uint64)
_DIGIT_MASK = np.uint64(0xFFFF)
_CIPHERTEXT_PREFIX = 73  # parms id, NTT flag, size, dimension, primes, scale, correction factor
_PLAINTEXT_PREFIX = 48  # parms id, count, scale
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
    with zstandard.ZstdDecompressor().stream_reader(encoded[_HEADER.size :]) as reader:
        return reader.read(_INFLATED_LIMIT)


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
    """BGV arithmetic under one profile. Holds no key: every secret comes in as an argument."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._context = self._new_context(
            _SCHEME_BGV, parameters.ring_dimension, (*parameters.data_primes, _UNUSED_KEY_PRIME)
        )
        self._first = self._context.first_parms_id()
        self._last = self._context.last_parms_id()
        self._evaluator = sealapi.Evaluator(self._context)
        # Slots are interpolated over Z_t[y] / (y^(N/4) + 1); the coefficient prime only has to be valid for SEAL.
        self._packing_context = self._new_context(_SCHEME_BFV, parameters.slots, parameters.data_primes[:1])
        self._packing = sealapi.BatchEncoder(self._packing_context)
        zero, one = self._constant(0), self._constant(1)
        self._secret_key_itself = self._ciphertext(zero, one)
        modulus = self._constant(parameters.plain_modulus)
        self._second_carrier, self._both_carrier = self._ciphertext(zero, modulus), self._ciphertext(modulus, modulus)
        self._minus_one = self._ciphertext(self._constant(-1), zero)

    @cached_property
    def _head_transform(self) -> NDArray[np.uint64]:
        """(4, 3, N): the NTT of x^j times 2^(16 k), modulo the reply's prime.

        SEAL takes BGV ciphertexts in NTT form only, while the four coefficients of a reply come in coefficient form.
        The NTT is linear, so theirs is a combination of these rows, one for each 16-bit digit.
        """
        prime = self.parameters.reply_prime
        rows = np.empty((4, 3, self.parameters.ring_dimension), np.uint64)
        for power in range(4):
            monomial = self.plaintext(np.eye(1, self.parameters.ring_dimension, power, dtype=np.uint64)[0])
            self._evaluator.transform_to_ntt_inplace(monomial, self._last)
            rows[power, 0] = _read_array(_save(monomial), _PLAINTEXT_PREFIX, self.parameters.ring_dimension)
            for digit in (1, 2):
                # 48-bit residues times 2^16 still fit 64 bits.
                rows[power, digit] = (rows[power, digit - 1] << np.uint64(16)) % prime
        return rows

    def _constant(self, value: int) -> Residues:
        """An integer in NTT form: (data primes, N), its residue everywhere."""
        residues = np.array([value % prime for prime in self.parameters.data_primes], np.uint64)
        return np.repeat(residues[:, None], self.parameters.ring_dimension, axis=1)

    def _new_context(self, scheme: int, dimension: int, primes: tuple[int, ...]) -> Any:  # noqa: ANN401 - SEALContext
        moduli = b"".join(_wrap(struct.pack("<Q", prime)) for prime in (*primes, self.parameters.plain_modulus))
        encoded = _wrap(struct.pack("<BQQ", scheme, dimension, len(primes)) + moduli)
        loaded = _load(sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV), encoded)
        expand_chain = True
        context = sealapi.SEALContext(loaded, expand_chain, sealapi.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise UsageError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
        return context

    # ------------------------------------------------------------------ encoding

    def pack(self, bits: NDArray[np.uint8]) -> Residues:
        """One bit per slot -> (N,) coefficients mod t, non-zero only at multiples of four."""
        packed = sealapi.Plaintext()
        self._packing.encode([int(bit) for bit in bits], packed)
        # SEAL trims leading zero coefficients, so the count it writes may be smaller than the number of slots.
        body = _save(packed, secret=True)
        count = struct.unpack_from("<Q", body, 32)[0]
        coefficients = np.zeros(self.parameters.ring_dimension, np.uint64)
        coefficients[: 4 * count : 4] = _read_array(body, _PLAINTEXT_PREFIX, count)
        return coefficients

    def plaintext(self, coefficients: Residues, *, secret: bool = False) -> Plaintext:
        """(N,) coefficients mod t -> plaintext."""
        body = bytes(32) + struct.pack("<Qd", coefficients.size, 1.0) + _array(coefficients)
        return _load(sealapi.Plaintext(), _wrap(body), self._context, secret=secret)

    def plaintext_ntt(self, coefficients: Residues) -> Plaintext:
        """(N,) coefficients mod t -> plaintext, transformed once so that products with it are cheap."""
        plaintext = self.plaintext(coefficients)
        self._evaluator.transform_to_ntt_inplace(plaintext, self._first)
        return plaintext

    # ------------------------------------------------------------------ keys of the device

    def secret_key(self, coefficients: Residues) -> SecretKey:
        """The secret key with the given (N,) ternary coefficients, modulo t."""
        # SEAL keeps a secret key as a plaintext in NTT form at the key level, so its own transform makes one.
        plaintext = self.plaintext(coefficients, secret=True)
        self._evaluator.transform_to_ntt_inplace(plaintext, self._context.key_parms_id())
        return _load(sealapi.SecretKey(), _wrap(_save(plaintext, secret=True)), self._context, secret=True)

    def public_key_parts(self, secret: SecretKey) -> tuple[bytes, Residues]:
        """A public key: a fresh symmetric encryption of zero. Returns (seed, residues (data primes, N))."""
        return self._seeded_parts(sealapi.Encryptor(self._context, secret).encrypt_zero_symmetric())

    def encrypt_parts(self, secret: SecretKey, coefficients: Residues) -> tuple[bytes, Residues]:
        """A fresh symmetric encryption of (N,) coefficients. Returns (seed, residues (data primes, N))."""
        encryptor = sealapi.Encryptor(self._context, secret)
        return self._seeded_parts(encryptor.encrypt_symmetric(self.plaintext(coefficients, secret=True)))

    def _seeded_parts(self, serializable: Any) -> tuple[bytes, Residues]:  # noqa: ANN401 - SEAL's own object
        body = _save(serializable)
        shape = (len(self.parameters.data_primes), self.parameters.ring_dimension)
        words = _read_array(body, _CIPHERTEXT_PREFIX, shape[0] * shape[1])
        return body[-SEED_BYTES:], words.reshape(shape)

    def decrypt_reply(self, secret: SecretKey, head: Residues, second: Residues, third: Residues) -> list[int]:
        """Decrypts the first four coefficients of a reply from its parts, as `reply_parts` returns them."""
        prime = self.parameters.reply_prime
        digits = head[:, None] >> _DIGIT_SHIFTS & _DIGIT_MASK
        # Every product is below 2^64 and every sum of twelve residues too.
        first = (self._head_transform * digits[:, :, None] % prime).sum(axis=(0, 1), dtype=np.uint64) % prime
        reply = self._load_ciphertext((first, second, third), self._last, self.parameters.reply_correction)
        return self.decrypt(secret, reply, head.size)

    def decrypt(self, secret: SecretKey, ciphertext: Ciphertext, count: int) -> list[int]:
        """The first `count` coefficients mod t."""
        plaintext = sealapi.Plaintext()
        sealapi.Decryptor(self._context, secret).decrypt(ciphertext, plaintext)
        present = plaintext.coeff_count()  # SEAL trims leading zero coefficients
        return [int(plaintext[i]) if i < present else 0 for i in range(count)]

    def noise_budget(self, secret: SecretKey, ciphertext: Ciphertext) -> int:
        """Bits left before decryption fails. For tests: its value depends on the secret key."""
        return int(sealapi.Decryptor(self._context, secret).invariant_noise_budget(ciphertext))

    # ------------------------------------------------------------------ from checked integers

    def load_ciphertext(self, seed: bytes, residues: Residues) -> Ciphertext:
        """Builds a fresh ciphertext, or a public key, from residues that are already checked."""
        prng = _wrap(bytes([_PRNG_BLAKE2XB]) + seed)
        body = self._prefix(self._first, 2, len(residues), 1) + _array(residues) + prng
        return _load(sealapi.Ciphertext(), _wrap(body), self._context)

    def _ciphertext(self, *components: Residues) -> Ciphertext:
        return self._load_ciphertext(components, self._first, 1)

    def _load_ciphertext(self, components: tuple[Residues, ...], level: list[int], correction: int) -> Ciphertext:
        words = np.concatenate([component.ravel() for component in components])
        primes = components[0].size // self.parameters.ring_dimension
        body = self._prefix(level, len(components), primes, correction) + _array(words)
        return _load(sealapi.Ciphertext(), _wrap(body), self._context)

    def _prefix(self, level: list[int], size: int, primes: int, correction: int) -> bytes:
        ntt, scale = True, 1.0
        dimension = self.parameters.ring_dimension
        return struct.pack("<4Q?QQQdQ", *level, ntt, size, dimension, primes, scale, correction)

    # ------------------------------------------------------------------ the evaluator (server)

    def add(self, left: Ciphertext, right: Ciphertext) -> Ciphertext:
        """Sum of two ciphertexts."""
        result = sealapi.Ciphertext()
        self._evaluator.add(left, right, result)
        return result

    def negate(self, ciphertext: Ciphertext) -> Ciphertext:
        """Minus a ciphertext."""
        result = sealapi.Ciphertext()
        self._evaluator.negate(ciphertext, result)
        return result

    def add_plain(self, left: Ciphertext, right: Plaintext) -> Ciphertext:
        """Sum with a plaintext that is not in NTT form."""
        result = sealapi.Ciphertext()
        self._evaluator.add_plain(left, right, result)
        return result

    def multiply(self, left: Ciphertext, right: Ciphertext) -> Ciphertext:
        """Product of two ciphertexts, without relinearisation: sizes k and l give k + l - 1."""
        result = sealapi.Ciphertext()
        self._evaluator.multiply(left, right, result)
        return result

    def multiply_plain(self, left: Ciphertext, right: Plaintext) -> Ciphertext:
        """Product with a plaintext in NTT form."""
        result = sealapi.Ciphertext()
        self._evaluator.multiply_plain(left, right, result)
        return result

    def times_secret(self, ciphertext: Ciphertext) -> Ciphertext:
        """(c_0, c_1) -> (0, c_0, c_1): the phase times s, without knowing s."""
        return self.multiply(ciphertext, self._secret_key_itself)

    def minus_one(self, ciphertext: Ciphertext) -> Ciphertext:
        """Subtracts the constant 1, which is 1 in every slot."""
        return self.add(ciphertext, self._minus_one)

    def rlwe_sample(self, public_key: Ciphertext, secret: Residues, error: Residues) -> Ciphertext:
        """(b u, a u + t e) for a public key (b, a): its second component is pseudo-uniform.

        The first component carries no error of its own, so it must not be shown whole.

        Args:
            public_key: an encryption of zero, maybe by an adversary; a is the expansion of a seed.
            secret: (N,) u, small and fresh, modulo t.
            error: (N,) e, small and fresh, modulo t.
        """
        errors = self.multiply_plain(self._second_carrier, self.plaintext_ntt(error))
        return self.add(self.multiply_plain(public_key, self.plaintext_ntt(secret)), errors)

    def add_error(self, ciphertext: Ciphertext, error: Residues) -> Ciphertext:
        """Adds t e to both components, for a fresh small (N,) e modulo t: noise even under a secret key of zero."""
        return self.add(ciphertext, self.multiply_plain(self._both_carrier, self.plaintext_ntt(error)))

    def switch_to_reply(self, ciphertext: Ciphertext) -> Ciphertext:
        """Switches a ciphertext down to the reply's prime."""
        result = sealapi.Ciphertext()
        self._evaluator.mod_switch_to(ciphertext, self._last, result)
        return result

    def reply_parts(self, ciphertext: Ciphertext) -> tuple[Residues, Residues, Residues]:
        """What a reply holds of a switched ciphertext with three components. Consumes it.

        Returns:
            Coefficients 0..3 of the first component (4,); the second and third component (N,), in NTT form.
        """
        dimension = self.parameters.ring_dimension
        words = _read_array(_save(ciphertext), _CIPHERTEXT_PREFIX, 3 * dimension)
        self._evaluator.transform_from_ntt_inplace(ciphertext)
        head = np.array([ciphertext[index] for index in range(4)], np.uint64)
        return head, words[dimension : 2 * dimension], words[2 * dimension :]
