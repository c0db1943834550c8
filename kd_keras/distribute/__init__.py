"""Strategies by name, clusters of workers, and what is sliced or reduced over replicas."""

from kd_keras.distribute.clusters import LOST, chief_first, detect_strategy, exit_together, is_chief, worker_rank
from kd_keras.distribute.replicas import seed_replicas, synchronize_batch_norm, synchronize_ranges
from kd_keras.distribute.slices import BatchSlice, batches, map_over_replicas
from kd_keras.distribute.strategies import NAMES, RULES, choose_xla, scale_learning_rate, strategy

__all__ = (
    "LOST",
    "NAMES",
    "RULES",
    "BatchSlice",
    "batches",
    "chief_first",
    "choose_xla",
    "detect_strategy",
    "exit_together",
    "is_chief",
    "map_over_replicas",
    "scale_learning_rate",
    "seed_replicas",
    "strategy",
    "synchronize_batch_norm",
    "synchronize_ranges",
    "worker_rank",
)
