"""SEAL's own decryption of a reply: the oracle for the device's, which does without (`SessionKey.open_reply`)."""

from __future__ import annotations

import struct

import numpy as np
import tenseal.sealapi as sealapi  # noqa: PLR0402 - the submodule is the library

from federation.onebit import seal

PLAINTEXT_PREFIX = 48
"""Bytes before the residues of a plaintext: parms id, count, scale."""


def seal_decrypt(engine, key, components):
    """(2, N) components of a reply -> (N,) coefficients mod t."""
    parameters, n = engine.parameters, engine.parameters.ring_dimension
    correction = pow(parameters.data_primes[1], -1, parameters.plain_modulus)
    prefix = struct.pack("<4Q?QQQdQ", *engine._last, True, 2, n, 1, 1.0, correction)
    reply = seal._load(sealapi.Ciphertext(), seal._wrap(prefix + seal._array(components)), engine._context)
    plaintext = sealapi.Plaintext()
    sealapi.Decryptor(engine._context, key).decrypt(reply, plaintext)
    body = seal._save(plaintext, secret=True)
    (count,) = struct.unpack_from("<Q", body, 32)  # SEAL trims leading zero coefficients
    coefficients = np.zeros(n, np.uint64)
    coefficients[:count] = seal._read_array(body, PLAINTEXT_PREFIX, count)
    return coefficients
