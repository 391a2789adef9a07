"""The recogniser, its embeddings, and the model release that training gives to everybody.

Everything that turns a chip into numbers calls it. Only `tunable` needs torch, so that verification runs without.
"""
