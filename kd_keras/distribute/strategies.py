"""tf.distribute strategies by name, the clusters they run on, and what differs with the number of devices.

    strategy = distribute.strategy("auto")
    with strategy.scope():
        ...  # load the teacher, build student and Distiller, compile
    train = distribute.batches(strategy, lambda share: data.training(source, batch_size=256, share=share))

A cluster is found by TensorFlow's own resolvers: in `TF_CONFIG`, in Slurm's environment, or as a Cloud TPU.
"""

from __future__ import annotations

import os

import tensorflow as tf

from kd_keras.distribute.clusters import _resolver, _watch_peers, detect_strategy
from kd_keras.errors import explain_mismatch, suggest

NAMES = ("auto", "one", "mirrored", "multiworker", "tpu", "central")
RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # the power of (batch / base batch) that scales the learning rate  # the power of (batch / base batch) that scales the learning rate


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
        raise ValueError(explain_mismatch(f"a strategy of {NAMES}", repr(name), suggest(name, NAMES)))
    if devices is not None and (isinstance(devices, bool) or not isinstance(devices, int) or devices < 1):
        raise ValueError(explain_mismatch("devices: a whole number of at least 1", repr(devices)))
    name = detect_strategy() if name == "auto" else name
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


def _local_devices(count: int | None) -> tuple[str, list[str]]:
    gpus, cpus = (tf.config.list_physical_devices(kind) for kind in ("GPU", "CPU"))
    if gpus:
        if count and count > len(gpus):
            raise ValueError(explain_mismatch(f"devices= at most the {len(gpus)} GPUs of this machine", str(count)))
        return "GPU", [f"GPU:{number}" for number in range(count or len(gpus))]
    count = count or 1
    before = tf.config.get_logical_device_configuration(cpus[0]) or []
    if len(before) < count:
        try:
            logical = [tf.config.LogicalDeviceConfiguration()] * count
            tf.config.set_logical_device_configuration(cpus[0], logical)
        except RuntimeError as error:
            came = f"{max(1, len(before))}, and TensorFlow runs already"
            raise ValueError(explain_mismatch(f"{count} logical CPUs", came, "make the strategy first")) from error
    return "CPU", [f"CPU:{number}" for number in range(count)]


def _multiworker(devices: int | None, timeout: float) -> tf.distribute.Strategy:
    resolver = _resolver()
    if devices and not tf.config.list_physical_devices("GPU"):
        _local_devices(devices)
    _watch_peers(resolver, timeout)
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def _tpu() -> tf.distribute.Strategy:
    """A Cloud TPU, named by TPU_NAME or the machine's own; untested on hardware."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:  # the resolver's, gRPC's and TensorFlow's own, by what is missing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(explain_mismatch("a TPU, named by TPU_NAME or in this machine", reason)) from error
    return tf.distribute.TPUStrategy(resolver)


def scale_learning_rate(rate: float, rule: str, batch_size: int, base_batch_size: int) -> float:
    """A learning rate found at one batch size for another: "linear" (Goyal et al. 2017, 1706.02677), "sqrt", "none".

    Raises:
        ValueError: for an unknown rule or a batch size below 1.

    >>> scale_learning_rate(0.1, "linear", 1024, 256)
    0.4
    """
    if rule not in RULES:
        raise ValueError(explain_mismatch(f"a rule of {tuple(RULES)}", repr(rule), suggest(rule, RULES)))
    if min(batch_size, base_batch_size) < 1:
        raise ValueError(explain_mismatch("batch sizes of at least 1", f"{batch_size} and {base_batch_size}"))
    return rate * (batch_size / base_batch_size) ** RULES[rule]


def choose_xla(strategy: tf.distribute.Strategy, wish: str = "auto", deterministic: bool = False) -> tuple[bool | str, str]:
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
        raise ValueError(explain_mismatch('XLA "auto", "on" or "off"', repr(wish)))
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
            raise ValueError(explain_mismatch('XLA "auto" or "off"', '"on"', fails))
        return True, "as asked"
    return (False, fails or "slower on a CPU, as measured") if fails or cpus else ("auto", "an accelerator")
