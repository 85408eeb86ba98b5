"""Several nodes of a graph at a time, each in a process of its own."""

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

from vggnet.errors import InputError, RunError
from vggnet.stopping import Stopped, end_with_parent


class Job(Protocol):
    """Something picklable that a worker runs; `say` takes a line to the caller's `log`."""

    def __call__(self, shared: Any, device: str, say: Callable[[str], None], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Task:
    """A job, and the names of those that must be done before it."""

    name: str
    job: Job
    after: tuple[str, ...] = ()


def run_all(
    tasks: Sequence[Task],
    shared: Any,
    *,
    workers: int,
    device: str,
    log: Callable[[str, str], None],
    done: Callable[[str], None],
) -> None:
    """Runs tasks, each when those before it are done, the first of the list that can run first.

    Processes end with the caller, also where that is killed; where it is stopped, a training in
    them ends its step and saves its state first. CPU threads are shared out evenly,
    and GPUs given out in turn.

    Args:
        tasks: names and dependencies form no circle.
        shared: given to every job; sent once to each process.
        workers: number of processes.
        device: cpu or cuda; with cuda, worker i gets cuda:i modulo the number of GPUs.
        log: gets a task's name and a line that it said.
        done: gets the name of a task that is done.

    Raises:
        InputError, RunError: what a job raised, or RunError when a process died.
    """
    import torch

    workers = min(workers, len(tasks))
    threads = max(1, torch.get_num_threads() // max(1, workers))
    context = get_context("spawn")
    waiting, finished = list(tasks), set[str]()
    busy: dict[Connection, str] = {}
    idle: list[Connection] = []
    processes = []
    try:
        for slot in range(workers):
            ours, theirs = context.Pipe()
            # Not daemons, which may have no processes of their own to read images.
            process = context.Process(target=_work, args=(theirs, slot, threads, device))
            process.start()
            theirs.close()
            processes.append(process)
            idle.append(ours)
            _send(ours, shared, f"worker {slot + 1}")
        while waiting or busy:
            for task in list(waiting):
                if idle and finished.issuperset(task.after):
                    waiting.remove(task)
                    worker = idle.pop(0)
                    busy[worker] = task.name
                    _send(worker, task.job, task.name)
            for ready in connection.wait(list(busy)):
                assert isinstance(ready, Connection)
                try:
                    kind, value = ready.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(busy[ready]) from None
                if kind == "line":
                    log(busy[ready], value)
                elif kind == "error":
                    raise value
                else:
                    name = busy.pop(ready)
                    finished.add(name)
                    idle.append(ready)
                    done(name)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for pipe in (*idle, *busy):
            pipe.close()  # which ends a process that waits for its next task
        for process in processes:
            process.join()


def _send(worker: Connection, value: Any, name: str) -> None:
    try:
        worker.send(value)
    except OSError:  # a broken pipe
        raise _died(name) from None


def _died(name: str) -> RunError:
    return RunError(
        f"the process of {name} died (out of memory? a script needs `if __name__ == '__main__':`); "
        "what was saved is intact: the same command goes on"
    )


def _work(pipe: Connection, slot: int, threads: int, device: str) -> None:
    # Ctrl-C reaches every process of the terminal; the caller ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    # Its own lock is a semaphore that outlives a process that is ended.
    tqdm.set_lock(threading.RLock())
    if device == "cuda":
        device = f"cuda:{slot % torch.cuda.device_count()}"
    try:
        shared = pipe.recv()
        while True:
            job: Job = pipe.recv()
            try:
                job(shared, device, lambda line: pipe.send(("line", line)))
            except (InputError, RunError) as error:
                pipe.send(("error", error))
            except OSError as error:
                why = f"{error.filename or 'writing'}: {error.strerror or error}"
                pipe.send(("error", RunError(why)))
            except (MemoryError, torch.OutOfMemoryError):
                why = "out of memory: lower --jobs, --batch-size or --width"
                pipe.send(("error", RunError(why)))
            else:
                pipe.send(("done", None))
    except (EOFError, BrokenPipeError, Stopped):  # the caller has gone, or ends this process
        return
