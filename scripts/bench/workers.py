"""How much faster two workers of one core each are than one worker of one core, and where the time goes.

    python -m scripts.bench.workers --batch=32 --steps=40

One step of distillation (resnet20 to resnet8, 32x32 images, KD) with `batch` images a worker, timed in four ways: one
worker alone; two processes that know nothing of each other (what sharing the machine costs); two workers of one
strategy; and the sums that they need for it, without any other work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def measured(kind: str, core: int, batch: int, steps: int) -> list[float]:
    """In a worker: the seconds of each step, after five to warm up."""
    os.sched_setaffinity(0, {core})
    import numpy as np
    import tensorflow as tf

    from kd_keras import distribute

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = distribute.strategy("auto")
    with strategy.scope():
        distiller = built()
    x = np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype("float32")
    own = tf.data.Dataset.from_tensors((x, np.zeros(batch, "int64"))).repeat()
    data = distribute.batches(strategy, lambda share: own)
    iterator = iter(data)
    distiller.build_from(data.element_spec)
    distiller.make_train_function()
    step = summing(strategy, distiller) if kind == "sums" else distiller.train_function
    moments = []
    for _ in range(steps + 6):
        moments.append(time.perf_counter())
        step(iterator)
    return [after - before for before, after in itertools.pairwise(moments[5:])]


def built():
    """The Distiller that is timed."""
    import keras

    from kd_keras import Distiller, methods, models

    teacher, student = (models.build(name, (32, 32, 3), 10) for name in ("resnet20", "resnet8"))
    distiller = Distiller(student=student, teacher=teacher, methods=[methods.KD()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=False)
    return distiller


def summing(strategy, distiller):
    """A step of nothing but the sums over replicas: of all gradients, and of the small vector of the watch."""
    import tensorflow as tf

    def sums():
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce("sum", [tf.ones(v.shape) for v in distiller.trainable_variables])
        told = context.all_reduce("sum", tf.ones(6))
        return tf.add_n([tf.reduce_sum(g) for g in gradients]) + tf.reduce_sum(told) + context.all_reduce("sum", 1.0)

    run = tf.function(lambda: strategy.run(sums))
    return lambda iterator: run()


def workers(kind: str, count: int, options: argparse.Namespace) -> float:
    """The median milliseconds of a step over all workers."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    processes = []
    for index in range(count):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("TF_CONFIG", None)
        if kind != "apart":
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, __file__, f"--kind={kind}", f"--core={index}"]
        command += [f"--batch={options.batch}", f"--steps={options.steps}"]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    said = [process.communicate()[0] for process in processes]
    return 1000 * statistics.median(seconds for each in said for seconds in json.loads(each.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images a worker and step")
    parser.add_argument("--steps", type=int, default=40, help="steps to time")
    parser.add_argument("--repeats", type=int, default=3, help="whole measurements, one after the other")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measured(options.kind, options.core, options.batch, options.steps)))
        return
    print("| one worker, ms | two apart, ms | two workers, ms | sums alone, ms | images a second, two to one |")
    print("|---:|---:|---:|---:|---:|")
    for _ in range(options.repeats):
        one, apart, two = workers("apart", 1, options), workers("apart", 2, options), workers("step", 2, options)
        sums = workers("sums", 2, options)
        print(f"| {one:.1f} | {apart:.1f} | {two:.1f} | {sums:.1f} | {2 * one / two:.2f} |", flush=True)


if __name__ == "__main__":
    main()
