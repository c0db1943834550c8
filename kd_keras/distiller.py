"""The Distiller: a Keras model whose training step teaches a student. `train_step` shows the route of a batch."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Batch, Step, Tensor, as_batch
from kd_keras.distribute.keras_fit import FitsOnWorkers
from kd_keras.distribute.reductions import count_rows, mean_of_counted_rows, replica_count, weighted_global_mean
from kd_keras.distribute.replicas import require_rows, run_without_rows
from kd_keras.methods.base import Method, agreed_hard_weight
from kd_keras.methods.schedules import Weight, as_weight, deserialize_weight, serialize_weight, weight_at
from kd_keras.networks.inputs import find_input_shape
from kd_keras.networks.specs import Specs
from kd_keras.networks.taps import Tapped
from kd_keras.private_api import compiled_loss, has_compiled_metrics, loss_tracker
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.teacher import AbsentTeacher, Teacher
from kd_keras.training.guard import NonFiniteGuard
from kd_keras.training.nonfinite import NonFinite
from kd_keras.training.teacher_check import TeacherCheck, first_batches
from kd_keras.training.terms import compute_compiled_loss, make_terms, term_names

AnyTeacher: TypeAlias = Teacher | RecordedTeacher | AbsentTeacher


@keras.saving.register_keras_serializable("kd_keras")
class Distiller(FitsOnWorkers):
    """Trains a student on its labels (the hard loss) and on what the methods make of a teacher's outputs.

    `fit`, `evaluate`, `predict`, callbacks and sample weights work as on every Keras model. `evaluate`, `predict` and
    `export` concern only the student; `save` keeps student, methods and optimizer, but no teacher: call `attach`
    after loading. For several devices build it inside `strategy.scope()`. If the student has a `compute_loss` of its
    own, as detectors have, compile the student too: that loss is then the hard loss, and scales for replicas itself.

    Args:
        student: the model to train; any built Keras model.
        teacher: a trained model, several, or a `Teacher`; `None` if no method needs one.
        methods: the methods, each with its own weight.
        hard_weight: what the hard loss is multiplied by: a number, numbers by epoch or a schedule, as the weight of a
            method. With 0, data needs no labels and `compile` no loss. By default the published value of the methods
            if they agree, else 1; `hard_weight_reason` says which.
        name: the model's name.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if student, teacher and methods do not fit together, or a method needs a teacher and there is none.

    >>> from kd_keras.methods import KD
    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> distiller = Distiller(student=student, teacher=teacher, methods=[KD()], hard_weight=0)
    >>> distiller.compile(optimizer="sgd")
    >>> sorted(distiller.fit(ops.ones((8, 4)), verbose=0).history)
    ['kd', 'loss']
    """

    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: AnyTeacher | keras.Model | Sequence[keras.Model] | None = None,
        methods: Sequence[Method] = (),
        hard_weight: Weight | None = None,
        name: str = "distiller",
    ):
        _check_kinds(student, methods)
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self._has_own_loss = type(student).compute_loss is not keras.Model.compute_loss
        self.methods = list(methods)
        self.hard_weight = hard_weight
        self._student = Tapped(student, [tap for method in self.methods for tap in method.taps.student])
        self.attach(teacher)
        for method in self.methods:
            method.bind(self._student.specs, self.teacher.specs)
        self._epoch = self.add_weight(name="epoch", shape=(), dtype="int32", initializer="zeros", trainable=False)
        names = ["hard", *term_names(self.methods)]
        self._trackers = {term: keras.metrics.Mean(name=term) for term in [*names, "regularization"]}
        self.guard = NonFiniteGuard(self, names)
        self.built = True

    def attach(self, teacher: AnyTeacher | keras.Model | Sequence[keras.Model] | None) -> None:
        """Sets the teacher, at construction or after loading from a file.

        Raises:
            ValueError: if a method needs a tap that the teacher lacks, or that has another shape than before.
        """
        wanted = [tap for method in self.methods for tap in method.taps.teacher]
        if teacher is None and wanted:
            names = [method.name for method in self.methods]
            raise ValueError(f"The methods {names} need a teacher, but received none. Pass Distiller(teacher=...).")
        teacher = AbsentTeacher({}) if teacher is None else teacher
        teacher = teacher if isinstance(teacher, AnyTeacher) else Teacher(teacher)
        shape = find_input_shape(self.student)
        if shape and isinstance(teacher, Teacher):
            teacher.check_inputs(shape)
        self.supports_jit = teacher.supports_jit(shape)
        teacher = teacher.tapped(wanted)
        previous = getattr(self, "teacher", None)
        if previous is not None and previous.specs.shapes != teacher.specs.shapes:
            raise ValueError(
                f"The methods were built for a teacher with taps of shapes {previous.specs.shapes}, but this one has "
                f"{teacher.specs.shapes}. Attach a teacher with the same shapes, or make a new Distiller."
            )
        for method in self.methods if previous is not None else ():
            method.check_heads(self._student.specs, teacher.specs)
        self.teacher = teacher
        self.train_function = None  # Keras would reuse the function that it traced with the previous teacher

    @property
    def hard_weight(self) -> Weight:
        """The weight of the hard loss, a number or a schedule; set it before the next `fit`."""
        return self._hard_weight

    @hard_weight.setter
    def hard_weight(self, weight: Weight | None) -> None:
        value, self.hard_weight_reason = agreed_hard_weight(self.methods) if weight is None else (weight, "as given")
        self._hard_weight = as_weight("Distiller", "hard_weight", value)
        if weight is None and self.methods:
            logging.getLogger("kd_keras").info("hard_weight %g: %s.", value, self.hard_weight_reason)
        self._terms = make_terms(self._hard_weight, self._hard_loss, self.methods)
        self._logged: set[str] = set()  # the names of the losses of the last traced step
        self.train_function = None  # Keras would reuse the function that it traced with the previous terms

    # ---- the step

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """One update: teacher, student, terms, weighted mean over the global batch, guarded update."""
        batch = require_rows(as_batch(data))
        step = Step(ops.convert_to_tensor(self.optimizer.iterations), self._epoch.value)
        teacher = self.teacher.outputs(batch)  # outside the tape, so that no gradient reaches it
        self.guard.take_snapshot()
        with tf.GradientTape() as tape:
            output, student = self._student(batch.inputs, training=True)
            terms = {
                term.name: (weight_at(term.weight, step), term.compute(output, student, teacher, batch, step))
                for term in self._terms
            }
            loss = weighted_global_mean(terms, self._penalties(), batch, self.optimizer.scale_loss)
        variables = self.trainable_variables  # of the student and of the methods
        is_finite = self.guard.apply(self.optimizer, tape.gradient(loss.objective, variables), variables, loss)
        self._update_trackers(loss.means, batch, is_finite)
        return self._results(output, batch)

    def _hard_loss(self, output: Any, batch: Batch, training: bool = True) -> Tensor:
        """The loss `()` of the labels: the student's own `compute_loss` if it has one, else the compiled loss."""
        if batch.label is None:
            raise ValueError(
                "The hard loss needs labels, but the batch has none. Use Distiller(hard_weight=0) to train without."
            )
        compiled = compiled_loss(self)
        if self._has_own_loss:
            loss = self.student.compute_loss(batch.inputs, batch.label, output, batch.weight, training=training)
        elif compiled is not None:
            loss = compute_compiled_loss(compiled, output, batch)
        else:
            raise ValueError(
                "Expected a loss for the labels, but compile() received none. Call compile(loss=...), or use "
                "Distiller(hard_weight=0) to train without labels."
            )
        return ops.cast(loss, "float32") * replica_count()  # Keras has divided the loss by the number of replicas

    def _penalties(self) -> list[Tensor]:
        """The regularization losses, `()` each; a student's own `compute_loss` already contains the student's."""
        if self._has_own_loss and any(term.name == "hard" for term in self._terms):
            return [loss for method in self.methods for loss in method.losses]
        return self.losses

    def _update_trackers(self, means: dict[str, Tensor], batch: Batch, is_finite: Tensor) -> None:
        rows = ops.where(is_finite, count_rows(batch), 0)  # a skipped batch does not count
        for name, mean in means.items():
            tracker = loss_tracker(self) if name == "loss" else self._trackers[name]
            tracker.update_state(ops.where(is_finite, mean, 0.0), sample_weight=rows)
        self._logged.update(means)

    # ---- evaluation

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Evaluates the student on one batch; its "loss" is the hard loss."""
        batch = as_batch(data)
        if batch.label is None:
            raise ValueError("Evaluation needs labels, but the batch has none. Pass batches (x, y).")
        if not self._has_hard_loss() and not has_compiled_metrics(self):
            raise ValueError(
                "Evaluation needs a loss or metrics, but compile() received neither. Call compile(metrics=...)."
            )
        output = self(batch.inputs, training=False)
        if self._has_hard_loss():
            mean, rows = mean_of_counted_rows(self._hard_loss(output, batch, training=False), batch)
            loss_tracker(self).update_state(mean, sample_weight=rows)
        return self._results(output, batch)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's output."""
        inputs = as_batch((inputs,)).inputs
        if training:
            return self._student(inputs, training=True)[0]
        return run_without_rows(lambda rows: self._student(rows, training=False)[0], inputs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate`, of the student: its "loss" is the hard loss, and no variable changes."""
        with self._evaluation():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `test_on_batch`, of the student."""
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    _is_evaluating = False

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        self._is_evaluating = True
        try:
            yield
        finally:
            self._is_evaluating = False

    def _results(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        if batch.label is None:
            return self.get_metrics_result()
        return self.compute_metrics(batch.inputs, batch.label, output, sample_weight=batch.weight)

    def get_metrics_result(self) -> dict[str, Tensor]:
        """The logs: in training the total, every term and the compiled metrics; in evaluation no terms."""
        hidden = self._trackers.keys() - self._logged
        if self._is_evaluating:
            hidden = {*self._trackers, *(() if self._has_hard_loss() else ("loss",))}
        return {name: value for name, value in super().get_metrics_result().items() if name not in hidden}

    def _has_hard_loss(self) -> bool:
        return compiled_loss(self) is not None or self._has_own_loss

    # ---- other methods of a Keras model

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Keras's `fit`; it also counts epochs for the methods, checks the teacher, and stops at a non-finite loss."""
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        callbacks = bound.arguments.get("callbacks") or []
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = callbacks.callbacks
        callbacks = tree.flatten(callbacks)
        added: list[keras.callbacks.Callback] = [
            keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self._epoch.assign(epoch))
        ]
        if self.teacher.specs and not any(isinstance(callback, TeacherCheck) for callback in callbacks):
            added.append(TeacherCheck(first_batches(bound.arguments)))
        if not any(isinstance(callback, NonFinite) for callback in callbacks):
            added.append(NonFinite())
        bound.arguments["callbacks"] = [*added, *callbacks]
        return super().fit(*bound.args, **bound.kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Exports the student, as `student.export` does."""
        return self.student.export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "student": keras.saving.serialize_keras_object(self.student),
            "methods": [keras.saving.serialize_keras_object(method) for method in self.methods],
            "hard_weight": serialize_weight(self.hard_weight),
            "teacher": self.teacher.specs.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> Distiller:
        load = keras.saving.deserialize_keras_object
        return cls(
            name=config["name"],
            student=load(config["student"], custom_objects=custom_objects),
            methods=[load(method, custom_objects=custom_objects) for method in config["methods"]],
            hard_weight=deserialize_weight(config["hard_weight"]),
            teacher=AbsentTeacher(Specs.from_config(config["teacher"])),
        )


def _check_kinds(student: Any, methods: Sequence[Any]) -> None:
    if not isinstance(student, keras.Model):
        raise TypeError(f"Distiller(student=...) must be a Keras model, but received a {type(student).__name__}.")
    for method in methods:
        if not isinstance(method, Method):
            raise TypeError(
                f"Distiller(methods=...) must be methods such as kd_keras.methods.KD(), but received {method!r}."
            )
        if method.built:
            raise ValueError(
                f"Method {method.name!r} must be new, but it already belongs to another Distiller. Make another "
                f"{type(method).__name__}()."
            )
