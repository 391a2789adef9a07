"""The matching service: sessions step by step, what owners may do, workers, what is logged beforehand.

It keeps everything in `server.storage` and `server.log`, decides by `server.rules`, and asks `server.visitors` who may
have how much.
"""
