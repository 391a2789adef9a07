"""`python -m examples.presentation`: see `examples.presentation.films`."""

from examples.presentation.films import app

if __name__ == "__main__":
    app()
