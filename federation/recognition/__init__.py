"""The recogniser, its embeddings, and the model release that training gives to everybody.

Everything that turns a chip into numbers calls it. Only `resnet` and `tunable` need torch: verification runs without.
"""
