"""Presentation attacks that can be made of pictures alone, and how often they pass: `python -m examples.presentation`.

Everything here is simulated: pictures on surfaces before a camera that exists in numbers. docs/pad.md says what that
is worth.
"""
