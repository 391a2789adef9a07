"""Who makes the parts: how many at once, what is said when somebody fails, and what is given back at the end."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.preparing import crew
from client.preparing.crew import Crew
from client.preparing.parts import Part, Recipe
from federation.errors import UnavailableError, UsageError

RECIPE = Recipe("ab" * 32, "as in tests", None, 0, None)


def some_parts(count):
    return [Part("anna", ("reference", "probe")[n % 2], n, (Path(f"{n}.png"),)) for n in range(count)]


@pytest.fixture(autouse=True)
def read(monkeypatch):
    """Which parts' images were read, in order; a picture is its part's number."""
    numbers = []
    monkeypatch.setattr(crew, "read_images", lambda part: numbers.append(part.number) or [b"%d" % part.number])
    return numbers


def made_of(part):
    return f"made of {part.camera} {[b'%d' % part.number]}"


class Shop:
    """A workshop that says what it was given."""

    def __init__(self, recipe=RECIPE):
        self.recipe = recipe

    def make(self, camera, images):
        return f"made of {camera} {images}"


def test_one_process_makes_each_part_when_it_is_asked_for(read):
    parts = some_parts(3)
    working = Crew(1).finished(iter(parts), RECIPE, Shop())
    assert next(working) == (parts[0], made_of(parts[0]))
    assert read == [0]
    assert list(working) == [(part, made_of(part)) for part in parts[1:]]


# --------------------------------------------------------------------------------------------------------- processes
class Pool:
    """Processes that work when somebody waits for them; the last that was given is ready first."""

    def __init__(self, processes, *, mp_context, initializer):
        assert (mp_context.get_start_method(), initializer) == ("spawn", crew._begin)
        Pool.last = self
        self.processes, self.waiting, self.most, self.ended = processes, [], 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.append("left")

    def submit(self, function, *given):
        assert function is crew._make
        future = Future()
        self.waiting.append((future, given))
        self.most = max(self.most, len(self.waiting))
        return future

    def shutdown(self, **named):
        self.ended.append(named)

    def finish(self):
        future, (kind, recipe, part) = self.waiting.pop()
        assert (kind, recipe) == (Shop, RECIPE)
        if part.number == self.breaks:
            future.set_exception(BrokenProcessPool("it died"))
        elif part.number == self.refuses:
            future.set_exception(UsageError("other weights"))
        else:
            future.set_result(made_of(part))
        return {future}

    breaks = refuses = None


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(crew, "ProcessPoolExecutor", Pool)
    waited = []

    def wait(working, return_when):
        assert return_when == "FIRST_COMPLETED"
        waited.append(len(working))
        return Pool.last.finish(), set()

    monkeypatch.setattr(crew, "wait", wait)
    Pool.breaks = Pool.refuses = None
    return waited


def test_processes_have_two_parts_each_and_every_part_comes_out_once(pool):
    parts = some_parts(11)
    taken = []
    found = list(Crew(3, workshop=Shop).finished((taken.append(part) or part for part in parts), RECIPE, Shop()))
    assert sorted(found, key=lambda each: each[0].number) == [(part, made_of(part)) for part in parts]
    assert (Pool.last.processes, Pool.last.most, pool) == (3, 6, [6] * 6 + [5, 4, 3, 2, 1])
    assert Pool.last.ended == [{"cancel_futures": True}, "left"]


def test_who_stops_asking_cancels_what_waits(pool):
    working = Crew(2, workshop=Shop).finished(iter(some_parts(9)), RECIPE, Shop())
    next(working)
    working.close()
    assert Pool.last.ended == [{"cancel_futures": True}, "left"]
    assert pool == [4]


@pytest.mark.parametrize(
    ("attribute", "error", "said"),
    [
        (
            "breaks",
            UnavailableError,
            "a process that prepares images died, perhaps for want of memory; run the command",
        ),
        ("refuses", UsageError, "other weights"),
    ],
)
def test_a_process_that_fails_ends_all_of_them(pool, attribute, error, said):
    setattr(Pool, attribute, 2)
    with pytest.raises(error, match=said):
        list(Crew(2, workshop=Shop).finished(iter(some_parts(9)), RECIPE, Shop()))
    assert Pool.last.ended == [{"cancel_futures": True}, "left"]
    assert pool


def test_a_worker_loads_its_workshop_once(monkeypatch):
    loaded = []

    class Counted(Shop):
        def __init__(self, recipe):
            loaded.append(recipe)
            super().__init__(recipe)

    monkeypatch.setattr(crew, "_workshop", None)
    for part in some_parts(3):
        assert crew._make(Counted, RECIPE, part) == made_of(part)
    assert loaded == [RECIPE]


def test_a_worker_ends_when_its_parent_does(monkeypatch):
    steps = []
    parent = SimpleNamespace(join=lambda: steps.append("the parent is gone"))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(os, "_exit", steps.append)

    class Thread:
        def __init__(self, *, target, daemon):
            assert daemon
            self.start = target

    monkeypatch.setattr(crew, "threading", SimpleNamespace(Thread=Thread))
    crew._begin()
    assert steps == ["the parent is gone", 1]


# --------------------------------------------------------------------------------------------------------------- Ray
class Ray:
    """Ray as far as a crew looks at it: what is waited for is ready in the order that it was given in, from behind."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        def __init__(self, cause):
            super().__init__("in Ray's own words")
            self.cause = cause

    def __init__(self, cpus=2.0, *, running=False, fails=None):
        self.cpus, self.running, self.fails = cpus, running, fails
        self.exceptions = SimpleNamespace(RayError=Ray.RayError, RayTaskError=Ray.RayTaskError)
        self.began, self.steps, self.working, self.most = [], [], {}, 0

    def is_initialized(self):
        return self.running

    def init(self, **named):
        self.steps.append(("init", named))
        if isinstance(self.fails, ConnectionError):
            raise self.fails

    def shutdown(self):
        self.steps.append("shutdown")

    def remote(self, **named):
        assert named == {"num_cpus": 1}

        def actor(kind):
            assert kind is Shop
            return SimpleNamespace(remote=self.begin)

        return actor

    def begin(self, recipe):
        assert recipe is RECIPE
        number = len(self.began)
        self.began.append(number)

        def make(camera, images):
            reference = f"{number}: {camera} {images}"
            self.working[reference] = number, Shop().make(camera, images)
            self.most = max(self.most, len(self.working))
            return reference

        return SimpleNamespace(make=SimpleNamespace(remote=make))

    def cluster_resources(self):
        return {"CPU": self.cpus} if self.cpus else {}

    def wait(self, references, *, num_returns):
        assert (references, num_returns) == (list(self.working), 1)
        busy = [number for number, _ in self.working.values()]
        assert max(map(busy.count, busy)) <= 2, "a worker has two parts at most"
        return [references[-1]], references[:-1]

    def get(self, reference):
        if self.fails and len(self.working) < 4:
            raise self.fails
        return self.working.pop(reference)[1]


