"""Several processes that share a port, and a parent that replaces those that die."""

import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import multiprocess

from .logs import log


def supervise(
    work: Callable, arguments: tuple, count: int, grace: int, listening: list[socket.socket]
) -> None:
    """Keep `count` workers until SIGTERM or SIGINT, and start another for one that dies.

    `work` is called in each with `arguments`, the sockets, and an event that it sets when it has come up.

    Raises:
        ChildProcessError: one died, and none has ever come up.
    """
    processes = multiprocessing.get_context("spawn")
    started = processes.Event()
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    workers: list[Any] = []
    while not stopping:
        for dead in [worker for worker in workers if not worker.is_alive()]:
            log.error("worker died", extra={"pid": dead.pid, "code": dead.exitcode})
            multiprocess.mark_process_dead(dead.pid)
            workers.remove(dead)
            if not started.is_set():
                for worker in workers:
                    worker.kill()
                raise ChildProcessError("no worker could start; the log says why")
            time.sleep(1)  # one that cannot start shall not keep the machine busy
        while len(workers) < count:
            workers.append(processes.Process(target=work, args=(*arguments, listening, started)))
            workers[-1].start()
        time.sleep(0.2)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(grace + 10)
        worker.kill()
