"""tf.distribute strategies by name, the clusters they run on, and what differs with the number of devices.

    strategy = distribute.strategy("auto")
    with strategy.scope():
        ...  # load the teacher, build student and Distiller, compile
    train = distribute.batches(strategy, lambda share: data.training(source, batch_size=256, share=share))

A cluster is found by TensorFlow's own resolvers: in `TF_CONFIG`, in Slurm's environment, or as a Cloud TPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from kd_keras.contracts import Share, mismatch, nearest

NAMES = ("auto", "one", "mirrored", "multiworker", "tpu", "central")
RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # the power of (batch / base batch) that scales the learning rate
SLURM_PORT = 8888
APART = 1_000_003  # between the seeds of two replicas
LOST = 75  # the exit code of a worker that lost another: "try again", in the words of sysexits.h


def strategy(name: str = "auto", *, devices: int | None = None, timeout: float = 20.0) -> tf.distribute.Strategy:
    """A strategy by name; make it before anything else of TensorFlow runs, and build everything in its `scope()`.

    Args:
        name: "one" device (TensorFlow's default strategy), "mirrored" over the GPUs of this machine or, where it has
            none, over logical CPUs, "multiworker" over a cluster, "tpu", "central" (variables on the CPU, work on the
            GPUs), or "auto": what the environment offers, in the order TPU, cluster, several GPUs, one device.
        devices: how many GPUs, or logical CPUs, of this machine; by default all GPUs, or one CPU.
        timeout: seconds after which workers take one that answers no more for dead.

    Raises:
        ValueError: for an unknown name, a cluster or a TPU that the environment does not describe, more devices than
            there are, or where TensorFlow has run before.

    >>> strategy("one").num_replicas_in_sync
    1
    """
    if name not in NAMES:
        raise ValueError(mismatch(f"a strategy of {NAMES}", repr(name), nearest(name, NAMES)))
    if devices is not None and (isinstance(devices, bool) or not isinstance(devices, int) or devices < 1):
        raise ValueError(mismatch("devices: a whole number of at least 1", repr(devices)))
    name = found() if name == "auto" else name
    if name == "tpu":
        return _tpu()
    if name == "multiworker":
        return _multiworker(devices, timeout)
    if name == "one":
        return tf.distribute.get_strategy()
    kind, used = _local_devices(devices)
    if name == "central":
        return tf.distribute.experimental.CentralStorageStrategy(used)
    # Logical CPUs share one memory: adding on one of them is as fast as a collective, and needs no keys of its own.
    together = tf.distribute.ReductionToOneDevice() if kind == "CPU" else None
    return tf.distribute.MirroredStrategy(used, cross_device_ops=together)


def found() -> str:
    """The strategy that "auto" stands for here."""
    if os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR"):
        return "tpu"
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1 or int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _local_devices(count: int | None) -> tuple[str, list[str]]:
    gpus, cpus = (tf.config.list_physical_devices(kind) for kind in ("GPU", "CPU"))
    if gpus:
        if count and count > len(gpus):
            raise ValueError(mismatch(f"devices= at most the {len(gpus)} GPUs of this machine", str(count)))
        return "GPU", [f"GPU:{number}" for number in range(count or len(gpus))]
    count = count or 1
    before = tf.config.get_logical_device_configuration(cpus[0]) or []
    if len(before) < count:
        try:
            logical = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(cpus[0], logical)
        except RuntimeError as error:
            came = f"{max(1, len(before))}, and TensorFlow runs already"
            raise ValueError(mismatch(f"{count} logical CPUs", came, "make the strategy first")) from error
    return "CPU", [f"CPU:{number}" for number in range(count)]


def _multiworker(devices: int | None, timeout: float) -> tf.distribute.Strategy:
    resolver = _resolver()
    if devices and not tf.config.list_physical_devices("GPU"):
        _local_devices(devices)
    _watch_peers(resolver, timeout)
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def place() -> tuple[int, int]:
    """This process's place among the workers that the environment names, from 0, and their number; (0, 1) alone.

    For work that is shared without a strategy, such as writing parts of a recording.

    >>> place()
    (0, 1)
    """
    if found() != "multiworker":
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
    raise ValueError(mismatch("a cluster in TF_CONFIG or Slurm's environment", "neither", remedy))


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
def ending_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
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
        print(mismatch("all workers of the cluster", f"one is gone ({reason})", remedy), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(LOST)


def _tpu() -> tf.distribute.Strategy:
    """A Cloud TPU, named by TPU_NAME or the machine's own; untested on hardware."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:  # the resolver's, gRPC's and TensorFlow's own, by what is missing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(mismatch("a TPU, named by TPU_NAME or in this machine", reason)) from error
    return tf.distribute.TPUStrategy(resolver)


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


def batches(strategy: tf.distribute.Strategy, make: Callable[[Share], tf.data.Dataset]) -> tf.data.Dataset:
    """The batches of all replicas: each worker makes its own parts of every global batch, and no row twice.

    Args:
        strategy: where they go.
        make: makes the dataset of a `Share`, such as `lambda share: data.training(..., share=share)`.

    Returns:
        A dataset for `fit`, `evaluate` or `predict`; give Keras `steps_per_epoch` and `validation_steps` with it.

    >>> list(batches(strategy("one"), lambda share: tf.data.Dataset.range(share.total)).as_numpy_iterator())
    [np.int64(0)]
    """
    total = strategy.num_replicas_in_sync
    if total == 1:
        return make(Share())

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = total // context.num_input_pipelines
        return make(Share(context.input_pipeline_id * count, count, total))

    return strategy.distribute_datasets_from_function(of_worker)


def over_replicas(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of a batch of which the replicas compute a part each, under the strategy in whose scope this is.

    For work beside `fit`, such as a network's answers: every worker calls it with the same batches, in the same order,
    and gets the whole result. No row is lost or given twice; copies of the last one fill up the last replica's part.

    Args:
        function: from tensors `(B, ...)`, or a structure of them, to a structure of tensors `(B, ...)`; a row of its
            result must not depend on other rows. It may make no variables.

    Returns:
        A function of the same arguments and results; call it within a `tf.function`.

    >>> over_replicas(lambda x: 2 * x)(tf.constant([1, 2])).numpy().tolist()
    [2, 4]
    """
    strategy = tf.distribute.get_strategy()
    total = strategy.num_replicas_in_sync
    if total == 1:
        return function

    def part(rows: Any, each: tf.Tensor) -> Any:
        context = tf.distribute.get_replica_context()
        first = tf.cast(context.replica_id_in_sync_group, each.dtype) * each
        found = function(tf.nest.map_structure(lambda x: x[first : first + each], rows))
        # A copy, on this replica's device: over several workers TensorFlow gathers nothing whose device is open.
        return tf.nest.map_structure(lambda y: context.all_gather(tf.identity(y), axis=0), found)

    def whole(rows: Any) -> Any:
        size = tf.shape(tf.nest.flatten(rows)[0])[0]
        each = -(-size // total)
        taken = tf.minimum(tf.range(each * total), size - 1)
        found = strategy.run(part, (tf.nest.map_structure(lambda x: tf.gather(x, taken), rows), each))
        return tf.nest.map_structure(lambda y: strategy.experimental_local_results(y)[0][:size], found)

    return whole


def scaled_rate(rate: float, rule: str, batch_size: int, base_batch_size: int) -> float:
    """A learning rate found at one batch size for another: "linear" (Goyal et al. 2017, 1706.02677), "sqrt", "none".

    Raises:
        ValueError: for an unknown rule or a batch size below 1.

    >>> scaled_rate(0.1, "linear", 1024, 256)
    0.4
    """
    if rule not in RULES:
        raise ValueError(mismatch(f"a rule of {tuple(RULES)}", repr(rule), nearest(rule, RULES)))
    if min(batch_size, base_batch_size) < 1:
        raise ValueError(mismatch("batch sizes of at least 1", f"{batch_size} and {base_batch_size}"))
    return rate * (batch_size / base_batch_size) ** RULES[rule]


def xla(strategy: tf.distribute.Strategy, wish: str = "auto", deterministic: bool = False) -> tuple[bool | str, str]:
    """Whether to compile steps with XLA, as `compile(jit_compile=...)` takes it, and why.

    "auto" follows what was measured (experiments/results/devices.md) and what works: XLA on an accelerator; no XLA on
    CPUs, where it was the slower one, over several of which it fails, and no XLA where operations are to be
    deterministic. Keras then still leaves it off for a model with a layer that XLA cannot compile.

    Raises:
        ValueError: for another wish, or one for "on" where XLA fails.

    >>> xla(strategy("one"), "off")
    (False, 'as asked')
    """
    if wish not in ("auto", "on", "off"):
        raise ValueError(mismatch('XLA "auto", "on" or "off"', repr(wish)))
    if wish == "off":
        return False, "as asked"
    cpus = not tf.config.list_physical_devices("GPU") and not isinstance(strategy, tf.distribute.TPUStrategy)
    fails = None
    if deterministic:
        fails = "XLA has no deterministic form of some operations"
    elif cpus and strategy.num_replicas_in_sync > 1:
        fails = "XLA cannot place the variables of several CPU devices or workers"
    if wish == "on":
        if fails:
            raise ValueError(mismatch('XLA "auto" or "off"', '"on"', fails))
        return True, "as asked"
    return (False, fails or "slower on a CPU, as measured") if fails or cpus else ("auto", "an accelerator")


def seed_replicas(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Gives every replica random numbers of its own, in dropout for instance; replica 0 keeps what it would have alone.

    Call it once, after building or restoring: a checkpoint holds the states of replica 0. A method that is given the
    global batch must draw the same on all, and keeps its numbers.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    layers = [layer for layer in model._flatten_layers() if not getattr(layer, "across_replicas", False)]
    states = [seed.state for layer in layers for seed in getattr(layer, "_seed_generators", ())]

    def shift() -> None:
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, "int64")
        for state in states:
            state.assign(state + tf.cast(tf.stack([replica * APART, 0]), state.dtype))

    if states:
        tf.function(lambda: strategy.run(shift))()


def synchronise_batch_norm(model: keras.Model) -> int:
    """Lets every BatchNorm of a model compute over the global batch; call it before the first step.

    Returns:
        How many layers changed.

    >>> synchronise_batch_norm(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()]))
    1
    """
    layers = [each for each in model._flatten_layers() if isinstance(each, keras.layers.BatchNormalization)]
    changed = [layer for layer in layers if not layer.synchronized]
    for layer in changed:
        layer.synchronized = True
    return len(changed)
