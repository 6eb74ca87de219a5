"""Runs of a sweep on the machines of a Ray cluster. Ray is imported on first use; it is the extra `cluster`."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from ranklens.sweeps.perform import Job, Report, lost, perform
from ranklens.sweeps.store import Store
from ranklens.sweeps.work import Work

# How often Ray tries a run again after its process or machine was lost, before it counts as failed.
RETRIES = 5
# Runs that are handed to Ray at a time, per processor of the cluster.
AHEAD = 2


def run_on_ray(store: Store, work: Work, jobs: Sequence[Job], address: str | None) -> Iterator[Report]:
    """Make runs as tasks of Ray, one processor each, and yield a report of each as it ends.

    Results and checkpoints go through an actor on this machine, which alone writes to the
    store, so the machines need no folder in common. Ray repeats a run whose process or machine is lost.

    Args:
        store: the store of the results, on this machine.
        work: the function or study.
        jobs: the runs.
        address: address of the cluster, such as "auto" or "10.0.0.1:6379"; None takes RAY_ADDRESS, or starts Ray
            on this machine. A Ray that this process has started already is used as it is.

    Yields:
        One report per run.

    Raises:
        ModuleNotFoundError: if Ray is not installed.
        ValueError: for an address of the Ray client.
    """
    ray = _ray(address)
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level="warning", include_dashboard=None)
    try:
        yield from _run(ray, store, work, jobs)
    finally:
        if started:
            ray.shutdown()


def _ray(address: str | None) -> Any:
    """Return the module `ray`, which has no types.

    Raises:
        ModuleNotFoundError: if it is not installed.
        ValueError: for an address of the Ray client.
    """
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"address {address} is one of the Ray client, outside of the cluster; start this process on a "
            f'machine of the cluster, with address="auto"'
        )
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of later versions, without a warning
    try:
        return import_module("ray")
    except ImportError as error:
        raise ModuleNotFoundError('executor="ray" needs Ray: pip install "ranklens[cluster]"') from error


def _run(ray: Any, store: Store, work: Work, jobs: Sequence[Job]) -> Iterator[Report]:
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = ray.remote(_Writer).options(num_cpus=0, scheduling_strategy=here).remote(str(store.path))
    task = ray.remote(_perform_with).options(num_cpus=1, max_retries=RETRIES)
    shared = ray.put(work)
    ahead = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, running = deque(jobs), dict[Any, Job]()
    try:
        while waiting or running:
            while waiting and len(running) < ahead:
                job = waiting.popleft()
                running[task.remote(actor, shared, job)] = job
            [ended], _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ended)
            try:
                report = ray.get(ended)
            except ray.exceptions.RayError as error:
                report = lost(store, work, job, f"{type(error).__name__}: {str(error).splitlines()[0]}")
            if report.state == "busy":
                waiting.append(job)
            else:
                yield report
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
        ray.kill(actor)


class _Writer(Store):
    """The store, in an actor on the machine that has it."""

    def __init__(self, path: str) -> None:
        super().__init__(path, create=False)


class _Desk:
    """The store as a task on another machine sees it: every call is answered by the actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def _ask(self, method: str, *arguments: object, **named: object) -> Any:
        ray = import_module("ray")
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments, **named))
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None

    def claim(self, key: str) -> bool:
        """Return whether this sweep may run something now; a lost task's claim stays with the sweep."""
        return self._ask("claim", key)

    def release(self, key: str) -> None:
        """End a claim."""
        self._ask("release", key)

    def tidy(self, key: str) -> None:
        """Remove half-written files of a run."""
        self._ask("tidy", key)

    def read(self, key: str, name: str) -> bytes | None:
        """Return the content of a file of a run, or None."""
        return self._ask("read", key, name)

    def write(self, key: str, name: str, content: bytes) -> None:
        """Write a file of a run, whole or not at all."""
        self._ask("write", key, name, content)

    def remove(self, key: str, *, beside: tuple[str, ...] = ()) -> None:
        """Remove the files of a run, except those named in `beside`."""
        self._ask("remove", key, beside=beside)


def _perform_with(actor: Any, work: Work, job: Job) -> Report:
    """Make a run in a task of Ray."""
    return perform(_Desk(actor), work, job)
