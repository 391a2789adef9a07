"""A coordinator and three organisations, each a process of its own in a folder of its own, on one machine."""
