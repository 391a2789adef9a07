"""What all parties must agree on: mathematics, messages, errors. No sockets, files, clocks or global randomness.

But for `commandline`, where both programs read their settings.
"""

__version__ = "0.2.0"