@pytest.fixture
def ray(monkeypatch):
    monkeypatch.setattr(crew.importlib.util, "find_spec", lambda name: name == "ray")
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)

    def begun(**how):
        made = Ray(**how)
        monkeypatch.setitem(sys.modules, "ray", made)
        return made

    return begun


def on_ray(address, count=7):
    return list(Crew(ray=address, workshop=Shop).finished(iter(some_parts(count)), RECIPE, Shop()))


@pytest.mark.parametrize(("cpus", "workers", "most"), [(3.0, 3, 6), (2.9, 2, 4), (0.0, 1, 2), (None, 1, 2)])
def test_a_cluster_has_a_worker_for_each_processor_with_two_parts_each(ray, cpus, workers, most):
    cluster = ray(cpus=cpus)
    found = on_ray("auto", 11)
    assert sorted(found, key=lambda each: each[0].number) == [(part, made_of(part)) for part in some_parts(11)]
    assert (len(cluster.began), cluster.most) == (workers, most)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "0"


@pytest.mark.parametrize(
    ("address", "more"), [("auto", {}), ("local", {"num_cpus": crew.cores(), "include_dashboard": False})]
)
def test_what_is_begun_for_a_crew_is_ended_with_it_and_nobody_else_s(ray, address, more):
    cluster = ray()
    on_ray(address)
    assert cluster.steps == [
        ("init", {"address": address, "log_to_driver": False, "logging_level": 40, **more}),
        "shutdown",
    ]
    cluster = ray(running=True)
    on_ray(address)
    assert cluster.steps == []


@pytest.mark.parametrize(
    ("fails", "error", "said"),
    [
        (ConnectionError("no"), UnavailableError, "no Ray cluster answers at auto"),
        (Ray.RayTaskError(UsageError("other weights")), UsageError, "^other weights$"),
        (Ray.RayTaskError(KeyError("a bug")), Ray.RayTaskError, "in Ray's own words"),
        (Ray.RayError("lost"), UnavailableError, "a worker of the Ray cluster was lost; run the command again"),
    ],
    ids=["nobody", "refused", "bug", "lost"],
)
def test_a_cluster_that_fails_is_said_and_ended(ray, fails, error, said):
    cluster = ray(fails=fails)
    with pytest.raises(error, match=said):
        on_ray("auto")
    assert cluster.steps[-1] == "shutdown"


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("local", None),
        ("auto", None),
        ("ray://head:10001", ("head", 10001)),
        ("10.0.0.7:6379", ("10.0.0.7", 6379)),
        ("head:port", ValueError),
        ("head:6379", OSError),
    ],
)
def test_an_address_is_asked_before_ray_is(ray, monkeypatch, address, asked):
    """Ray itself waits for minutes, and says so in its own words."""
    calls, closed, cluster = [], [], ray()

    def connect(place, timeout):
        calls.append((place, timeout))
        if asked is OSError:
            raise ConnectionRefusedError(111, "refused")
        return SimpleNamespace(close=lambda: closed.append(place))

    monkeypatch.setattr(crew.socket, "create_connection", connect)
    if asked in {ValueError, OSError}:
        with pytest.raises(UnavailableError, match=f"no Ray cluster answers at {address}"):
            on_ray(address)
        assert cluster.steps == []
        return
    on_ray(address)
    assert calls == ([(asked, 10.0)] if asked else [])
    assert closed == ([asked] if asked else [])
