"""The grader: it finds out *which* mistake an answer makes.

`spec` says what a question is, `questions` holds them, `runner` runs an answer and writes down what can be seen,
`judge` compares that with one reference under named switches, `live` is `check` in a notebook, and `make`
generates the exercise notebooks from their solutions.
"""

from .live import Mistake, check

__all__ = ["Mistake", "check"]
