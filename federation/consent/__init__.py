"""Consent as values: purposes, the receipts that devices sign, the life of a consent, and assertions for others.

Pure, no numerics. Whoever asks what may be done with a face calls it: rules, release manifests, device and server.
"""
