"""Sweeps on Ray: the steps with a stand-in that runs tasks at once, and a real cluster where Ray is installed."""

import contextlib
import types

import pytest

import ranklens as rl
from ranklens.sweeps import cluster
from ranklens.sweeps.store import Store
from ranklens.sweeps.sweep import RunsFailed


class Lost(Exception):
    """The stand-in for the errors of Ray."""


class Ref:
    """The stand-in for a reference: its value, or the error that `get` raises."""

    def __init__(self, call):
        self.value, self.error = None, None
        try:
            self.value = call()
        except Lost as error:
            self.error = error


class Remote:
    """The stand-in for a remote function or actor class, which runs at once."""

    def __init__(self, ray, thing):
        self.ray, self.thing = ray, thing

    def options(self, **_):
        return self

    def remote(self, *arguments, **named):
        values = [each.value if isinstance(each, Ref) else each for each in arguments]
        if isinstance(self.thing, type):
            made = self.thing(*values)
            self.ray.actors.append(made)
            methods = {name: Remote(self.ray, getattr(made, name)) for name in dir(made) if not name.startswith("__")}
            return types.SimpleNamespace(**methods)
        if self.ray.losses and self.thing is cluster._perform_with:
            self.ray.losses.pop()
            return Ref(self.lose)
        return Ref(lambda: self.thing(*values, **named))

    @staticmethod
    def lose():
        raise Lost("the worker died\nand more")


class Ray:
    """The stand-in for the module `ray`."""

    def __init__(self, losses=0):
        self.losses, self.started, self.actors = [None] * losses, False, []
        self.exceptions = types.SimpleNamespace(RayError=Lost, RayTaskError=Lost)
        strategies = types.SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
        self.util = types.SimpleNamespace(scheduling_strategies=strategies)

    def is_initialized(self):
        return self.started

    def init(self, address, **_):
        self.started, self.address = True, address

    def shutdown(self):
        self.started = False

    def get_runtime_context(self):
        return types.SimpleNamespace(get_node_id=lambda: "here")

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, thing):
        return Remote(self, thing)

    def put(self, thing):
        return Ref(lambda: thing)

    def get(self, ref):
        if ref.error is not None:
            raise ref.error
        return ref.value

    def wait(self, refs, num_returns):
        return refs[:1], refs[1:]

    def cancel(self, ref, force):
        pass

    def kill(self, actor):
        pass


@pytest.fixture
def use(monkeypatch):
    def replaced(ray):
        monkeypatch.setattr(cluster, "import_module", lambda name: ray)
        return ray

    return replaced


def f(a):
    return {"x": a * 10.0, "net": rl.cp((2, 2, 2), rank=1)}


def test_runs_go_through_the_actor_into_the_store(use, tmp_path):
    ray = use(Ray())
    data = rl.sweep(f, over={"a": range(9)}, executor="ray", store=tmp_path / "s", address="10.0.0.1:6379")
    assert data.x.values.tolist() == [10.0 * a for a in range(9)]
    assert ray.address == "10.0.0.1:6379"
    assert not ray.started
    assert len(ray.actors) == 1
    assert all(Store(tmp_path / "s").is_whole(entry) for entry in Store(tmp_path / "s").entries())
    data = rl.sweep(f, over={"a": range(10)}, executor="ray", store=tmp_path / "s")
    assert data.x.sum() == 450.0


def test_a_ray_that_runs_already_goes_on(use):
    ray = use(Ray())
    ray.started = True
    rl.sweep(f, over={"a": [1]}, executor="ray")
    assert ray.started


def test_a_run_that_ray_gives_up_is_kept_as_failed(use, tmp_path):
    use(Ray(losses=1))
    with pytest.warns(RunsFailed, match=r"1 of 2 runs failed: a=1 \(Lost: the worker died\)"):
        data = rl.sweep(f, over={"a": [1, 2]}, executor="ray", store=tmp_path / "s")
    assert data.x[1] == 20.0


def test_without_ray_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(cluster, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"ranklens\[cluster\]\""):
        rl.sweep(f, over={"a": [1]}, executor="ray")


@pytest.mark.slow
def test_a_lost_node_loses_nothing(tmp_path):
    """A cluster of two nodes on this machine, one of which is killed half-way."""
    ray = pytest.importorskip("ray", reason="the extra cluster is not installed")
    nodes = pytest.importorskip("ray.cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)

    def slow(a):
        import time

        time.sleep(0.5)
        return a * 10.0

    def tell(line):
        if line.startswith("8 of"):
            nodes.remove_node(second, allow_graceful=False)

    with contextlib.ExitStack() as ending:
        ending.callback(nodes.shutdown)
        ending.callback(ray.shutdown)
        data = rl.sweep(slow, over={"a": range(20)}, executor="ray", store=tmp_path / "s", progress=tell)
    assert data.value.values.tolist() == [10.0 * a for a in range(20)]
    assert len(list(Store(tmp_path / "s").entries())) == 20
