"""The Distiller: a Keras model whose training step teaches a student. `train_step` shows the route of a batch."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from kd_keras.contracts import Batch, Step, Tensor, as_batch
from kd_keras.distribute.reductions import count_rows, mean_of_counted_rows, replica_count, weighted_global_mean
from kd_keras.distribute.replicas import require_rows, run_without_rows, synchronize_ranges
from kd_keras.functions import refuse_live
from kd_keras.methods.base import Method
from kd_keras.methods.hard_weight import agreed_hard_weight
from kd_keras.methods.schedules import Weight, as_weight, deserialize_weight, serialize_weight
from kd_keras.networks.foreign import as_networks
from kd_keras.networks.inputs import find_input_shape
from kd_keras.networks.sharing import check_separate
from kd_keras.networks.specs import Specs
from kd_keras.networks.taps import Tapped
from kd_keras.private_api import compiled_loss, has_compiled_metrics, loss_tracker
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.teacher import AbsentTeacher, Teacher
from kd_keras.training.construction import check_combination, check_parts, loss_scaling_policy
from kd_keras.training.data_check import check_arrays
from kd_keras.training.dot import compute_gradients, takes_terms_apart
from kd_keras.training.fit_arguments import check_fit_arguments, check_has_measure, warn_of_padding
from kd_keras.training.fit_callbacks import complete_callbacks
from kd_keras.training.following import FollowingTeacher
from kd_keras.training.guard import NonFiniteGuard
from kd_keras.training.hard_loss import compiled_mean, ignored_class, is_mean_over_rows
from kd_keras.training.logs import LogsTerms
from kd_keras.training.nonfinite import raise_if_nonfinite
from kd_keras.training.teacher_check import check_outputs
from kd_keras.training.terms import Term, check_label_free_evaluation, compute_terms, make_terms, term_names

AnyTeacher: TypeAlias = Teacher | RecordedTeacher | AbsentTeacher


@keras.saving.register_keras_serializable("kd_keras")
class Distiller(LogsTerms):
    """Trains a student on its labels (the hard loss) and on what the methods make of a teacher's outputs.

    `fit`, `evaluate`, `predict`, callbacks and sample weights work as on every Keras model, except that the loss of
    `evaluate` is the mean over the rows whose weight is not 0: those of weight 0 pad a batch. `evaluate`, `predict` and
    `export` concern only the student; `save` keeps student, methods and optimizer, but no teacher: call `attach` after
    loading. For several devices build it inside `strategy.scope()`. If the student has a `compute_loss` of its own, as
    detectors have, compile the student too: that loss is then the hard loss, and scales for replicas itself.

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
        if isinstance(student, Distiller):
            raise TypeError("Distiller(student=...) must be a network, but received a Distiller. Pass its student.")
        check_parts(student, methods)
        super().__init__(name=name, dtype=loss_scaling_policy(student), autocast=False)
        self.student = student
        synchronize_ranges(student)
        self._has_own_loss = type(student).compute_loss is not keras.Model.compute_loss
        self.methods = list(methods)
        self.hard_weight = hard_weight
        self._student = Tapped(student, [tap for method in self.methods for tap in method.taps.student])
        self.attach(teacher)
        for method in self.methods:
            method.bind(self._student.specs, self.teacher.specs)
        check_combination(self.methods, self._student.specs, self.teacher)
        self._epoch = self.add_weight(name="epoch", shape=(), dtype="int32", initializer="zeros", trainable=False)
        names = ["hard", *term_names(self.methods)]
        self._prepare_logs([*names, "regularization"])
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
        refuse_live(teacher)
        teacher = teacher.student if isinstance(teacher, Distiller) else teacher
        teacher = teacher if isinstance(teacher, AnyTeacher) else Teacher(as_networks(teacher))
        if isinstance(teacher, Teacher):
            teacher.check_student(self.student)
        self.supports_jit = teacher.supports_jit(find_input_shape(self.student))
        teacher = teacher.tapped(wanted)
        previous = getattr(self, "teacher", None)
        if previous is not None and previous.specs.shapes != teacher.specs.shapes:
            raise ValueError(
                f"The methods were built for a teacher with taps of shapes {previous.specs.shapes}, but this one has "
                f"{teacher.specs.shapes}. Attach a teacher with the same shapes, or make a new Distiller."
            )
        if previous is not None:
            for method in self.methods:
                method.check_heads(self._student.specs, teacher.specs)
            check_combination(self.methods, self._student.specs, teacher)
        self.teacher = teacher
        # Tracked, unlike any other teacher, so that a checkpoint contains it.
        self.following = [*teacher.networks] if isinstance(teacher, FollowingTeacher) else []
        self._has_checked_teacher = False
        self._retrace()

    _is_fitting = False

    def _retrace(self) -> None:
        """Makes Keras trace the step again, also within `fit`, with another teacher or other terms."""
        self.train_function = self.test_function = None
        if self._is_fitting:
            self.make_train_function()

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
        self._update_terms()

    _terms: tuple[Term, ...] = ()

    def _update_terms(self) -> None:
        """Makes the terms of the present weights; if a weight was changed since, the step is traced again."""
        terms = make_terms(self._hard_weight, self._hard_loss, self.methods)
        if [(term.name, term.weight) for term in terms] != [(term.name, term.weight) for term in self._terms]:
            self._terms = terms
            self._retrace()

    def make_train_function(self, force: bool = False) -> Any:
        self._update_terms()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        self._update_terms()
        return super().make_test_function(force)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch.assign(epoch)
        self._update_terms()  # a callback may have changed a weight

    # ---- the step

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """One update: teacher, student, terms, weighted mean over the global batch, guarded update."""
        batch = require_rows(as_batch(data))
        step = Step(ops.convert_to_tensor(self.optimizer.iterations), self._epoch.value)
        teacher = self.teacher.outputs(batch)  # outside the tape, so that no gradient reaches it
        self.guard.take_snapshot()
        with tf.GradientTape(persistent=takes_terms_apart(self.optimizer)) as tape:
            output, student = self._student(batch.inputs, training=True)
            terms = compute_terms(self._terms, output, student, teacher, batch, step, ignored_class(self))
            loss = weighted_global_mean(terms, self._penalties(), batch, self.optimizer.scale_loss)
        variables = self.trainable_variables  # of the student and of the methods
        gradients = compute_gradients(tape, loss, variables, self.optimizer)
        is_finite = self.guard.apply(self.optimizer, gradients, variables, loss)
        self._update_trackers(loss.means, count_rows(batch), is_finite)
        self._log({*loss.means}, batch.label is not None)
        self._update_metrics(batch, output, is_finite)
        return self.get_metrics_result()

    def _hard_loss(self, output: Any, batch: Batch, training: bool = True) -> Tensor:
        """The loss `()` of the labels: the student's own `compute_loss` if it has one, else the compiled loss."""
        if batch.label is None:
            raise ValueError(
                "The hard loss needs labels, but the batch has none. Use Distiller(hard_weight=0) to train without."
            )
        if self._has_own_loss:
            loss = self.student.compute_loss(batch.inputs, batch.label, output, batch.weight, training=training)
        elif compiled_loss(self) is not None:
            spec = self._student.specs.get("logits")
            loss = compiled_mean(self, batch.label, output, batch.weight, spec.activation if spec else "")
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

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The compiled loss `()`, with which Keras creates the variables of the loss before the first step."""
        return ops.zeros(()) if y is None else compiled_mean(self, y, y_pred, sample_weight)

    # ---- evaluation

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Evaluates the student on one batch; its "loss" is the hard loss, or without labels that of the methods."""
        batch = as_batch(data)
        if batch.label is None:
            return self._test_terms(batch)
        check_has_measure(self._has_hard_loss() or has_compiled_metrics(self))
        warn_of_padding(self, batch.weight)
        output = self(batch.inputs, training=False)
        if self._has_hard_loss():
            mean = self._hard_loss(output, batch, training=False)
            counted, rows = mean_of_counted_rows(mean, batch)
            is_diluted = self._has_own_loss or is_mean_over_rows(self)  # by rows of weight 0
            loss_tracker(self).update_state(counted if is_diluted else mean, sample_weight=rows)
        self._log({"loss"} if self._has_hard_loss() else set(), True)
        return self.compute_metrics(batch.inputs, batch.label, output, batch.weight)

    def _test_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Evaluates the terms of the methods on one batch without labels."""
        check_label_free_evaluation(self.methods)
        step = Step(ops.convert_to_tensor(self.optimizer.iterations), self._epoch.value)
        output, student = self._student(batch.inputs, training=False)
        terms = [term for term in self._terms if term.name != "hard"]
        values = compute_terms(terms, output, student, self.teacher.outputs(batch), batch, step)
        means = weighted_global_mean(values, [], batch, lambda loss: loss).means
        self._update_trackers(means, count_rows(batch), True)
        self._log({*means}, False)
        return self.get_metrics_result()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's output."""
        inputs = as_batch((inputs,)).inputs
        if training:
            return self._student(inputs, training=True)[0]
        return run_without_rows(lambda rows: self._student(rows, training=False)[0], inputs)

    def _has_hard_loss(self) -> bool:
        return compiled_loss(self) is not None or self._has_own_loss

    # ---- other methods of a Keras model

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Keras's `fit`; it also counts epochs for the methods, checks data and teacher, and stops at a loss of NaN.

        Raises:
            ValueError: if there is nothing to train or no loss, data has no end, a label or a sample weight is invalid,
                or validation is impossible.
            FloatingPointError: if the teacher's outputs, the loss or a gradient are not finite.
        """
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        arguments = bound.arguments
        if isinstance(arguments.get("x"), (tf.data.Dataset, tf.distribute.DistributedDataset)):
            arguments.setdefault("shuffle", False)  # Keras cannot shuffle one, and warns of its own default
        evaluates_labels = self._has_hard_loss() or has_compiled_metrics(self)
        if isinstance(self.teacher, Teacher):
            check_separate(self.student, self.teacher.networks)  # layers may have been unfrozen
        self._check_trainable()
        check_fit_arguments(self.student, arguments, self.methods, evaluates_labels)
        check_arrays(self, arguments)
        arguments["callbacks"] = complete_callbacks(self, arguments, self._begin_epoch)
        self._is_fitting = True
        try:
            return super().fit(*bound.args, **bound.kwargs)
        finally:
            self._is_fitting = False

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `train_on_batch`.

        Raises:
            FloatingPointError: if the loss or a gradient is not finite; the batch has changed no variable.
            ValueError: if a label or a sample weight is invalid.
        """
        arguments = inspect.signature(super().train_on_batch).bind(*args, **kwargs).arguments
        self._check_trainable()
        check_arrays(self, arguments, "the batch")
        if not self._has_checked_teacher:
            check_outputs(self, arguments["x"], arguments.get("y"))
        self._has_checked_teacher = True
        logs = super().train_on_batch(*args, **kwargs)
        raise_if_nonfinite(self.guard.pop_nonfinite_step())
        return logs

    def _check_trainable(self) -> None:
        if not self.trainable_variables:
            raise ValueError(
                f"Expected a student with trainable weights, but {self.student.name!r} has none, and no method has any."
                " Set student.trainable = True."
            )
        if not self._terms and not self.losses:  # regularization is a loss, too
            raise ValueError(
                "Expected a loss to train on, but received no method and hard_weight=0. Pass methods=, or a hard_weight"
                " above 0."
            )

    def predict_step(self, data: Any) -> Any:
        """The student's own `predict_step` if it has one, else its output."""
        batch = as_batch(data)
        if type(self.student).predict_step is not keras.Model.predict_step:
            return self.student.predict_step((batch.inputs,))
        return self(batch.inputs, training=False)

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
