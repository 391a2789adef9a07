"""Codes of embeddings for comparison with another implementation: JSON in, JSON out. For tests/test_web.py."""

import json
import sys

import numpy as np

from federation.onebit import CodeSeed, binary_code


def main():
    request = json.load(sys.stdin)
    seed = CodeSeed(bytes.fromhex(request["seed"]))
    codes = [binary_code(np.array(embedding), seed) for embedding in request["embeddings"]]
    json.dump([np.packbits(code).tobytes().hex() for code in codes], sys.stdout)


if __name__ == "__main__":
    main()
