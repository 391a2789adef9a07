"""The main job, once, on real faces: `python -m examples.demo`."""
