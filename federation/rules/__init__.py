"""The public rules as values, the rulebook that somebody has verified, and the one decision that follows from them.

Device and server call the same `decide`. It stands on consent and manifests and is pure.
"""
