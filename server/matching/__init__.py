"""The matching service: sessions step by step, what owners may do, rules, workers, what is logged beforehand.

It keeps everything in `server.storage` and `server.log`, and asks `server.visitors` who may have how much.
"""
