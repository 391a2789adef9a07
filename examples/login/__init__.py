"""A small site, its login button, the page, and back: `python -m examples.login`."""
