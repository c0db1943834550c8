"""tf.distribute strategies by name, and the choices that depend on the number and the kind of devices.

strategy = distribute.strategy("auto")
with strategy.scope():
    ...  # load the teacher, build student and Distiller, compile
train = distribute.batches(
    strategy, lambda batch_slice: data.training(source, batch_size=256, batch_slice=batch_slice)
)
"""

from __future__ import annotations

import os

import tensorflow as tf

from kd_keras.distribute.clusters import detect_strategy, resolve_cluster, watch_peers
from kd_keras.errors import check_choice, check_whole_number, explain_mismatch

NAMES = ("auto", "one", "mirrored", "multiworker", "tpu", "central")
RULES = {
    "none": 0.0,
    "sqrt": 0.5,
    "linear": 1.0,
}  # the power of the ratio of batch sizes


def strategy(name: str = "auto", *, devices: int | None = None, timeout: float = 60.0) -> tf.distribute.Strategy:
    """Makes a strategy by name; call it before anything else of TensorFlow runs, and build everything in its `scope()`.

    Args:
        name: "one" device (TensorFlow's default strategy), "mirrored" over the GPUs of this machine or, if it has none,
            over logical CPUs, "multiworker" over a cluster, "tpu", "central" (variables on the CPU, work on the GPUs),
            or "auto": the first that the environment offers of TPU, cluster, several GPUs, one device.
        devices: the number of GPUs, or of logical CPUs, of this machine; by default all GPUs, or one CPU.
        timeout: seconds without a sign of life, also at the start, after which a worker counts as lost.

    Raises:
        TypeError: if `devices` is not a number.
        ValueError: if the name is unknown, the environment describes no cluster or TPU, there are fewer devices, or
            TensorFlow has already run.
        TimeoutError: if a worker of the cluster has not started after `timeout` seconds.

    >>> strategy("one").num_replicas_in_sync
    1
    """
    check_choice("strategy", "name", name, NAMES)
    if devices is not None:
        devices = check_whole_number("strategy", "devices", devices)
    name = detect_strategy() if name == "auto" else name
    if name == "tpu":
        return _make_tpu_strategy()
    if name == "multiworker":
        return _make_multiworker_strategy(devices, timeout)
    if name == "one":
        if (devices or 1) > 1:
            advice = 'pass strategy="mirrored", which also takes logical CPUs'
            raise ValueError(explain_mismatch("one device for strategy 'one'", f"devices={devices}", advice))
        return tf.distribute.get_strategy()
    kind, names = _find_local_devices(devices)
    if name == "central":
        return tf.distribute.experimental.CentralStorageStrategy(names)
    # Logical CPUs share one memory: a sum on one of them is as fast as a collective, and needs no collective keys.
    reduction = tf.distribute.ReductionToOneDevice() if kind == "CPU" else None
    return tf.distribute.MirroredStrategy(names, cross_device_ops=reduction)


def _find_local_devices(count: int | None) -> tuple[str, list[str]]:
    """The kind and the names of `count` devices of this machine; creates logical CPUs if there is no GPU."""
    gpus, cpus = (tf.config.list_physical_devices(kind) for kind in ("GPU", "CPU"))
    if gpus:
        if count and count > len(gpus):
            raise ValueError(f"strategy(devices=...) must be at most {len(gpus)}, the GPUs here, but received {count}.")
        return "GPU", [f"GPU:{number}" for number in range(count or len(gpus))]
    count = count or 1
    configured = tf.config.get_logical_device_configuration(cpus[0]) or []
    if len(configured) < count:
        try:
            logical = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(cpus[0], logical)
        except RuntimeError as error:
            raise ValueError(
                f"Expected to create {count} logical CPUs, but TensorFlow already runs with {max(1, len(configured))}. "
                "Make the strategy before anything else of TensorFlow runs."
            ) from error
    return "CPU", [f"CPU:{number}" for number in range(count)]


def _make_multiworker_strategy(devices: int | None, timeout: float) -> tf.distribute.Strategy:
    resolver = resolve_cluster()
    if devices and not tf.config.list_physical_devices("GPU"):
        _find_local_devices(devices)
    watch_peers(resolver, timeout)
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def _make_tpu_strategy() -> tf.distribute.Strategy:
    """A Cloud TPU, named by TPU_NAME or the machine's own; untested on hardware."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:  # the resolver, gRPC and TensorFlow raise different types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"Expected a TPU, named by TPU_NAME or in this machine, but received the error: {reason}. Set TPU_NAME, or "
            "choose another strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def scale_learning_rate(rate: float, rule: str, batch_size: int, base_batch_size: int) -> float:
    """Scales a learning rate that was chosen for one batch size to another batch size.

    Args:
        rate: the learning rate at `base_batch_size`.
        rule: "linear" (Goyal et al. 2017, 1706.02677), "sqrt" or "none".
        batch_size: the global batch size.
        base_batch_size: the global batch size of `rate`.

    Raises:
        ValueError: if the rule is unknown, or a batch size is below 1.

    >>> scale_learning_rate(0.1, "linear", 1024, 256)
    0.4
    """
    check_choice("scale_learning_rate", "rule", rule, RULES)
    if min(batch_size, base_batch_size) < 1:
        raise ValueError(f"Batch sizes must be at least 1, but received {batch_size} and {base_batch_size}.")
    return rate * (batch_size / base_batch_size) ** RULES[rule]


def choose_xla(
    strategy: tf.distribute.Strategy, mode: str = "auto", deterministic: bool = False
) -> tuple[bool | str, str]:
    """Chooses whether XLA compiles the steps, as `compile(jit_compile=...)` takes it, and says why.

    "auto" turns XLA on if there is an accelerator. It turns XLA off on CPUs, because XLA was slower on one
    (experiments/results/devices.md) and fails on several, and if operations must be deterministic. Keras also turns XLA
    off for a model with a layer that XLA cannot compile.

    Args:
        strategy: the strategy that trains.
        mode: "auto", "on" or "off".
        deterministic: whether operations must be deterministic.

    Returns:
        The value of `jit_compile`, True, False or "auto", and the reason.

    Raises:
        ValueError: if the mode is unknown, or is "on" although XLA fails.

    >>> choose_xla(strategy("one"), "off")
    (False, 'as requested')
    """
    check_choice("choose_xla", "mode", mode, ("auto", "on", "off"))
    if mode == "off":
        return False, "as requested"
    on_cpu = not tf.config.list_physical_devices("GPU") and not isinstance(strategy, tf.distribute.TPUStrategy)
    obstacle = ""
    if deterministic:
        obstacle = "XLA has no deterministic form of some operations"
    elif on_cpu and strategy.num_replicas_in_sync > 1:
        obstacle = "XLA cannot place the variables of several CPU devices or workers"
    if mode == "on":
        if obstacle:
            raise ValueError(f'XLA must be "auto" or "off" here, but received "on": {obstacle}.')
        return True, "as requested"
    if obstacle or on_cpu:
        return False, obstacle or "slower on a CPU, as measured"
    return "auto", "an accelerator"
