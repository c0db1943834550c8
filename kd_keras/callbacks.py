"""What a long run needs: a checkpoint after every epoch, written beside and renamed, to go on from."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import keras
import numpy as np

from kd_keras.contracts import mismatch
from kd_keras.files import save_beside


class Checkpoint(keras.callbacks.Callback):
    """Saves every variable of a model and of its optimizer as epochs end, and restores the newest.

    That includes the states of random generators, which a file of weights leaves out; a Distiller's checkpoint holds
    student, adapters and optimizer, and no teacher. The one before is deleted only when the new one stands.

    Args:
        directory: where the checkpoints stand; made if need be.
        every: epochs from one checkpoint to the next.
    """

    def __init__(self, directory: str | Path, every: int = 1):
        super().__init__()
        self.directory, self.every = Path(directory), every

    def restore(self, model: keras.Model) -> int:
        """Loads the newest checkpoint into a compiled model, and returns how many epochs it has behind it.

        Raises:
            ValueError: where the checkpoint is damaged or of another model.
        """
        checkpoints = self._checkpoints()
        if not checkpoints:
            return 0
        model.optimizer.build(model.trainable_variables)
        variables = model.variables + model.optimizer.variables
        try:
            with np.load(checkpoints[-1]) as file:
                saved = [file[str(number)] for number in range(len(file.files))]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(mismatch(f"a whole checkpoint at {checkpoints[-1]}", str(error))) from error
        if [array.shape for array in saved] != [tuple(variable.shape) for variable in variables]:
            raise ValueError(mismatch(f"a checkpoint of {model.name!r}", f"{checkpoints[-1]}, of another model"))
        for variable, array in zip(variables, saved):
            variable.assign(array)
        return self._epochs(checkpoints[-1])

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        before = self._checkpoints()
        self.directory.mkdir(parents=True, exist_ok=True)
        variables = self.model.variables + self.model.optimizer.variables
        arrays = {str(number): _array(variable) for number, variable in enumerate(variables)}
        save_beside(self.directory / f"epoch_{epoch + 1:05d}.npz", lambda name: np.savez(name, **arrays))
        for path in before:
            path.unlink()

    def _checkpoints(self) -> list[Path]:
        return sorted(self.directory.glob("epoch_*.npz"), key=self._epochs)

    @staticmethod
    def _epochs(path: Path) -> int:
        return int(re.search(r"\d+", path.name)[0])


def _array(variable: keras.Variable) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    return array.astype("float32") if variable.dtype == "bfloat16" else array  # NumPy's files do not know bfloat16
