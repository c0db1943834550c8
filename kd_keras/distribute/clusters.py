"""The workers of a cluster: who they are, which one is the chief, and what happens when one is lost."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import tensorflow as tf

from kd_keras.errors import explain_mismatch

SLURM_PORT = 8888
LOST = 75  # the exit code of a worker that lost another: "try again", in the words of sysexits.h


def detect_strategy() -> str:
    """The strategy that "auto" stands for here."""
    if os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR"):
        return "tpu"
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1 or int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def worker_rank() -> tuple[int, int]:
    """This process's place among the workers that the environment names, from 0, and their number; (0, 1) alone.

    For work that is shared without a strategy, such as writing parts of a recording.

    >>> place()
    (0, 1)
    """
    if detect_strategy() != "multiworker":
        return 0, 1
    resolver = _resolver()
    cluster = resolver.cluster_spec().as_dict()
    tasks = [(job, task) for job in ("chief", "worker") for task in range(len(cluster.get(job, [])))]
    return tasks.index((resolver.task_type, resolver.task_id or 0)), len(tasks)


def _resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if os.environ.get("SLURM_STEP_NUM_TASKS"):
        return tf.distribute.cluster_resolver.SlurmClusterResolver(port_base=SLURM_PORT)
    remedy = "set TF_CONFIG, start it with srun, or on one machine with scripts/launch_local.sh"
    raise ValueError(explain_mismatch("a cluster in TF_CONFIG or Slurm's environment", "neither", remedy))


def _watch_peers(resolver: tf.distribute.cluster_resolver.ClusterResolver, timeout: float) -> None:
    """Has TensorFlow's coordination service report a worker that has been silent for `timeout` seconds.

    The strategy would start the same service, with a time of its own, if there were none; no public function sets it.
    """
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    jobs = [(job, len(tasks)) for job, tasks in resolver.cluster_spec().as_dict().items() if job in ("chief", "worker")]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{min(jobs)[0]}/task:0",  # "chief" where there is one
        coordinated_jobs=[CoordinatedJob(name=job, num_tasks=count) for job, count in jobs],
        heartbeat_timeout_in_ms=int(1000 * timeout),
    )


@contextlib.contextmanager
def exit_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Ends this process, with a message and the exit code `LOST`, where another worker of its cluster has gone.

    A worker that dies is noticed when its connection breaks, at the next step, and one that hangs after the strategy's
    `timeout`. The process ends at once: to leave in good order it would wait for the others. A worker that is through
    waits for the chief, which may have more to do: one that has left would look like one that has died.
    """
    try:
        try:
            yield
        except SystemExit:  # as all of them do together on SIGTERM, or the chief alone at its end
            _wait_for_all(strategy)
            raise
        _wait_for_all(strategy)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        reason = next((line for line in str(error).splitlines() if "aborted" in line or "unhealthy" in line), error)
        remedy = "start all workers again with the same command: the run goes on from its last checkpoint"
        print(explain_mismatch("all workers of the cluster", f"one is gone ({reason})", remedy), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(LOST)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the checkpoints and the logs: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    tasks = [(job, task) for job in ("chief", "worker") for task in resolver.cluster_spec().as_dict().get(job, [])]
    return len(tasks) < 2 or (resolver.task_type, resolver.task_id or 0) == (tasks[0][0], 0)


@contextlib.contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets the chief do something, such as to prepare data on the disk, before the other workers do the same."""
    if not is_chief(strategy):
        _wait_for_all(strategy)
    yield
    if is_chief(strategy):
        _wait_for_all(strategy)


def _wait_for_all(strategy: tf.distribute.Strategy) -> None:
    def meet() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(()))

    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        tf.function(lambda: strategy.run(meet))()
