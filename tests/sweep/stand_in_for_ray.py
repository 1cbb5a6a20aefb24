"""A stand-in for Ray, in this process and without a clock: nodes that do with a task what a test says.

As in Ray, tasks wait for a node that has what they ask for, in turn, and for ever where there is none.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

IDLE = 20  # times that nothing happens before a test is said to hang


class RayError(Exception):
    """As Ray's."""


class NodeDiedError(RayError):
    """As Ray's."""


class ObjectStoreFullError(RayError):
    """As Ray's."""


class OutOfDiskError(RayError):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's, which names the node only in its text."""

    def __init__(self, cause: Exception, address: str):
        super().__init__(f"\x1b[36mray::train()\x1b[39m (pid=7, ip={address})\n{type(cause).__name__}: {cause}")
        self.cause = cause.with_traceback(None)  # as it comes from another process


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """A node, and what it does with a task: yields what that says; an error of Ray's takes the worker."""

    address: str
    train: Callable[..., Iterator[Any]]  # of the arguments of `flaxvision.sweep.node.train`
    cores: int = 0
    gpus: int = 0
    alive: bool = True
    began: list[Sequence[Any]] = dataclasses.field(default_factory=list)  # the arguments of each task

    @property
    def id(self) -> str:
        """As Ray's: 56 hexadecimal digits."""
        return self.address.replace(".", "").zfill(56)


@dataclasses.dataclass(slots=True, eq=False)
class Stream:
    """What a task says, as it says it."""

    cluster: Cluster
    options: Mapping[str, Any]
    arguments: Sequence[Any]
    node: Node | None = None
    said: Iterator[Any] | None = None

    def __next__(self) -> Callable[[], Any]:
        """What gives, or raises, what it says next."""
        assert self.node is not None
        assert self.said is not None
        try:
            if not self.node.alive:
                raise NodeDiedError("the node is dead\nand more of it")
            value = next(self.said)
        except StopIteration:
            self.cluster.running.remove(self)
            raise
        except Exception as error:
            self.cluster.running.remove(self)
            return _raiser(error if isinstance(error, RayError) else RayTaskError(error, self.node.address))
        return lambda: value


def _raiser(error: Exception) -> Callable[[], Any]:
    def give() -> Any:
        raise error

    return give


class Cluster:
    """What the module `ray` is for `flaxvision.sweep.tasks`."""

    def __init__(self, *nodes: Node):
        self.driver = Node("10.0.0.99", lambda *_: iter(()))
        self.there = [self.driver, *nodes]
        self.queue: list[Stream] = []
        self.running: list[Stream] = []
        self.idle = 0
        self.between: Callable[[], object] = lambda: None  # is called before each look at streams

    def nodes(self) -> list[dict[str, Any]]:
        """As `ray.nodes`."""
        return [
            {
                "NodeID": each.id,
                "Alive": each.alive,
                "NodeManagerAddress": each.address,
                "Resources": {name: float(n) for name, n in (("CPU", each.cores), ("GPU", each.gpus)) if n},
            }
            for each in self.there
        ]

    def get_runtime_context(self) -> types.SimpleNamespace:
        """As that of Ray: where the cluster answers, and the node of this process."""
        return types.SimpleNamespace(gcs_address="", get_node_id=lambda: self.driver.id)

    def put(self, value: object) -> object:
        """As `ray.put`."""
        return value

    def get(self, given: Any) -> Any:
        """As `ray.get`, of what is put or said."""
        return given if isinstance(given, list) else given()

    def remote(self, **options: Any) -> Callable[..., types.SimpleNamespace]:
        """As `ray.remote`."""
        assert options["num_returns"] == "streaming"
        assert options["max_retries"] == 0

        def begin(*arguments: Any) -> Stream:
            self.queue.append(Stream(self, options, arguments))
            return self.queue[-1]

        return lambda _: types.SimpleNamespace(remote=begin)

    def cancel(self, stream: Stream, *, force: bool) -> None:
        """As `ray.cancel`."""
        assert force
        for each in (self.queue, self.running):
            if stream in each:
                each.remove(stream)

    def wait(self, streams: list[Stream], *, num_returns: int = 1, timeout: float) -> tuple[list[Stream], list[Stream]]:
        """As `ray.wait`: each task that has a node says something."""
        if timeout:
            self.idle += 1
            assert self.idle < IDLE, "the sweep waits for a node that is not there"
            self.between()
        for stream in list(self.queue):
            if node := next((node for node in self.there if self._fits(node, stream.options)), None):
                self.queue.remove(stream)
                self.running.append(stream)
                node.began.append(stream.arguments)
                stream.node, stream.said = node, node.train(*stream.arguments)
        ready = [stream for stream in streams if stream in self.running]
        if ready:
            self.idle = 0
        return ready, [stream for stream in streams if stream not in ready]

    def _fits(self, node: Node, options: Mapping[str, Any]) -> bool:
        excluded = options.get("label_selector", {}).get("ray.io/node-id", "!in()")
        assert re.fullmatch(r"!in\(([0-9a-f]{56}(,[0-9a-f]{56})*)?\)", excluded)  # Ray would keep spaces
        if not node.alive or node.id in excluded:
            return False
        at = [stream.options for stream in self.running if stream.node is node]
        has = {"num_cpus": node.cores, "num_gpus": node.gpus}
        return all(sum(each.get(name, 0) for each in (*at, options)) <= has[name] for name in has)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be what `import ray` gives, for tasks that look at what there is all the time."""
        errors = types.ModuleType("ray.exceptions")
        for error in (RayError, NodeDiedError, ObjectStoreFullError, OutOfDiskError, RayTaskError):
            setattr(errors, error.__name__, error)
        self.exceptions, self.__spec__ = errors, importlib.machinery.ModuleSpec("ray", None)
        monkeypatch.setitem(sys.modules, "ray", self)
        monkeypatch.setitem(sys.modules, "ray.exceptions", errors)
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.setenv("RAY_ADDRESS", "local")
        monkeypatch.setattr("flaxvision.sweep.cluster._check_answers", lambda address: None)
        for module in ("tasks", "cluster", "_run"):
            monkeypatch.setattr(f"flaxvision.sweep.{module}.connect", lambda: None)
        monkeypatch.setattr("flaxvision.sweep.tasks.LOOK", 0.0)
