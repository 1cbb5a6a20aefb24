"""The one error that a user's mistake raises, and the sentence that names the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was given: one line that says what was given, what is allowed and what to type.

    The command line prints it to stderr and exits with status 2; in Python it is a `ValueError`.
    """


def unknown(what: str, given: object, allowed: Iterable[object]) -> UserError:
    """An error for a `given` name that is none of the `allowed` ones; names the nearest and lists them all.

    >>> print(unknown("model", "mpl", ["linear", "mlp"]))
    unknown model 'mpl': did you mean 'mlp'? Allowed: linear, mlp
    """
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5) if isinstance(given, str) else []
    hint = f" did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {str(given)!r}:{hint} Allowed: {', '.join(names)}")


def check_choice(what: str, given: object, allowed: Iterable[object]) -> None:
    """Raise `unknown` unless `given` is one of `allowed`."""
    allowed = tuple(allowed)
    if given not in allowed:
        raise unknown(what, given, allowed)
