"""Watching the transparency log from outside: what devices, witnesses and monitors check, and the commands for it.

It needs nothing but signatures, and a connection where the log is read from a server. Wallets and devices call it.
"""
