"""What all parties must agree on: mathematics, messages, errors. No sockets, files, clocks or global randomness."""

__version__ = "0.1.0"
