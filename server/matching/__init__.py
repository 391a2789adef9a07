"""The matching service: sessions step by step, what owners may do, rules, workers, what is logged beforehand.

It keeps everything in `server.storage` and `server.log`. The bridge of `server.web` shares its rates for peers.
"""
