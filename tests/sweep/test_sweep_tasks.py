"""What becomes of trials on clusters whose nodes go, cannot train or are not there, by a stand-in for Ray."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from flaxvision import __version__
from flaxvision._own_code import take_copies
from flaxvision.errors import UserError
from flaxvision.sweep import cluster as cluster_module
from flaxvision.sweep import node, parse_spec
from flaxvision.sweep.arrange import Arrangement
from flaxvision.sweep.cluster import ClusterGone
from flaxvision.sweep.files import RunFiles
from flaxvision.sweep.finished import Finished
from flaxvision.sweep.inputs import dataset_of
from flaxvision.sweep.tasks import run_on_cluster
from flaxvision.sweep.trials import expand
from flaxvision.sweep.work import Cohort
from flaxvision.training.callbacks import Progress
from tests.sweep.stand_in_for_ray import Cluster, Node, NodeDiedError, RayError

NO_SPACE = "No space left on device"


def trains(cohort, *_):
    yield node.Told(tuple(trial.id for trial in cohort.trials), Progress(1, 2, 1, 0))
    yield [Finished({**trial.about, "status": "ok"}) for trial in cohort.trials]


def broken(*_):
    raise OSError(NO_SPACE)
    yield


def without_flaxvision(*_):
    missing = "Traceback (most recent call last):\n\nModuleNotFoundError: No module named 'flaxvision'"
    raise RuntimeError(
        "The remote function failed to import on the worker. This may be because needed library dependencies are not "
        f"installed in the worker environment or cannot be found from sys.path {['/usr'] * 99}:\n\n{missing}\n"
    )
    yield


def sizes(of: Node) -> list[int]:
    return [len(arguments[0].trials) for arguments in of.began]


@pytest.fixture
def fill(tiny, tmp_path, monkeypatch):
    """Fills a table on a cluster, from cohorts of so many trials: how trials ended, by id, and what was said."""

    def filled(cluster: Cluster, *cohorts: int) -> tuple[dict[str, str], list[str]]:
        cluster.install(monkeypatch)
        trials, notes = expand(parse_spec(tiny(seeds=sum(cohorts)))), []
        parts = iter(trials)
        work = [Cohort(tuple(next(parts) for _ in range(n)), RunFiles(tmp_path), "auto", None) for n in cohorts]

        def note(progress: Progress) -> None:
            notes.extend([progress.note] if progress.note else [])

        ended: dict[str, str] = {}
        for _, finished in run_on_cluster(work, lambda cohort: [note]):
            for each in finished:
                assert each.record["id"] not in ended
                ended[each.record["id"]] = each.record.get("message", each.record["status"])
        assert set(ended) == {trial.id for trial in trials}
        return ended, notes

    return filled


def test_a_gpu_that_is_lost_gives_back_what_waits_for_it(fill):
    """Cores train it, trial by trial."""

    def dies(cohort, *rest):
        yield next(trains(cohort))
        gpu.alive = False
        raise NodeDiedError("the node is dead\nand more of it")

    gpu, cpu = Node("10.0.0.1", dies, cores=4, gpus=1), Node("10.0.0.2", trains, cores=2)
    ended, notes = fill(Cluster(gpu, cpu), 4, 4, 4)
    assert set(ended.values()) == {"ok"}
    assert sizes(gpu) == [4]
    assert sizes(cpu) == [1] * 12
    assert notes == ["begins anew, as Ray lost it by NodeDiedError: the node is dead"]


def test_cores_of_nodes_with_a_gpu_are_left_alone(fill):
    gpu, cpu = Node("10.0.0.1", trains, cores=8, gpus=1), Node("10.0.0.2", trains, cores=1)
    ended, notes = fill(Cluster(gpu, cpu), 2, 2, 2, 2, 2)
    assert set(ended.values()) == {"ok"}
    assert notes == []
    assert {on_core for *_, on_core in gpu.began} == {False}
    assert {on_core for *_, on_core in cpu.began} == {True}


def test_a_cluster_that_cannot_train_yet_is_said_once(fill):
    cluster = Cluster(Node("10.0.0.1", trains))
    cluster.between = lambda: cluster.there.append(Node("10.0.0.2", trains, cores=1)) if cluster.idle == 5 else None
    ended, notes = fill(cluster, 1, 1)
    assert set(ended.values()) == {"ok"}
    assert notes == ["waits: the cluster has no GPU and no core for it; add a node: ray start --address HOST:PORT"]


def test_a_node_that_cannot_train_is_left_alone(fill):
    """One of four, that answers at once; the others take some time."""

    def slowly(cohort, *_):
        for _ in range(5):
            yield next(trains(cohort))
        yield from trains(cohort)

    failing = Node("10.0.0.1", broken, cores=1)
    ended, notes = fill(Cluster(failing, *(Node(f"10.0.0.{n}", slowly, cores=1) for n in (2, 3, 4))), *[1] * 100)
    assert set(ended.values()) == {"ok"}
    assert 1 <= len(failing.began) <= 2 * 4  # those that were handed out before it was known
    assert set(notes) == {f"begins anew, as the node at 10.0.0.1 cannot train: OSError: {NO_SPACE}"}


def test_where_no_node_can_train_the_sweep_ends(fill):
    told = (
        r"^no node of the Ray cluster can train: flaxvision cannot be imported there \(ModuleNotFoundError: No module "
        rf"named 'flaxvision'\): install flaxvision {__version__} on every node$"
    )
    with pytest.raises(UserError, match=told):
        fill(Cluster(*(Node(f"10.0.0.{n}", without_flaxvision, cores=1) for n in range(9))), *[1] * 20)
    with pytest.raises(UserError, match=NO_SPACE):  # before all nodes were tried
        fill(Cluster(*(Node(f"10.0.0.{n}", broken, cores=1) for n in range(9))), 1)


def test_a_node_that_no_longer_can_train_is_tried_again(fill):
    """It is the only one; a trial that it cannot train is given up, and no other is."""

    def at_times(cohort, *_):
        if [trial.seed for trial in cohort.trials] == [1]:
            raise OSError(NO_SPACE)
        yield from trains(cohort)

    ended, _ = fill(Cluster(Node("10.0.0.1", at_times, cores=1)), 1, 1, 1)
    last = f"given up after 4 tries: the node at 10.0.0.1 cannot train: OSError: {NO_SPACE}"
    assert sorted(ended.values()) == [last, "ok", "ok"]


def test_a_cluster_that_goes_away_is_told(fill, tmp_path):
    def gone(*_):
        raise RayError("GCS is not there\nat all")

    def last(cohort, *_):
        yield from trains(cohort)
        cluster.driver.alive = False

    cluster = Cluster(Node("10.0.0.1", last, cores=1))
    resume = f": what has ended is kept; when there is a cluster again: flaxvision resume {tmp_path}$"
    with pytest.raises(UserError, match=f"^the Ray cluster has lost the node of this process{resume}"):
        fill(cluster, 1, 1, 1, 1)
    cluster.put = gone
    with pytest.raises(UserError, match=f"^Ray says RayError: GCS is not there{resume}"):
        fill(cluster, 1)


def test_a_cluster_that_no_longer_answers_is_given_some_time(monkeypatch):
    monkeypatch.setattr(cluster_module, "PATIENCE", 0.0)
    with pytest.raises(ClusterGone, match=r"^the Ray cluster at 127.0.0.1:1 does not answer any more \(.*refused\)$"):
        cluster_module._check_answers("127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster_module._check_answers(f"127.0.0.1:{server.getsockname()[1]}")


def test_another_version_on_a_node_is_refused(tiny, tmp_path, monkeypatch):
    Cluster().install(monkeypatch)
    cohort = Cohort(tuple(expand(parse_spec(tiny()))), RunFiles(tmp_path), "auto", None)
    sent = dataclasses.replace(node.Sent.by([cohort]), version="0.0.9")
    told = rf"^it has flaxvision {__version__}, and the process that fills the run 0\.0\.9: install the same on every "
    with pytest.raises(UserError, match=told):
        node._take("another", [sent])


def test_what_trials_keep_together_goes_when_the_first_of_them_is_over(tiny, tmp_path, monkeypatch):
    """Whoever fills the run does not know which a node trains together, and deletes what a trial's id names."""
    Cluster().install(monkeypatch)
    parts = []

    def execute(given, executor, callbacks):
        parts.extend(given)
        yield from ((part, []) for part in given)

    def two(trials, *_):
        return Arrangement("threads", "vmap", (trials[:2], trials[2:]))

    monkeypatch.setattr("flaxvision.sweep.executors.execute", execute)
    monkeypatch.setattr("flaxvision.sweep.arrange.arrange", two)
    monkeypatch.setattr(node, "_prepare", lambda: None)
    trials = tuple(expand(parse_spec(tiny(seeds=3))))
    cohort = Cohort(trials, RunFiles(tmp_path), "auto", None)
    sent = node.Sent.by([cohort])
    try:
        said = list(node.train(cohort, dataset_of(trials[0], cohort.files), "stamp", sent.key, [sent], False))
    finally:
        take_copies(None)
    assert said[-2:] == [[], []]
    assert [part.keep(part.name, [], []).folder.name for part in parts] == [trials[0].id, trials[2].id]
