"""Calls side by side, each in its own process; they take turns, so that a busy machine slows all alike."""

import importlib
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple


class Turns(NamedTuple):
    """What one job took: seconds of each turn, the first call's, and MiB, the most ever held.

    `framework` is what the process held once the job's framework was imported, before the job was made.
    """

    seconds: list[float]
    first: float
    peak: float
    framework: float


def peak_memory() -> float:
    """Return the most memory that this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(connection: Connection, framework: str, engine: Callable, *arguments: object) -> None:
    """Call the engine each time when told to; answer seconds and the peak memory so far."""
    importlib.import_module(framework)
    connection.send(peak_memory())
    call = engine(*arguments)
    while connection.recv():
        began = time.perf_counter()
        call()
        spent = time.perf_counter() - began
        connection.send((spent, peak_memory()))


def side_by_side(jobs: dict[str, tuple], repeats: int) -> dict[str, Turns]:
    """Run jobs (framework to import, engine that returns a call, *arguments) by their names, in turns."""
    fresh, workers, framework = multiprocessing.get_context("spawn"), {}, {}
    for name, job in jobs.items():
        connection, other = fresh.Pipe()
        process = fresh.Process(target=work, args=(other, *job))
        process.start()
        workers[name] = connection, process
        framework[name] = connection.recv()
    measured = {name: [] for name in jobs}
    for _ in range(1 + repeats):
        for name, (connection, _) in workers.items():
            connection.send(True)
            measured[name].append(connection.recv())
    for connection, process in workers.values():
        connection.send(False)
        process.join()
    return {
        name: Turns([spent for spent, _ in turns[1:]], turns[0][0], turns[-1][1], framework[name])
        for name, turns in measured.items()
    }
