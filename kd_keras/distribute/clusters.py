"""The workers of a cluster: their ranks, the chief, and what happens if one is lost.

TensorFlow's own resolvers find a cluster in `TF_CONFIG` or in Slurm's environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import tensorflow as tf

from kd_keras.distribute.rendezvous import meet_peers
from kd_keras.private_api import start_coordination_service

SLURM_PORT = 8888
LOST = 75  # the exit code of a worker whose cluster lost another worker; sysexits.h calls it "try again"
JOBS = ("chief", "worker")  # the jobs that train, in the order of their ranks


def detect_strategy() -> str:
    """The name of the strategy that "auto" means in this environment: "tpu", "multiworker", "mirrored" or "one"."""
    if os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR"):
        return "tpu"
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1 or int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def resolve_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """The resolver of the cluster that the environment describes.

    Raises:
        ValueError: if the environment describes no cluster.
    """
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if os.environ.get("SLURM_STEP_NUM_TASKS"):
        return tf.distribute.cluster_resolver.SlurmClusterResolver(port_base=SLURM_PORT)
    raise ValueError(
        "Expected a cluster in TF_CONFIG or in Slurm's environment, but received neither. Set TF_CONFIG, start the "
        "program with srun, or start several workers on one machine with scripts/launch_local.sh."
    )


def worker_rank() -> tuple[int, int]:
    """This process's rank, from 0, and the number of workers that the environment describes; (0, 1) without a cluster.

    For work that is divided without a strategy, such as writing the shards of a recording.

    >>> worker_rank()
    (0, 1)
    """
    if detect_strategy() != "multiworker":
        return 0, 1
    resolver = resolve_cluster()
    tasks = _tasks(resolver)
    return tasks.index((resolver.task_type, resolver.task_id or 0)), len(tasks)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the checkpoints and the logs: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    tasks = _tasks(resolver)
    return len(tasks) < 2 or (resolver.task_type, resolver.task_id or 0) == tasks[0]


def _tasks(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> list[tuple[str, int]]:
    """The job and the index of every worker, in the order of ranks."""
    cluster = resolver.cluster_spec().as_dict()
    return [(job, index) for job in JOBS for index in range(len(cluster.get(job, [])))]


def watch_peers(resolver: tf.distribute.cluster_resolver.ClusterResolver, timeout: float) -> None:
    """Waits for all workers, and makes TensorFlow report a worker after `timeout` seconds of silence.

    Call it before the strategy exists.

    Raises:
        TimeoutError: if a worker has not started after `timeout` seconds.
    """
    cluster, tasks = resolver.cluster_spec().as_dict(), _tasks(resolver)
    own_rank = tasks.index((resolver.task_type, resolver.task_id or 0))
    meet_peers([cluster[job][index] for job, index in tasks], own_rank, timeout)
    jobs = {job: len(cluster[job]) for job in JOBS if job in cluster}
    start_coordination_service(f"/job:{next(iter(jobs))}/task:0", jobs, timeout)


@contextlib.contextmanager
def exit_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Ends this process, with a message and the exit code `LOST`, if another worker of its cluster is gone.

    A worker that dies is detected at the next step, when its connection breaks; one that hangs, after the strategy's
    `timeout`. The process ends at once, because an orderly exit would wait for the other workers. A worker that has
    finished waits for the chief, which may still be busy: TensorFlow cannot tell a worker that left from a dead one.
    """
    try:
        try:
            yield
        except SystemExit:  # of all workers on SIGTERM, or of the chief at its end
            wait_for_all(strategy)
            raise
        wait_for_all(strategy)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        reason = next((line for line in str(error).splitlines() if "aborted" in line or "unhealthy" in line), error)
        message = f"A worker of the cluster is gone ({reason}). Start all workers again with the same command. The run "
        print(message + "resumes from its last checkpoint.", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(LOST)


@contextlib.contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets the chief run the block before the other workers run it, for example to prepare data on the disk."""
    if not is_chief(strategy):
        wait_for_all(strategy)
    yield
    if is_chief(strategy):
        wait_for_all(strategy)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Waits until all workers have called this; returns at once on one worker."""

    def meet() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(()))

    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        tf.function(lambda: strategy.run(meet))()
