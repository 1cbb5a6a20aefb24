"""A table of a framework's operations: for each what makes nodes of it, and of others what would do instead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from flaxvision.errors import UserError
from flaxvision.models.reading.graph import Call

H = TypeVar("H", bound=Callable[..., Any])


class Table(Generic[H]):
    """What reads which operation.

    Args:
        vocabulary: What would do instead of an operation of which nothing is known.
    """

    def __init__(self, vocabulary: str):
        self.vocabulary = vocabulary
        self.handlers: dict[object, H] = {}
        self.instead: dict[object, str] = {}

    def reads(self, *targets: object) -> Callable[[H], H]:
        """Make the function below read these operations."""

        def add(handler: H) -> H:
            for target in dict.fromkeys(targets):  # some of PyTorch's functions have two names
                if target in self.handlers:
                    raise ValueError(f"{target} stands in the table already")
                self.handlers[target] = handler
            return handler

        return add

    def refuses(self, instead: str, *targets: object) -> None:
        """Note what would do instead of these operations."""
        self.instead.update(dict.fromkeys(targets, instead))

    def handler(self, call: Call, *targets: object) -> H:
        """What reads the first of the targets that stands here.

        Raises:
            UserError: If none is read.
        """
        known = next((each for each in targets if each in self.handlers or each in self.instead), None)
        if known not in self.handlers:
            call.refuse(call.words, self.instead.get(known, self.vocabulary))
        return self.handlers[known]


@contextlib.contextmanager
def strange(call: Call, what: str, instead: str) -> Iterator[None]:
    """Within it, whatever a strange model makes its framework, numpy and JAX raise is one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        call.refuse(f"{call.words} {what} ({reason})", instead)
