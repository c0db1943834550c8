"""The Distiller: a Keras model whose training step teaches a student. The route of a batch is `train_step`."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops, tree

from kd_keras.contracts import Batch, Outputs, Step, TapSpec, Tensor, as_batch
from kd_keras.distribute.keras_fit import FitsOnWorkers
from kd_keras.errors import explain_mismatch
from kd_keras.methods.base import Method
from kd_keras.methods.labels import class_indices
from kd_keras.methods.schedules import Weight, as_weight, deserialize_weight, serialize_weight, weight_at
from kd_keras.networks.taps import Tapped
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.teacher import AbsentTeacher, Teacher
from kd_keras.training.guard import NonFinite, NonFiniteGuard
from kd_keras.training.teacher_check import TeacherCheck


@keras.saving.register_keras_serializable("kd_keras")
class Distiller(FitsOnWorkers):
    """Trains a student on its labels (the hard loss) and on what the methods make of a teacher's outputs.

    `fit`, `evaluate`, `predict`, callbacks and sample weights work as on every Keras model. `evaluate`, `predict` and
    `export` concern the student alone; `save` keeps student, methods and optimizer, but no teacher: `attach` it again
    after loading. For several devices build it inside `strategy.scope()`. A student with a `compute_loss` of its own,
    such as a detector, is compiled by itself before; that loss is then the hard loss, and scales for replicas itself.

    Args:
        student: the model to train; any built Keras model.
        teacher: a trained model, several, or a `Teacher`; `None` where no method asks for one.
        methods: the methods, each with its own weight.
        hard_weight: what the compiled loss is multiplied by: a number, numbers by epoch or a schedule, as a method's
            weight. With 0, data needs no labels and `compile` no loss.
        name: the model's name.

    Raises:
        TypeError: where an argument is of the wrong kind.
        ValueError: where student, teacher and methods do not fit together, and how they could.

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
        teacher: Teacher | keras.Model | Sequence[keras.Model] | None = None,
        methods: Sequence[Method] = (),
        hard_weight: Weight = 1.0,
        name: str = "distiller",
    ):
        if not isinstance(student, keras.Model):
            raise TypeError(explain_mismatch("a Keras model as student", type(student).__name__))
        for method in methods:
            if not isinstance(method, Method):
                raise TypeError(explain_mismatch("a list of methods such as kd_keras.methods.KD()", repr(method)))
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        self.student = student
        self.methods = list(methods)
        self.hard_weight = as_weight("Distiller", "hard_weight", hard_weight)
        self._student = Tapped(student, [tap for method in self.methods for tap in method.taps.student])
        self.attach(teacher)
        for method in self.methods:
            if method.built:
                raise ValueError(explain_mismatch("a method of its own", f"{method.name!r}, bound before", "make a new one"))
            method.bind(self._student.specs, self._teacher.specs)
        self._epoch = self.add_weight(name="epoch", shape=(), dtype="int32", initializer="zeros", trainable=False)
        self._terms = {name: keras.metrics.Mean(name=name) for name in (*self._weights(), "regularisation")}
        self._teacher_finite = keras.metrics.Mean(name="teacher_finite")
        self._teacher_accuracy = keras.metrics.Mean(name="teacher_accuracy")
        self._shown: set[str] = set()
        self.guard = NonFiniteGuard(list(self._weights()))
        self.built = True

    def attach(self, teacher: Teacher | keras.Model | Sequence[keras.Model] | None) -> None:
        """Sets the teacher, at construction or after loading from a file.

        Raises:
            ValueError: where a method asks for a tap that the teacher lacks, or that has another shape than before.
        """
        wanted = [tap for method in self.methods for tap in method.taps.teacher]
        if teacher is None and wanted:
            raise ValueError(explain_mismatch("a teacher", f"none, for {[method.name for method in self.methods]}"))
        teacher = AbsentTeacher({}) if teacher is None else teacher
        teacher = teacher if isinstance(teacher, (Teacher, AbsentTeacher, RecordedTeacher)) else Teacher(teacher)
        shape = getattr(self.student, "input_shape", None)
        shape = shape if isinstance(shape, tuple) else None
        if shape and isinstance(teacher, Teacher):
            teacher.check_inputs(shape)
        self.supports_jit = teacher.supports_jit(shape)
        teacher = teacher.tapped(wanted)
        before = getattr(self, "_teacher", None)
        if before is not None and _shapes(before.specs) != _shapes(teacher.specs):
            raise ValueError(explain_mismatch(f"a teacher with taps {_shapes(before.specs)}", f"{_shapes(teacher.specs)}"))
        self._teacher = teacher
        self.train_function = None  # the one traced with another teacher

    # ---- the step

    def train_step(self, data: Any) -> dict[str, Tensor]:
        batch = _with_rows(as_batch(data))
        step = Step(ops.convert_to_tensor(self.optimizer.iterations), self._epoch.value)
        teacher = self._teach(batch)
        weights, share, before = self._weights(), self._share(batch), self.guard.statistics(self)
        with tf.GradientTape() as tape:
            output, student = self._student(batch.inputs, training=True)
            terms = self._compute_terms(output, student, teacher, batch, step)
            means = {name: _mean(term, batch.weight) for name, term in terms.items()}
            loss = sum(ops.cast(weight_at(weights[name], step), "float32") * means[name] for name in means)
            penalty = self._penalty("hard" in terms)
            # The replicas' gradients are summed, so each gives its part of the mean over the global batch.
            scaled = self.optimizer.scale_loss(share * loss + penalty / self._replicas())
        variables, terms = self.trainable_variables, {"loss": loss + penalty, **means}
        # Applies the gradients, where they are finite on all replicas.
        sound = self.guard(self.optimizer, tape.gradient(scaled, variables), variables, terms, share, before)
        self._log(terms, penalty, teacher, batch, sound)
        return self._metrics_of(output, batch)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        batch = as_batch(data)
        if batch.label is None:
            raise ValueError(explain_mismatch("labels to evaluate with", "none"))
        output = self(batch.inputs, training=False)
        if not self._has_hard_loss() and self._compile_metrics is None:
            raise ValueError(explain_mismatch("a loss or metrics to evaluate with", "compile() was given neither"))
        if self._has_hard_loss():
            self._loss_tracker.update_state(*_counted(self._hard(output, batch, training=False), batch))
        return self._metrics_of(output, batch)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's output."""
        inputs = as_batch((inputs,)).inputs
        if training or self._replicas() == 1:
            return self._student(inputs, training=bool(training))[0]
        # A replica without a row in the last batch: TensorFlow's fused convolutions fail there.
        size = tf.shape(tree.flatten(inputs)[0])[0]
        rows = [(0, ops.maximum(1 - size, 0))]
        padded = tree.map_structure(lambda x: tf.pad(x, rows + [(0, 0)] * (len(x.shape) - 1)), inputs)
        return tree.map_structure(lambda x: x[:size], self._student(padded, training=False)[0])

    def _teach(self, batch: Batch) -> Outputs:
        """The teacher's taps, outside the tape: recorded, or computed now."""
        if batch.recorded is not None:
            return Outputs(batch.recorded)
        return self._teacher(batch.inputs) if self._teacher.specs else Outputs({})

    def _compute_terms(
        self, output: Any, student: Outputs, teacher: Outputs, batch: Batch, step: Step
    ) -> dict[str, Tensor]:
        """Every term of the loss by name, `(B,)` or `()`, before its weight."""
        terms = {}
        if callable(self.hard_weight) or self.hard_weight != 0:
            terms["hard"] = self._hard(output, batch, training=True)
        for name, method in zip(list(self._weights())[1:], self.methods):
            seen = (student, teacher, batch)
            terms[name] = method(*(_gathered(*seen, method) if method.across_replicas else seen), step)
        return terms

    def _hard(self, output: Any, batch: Batch, training: bool) -> Tensor:
        """The compiled loss of this replica's batch, or the student's own `compute_loss` where it has one."""
        if batch.label is None:
            raise ValueError(explain_mismatch("labels for the hard loss", "none", "Distiller(hard_weight=0) needs none"))
        if not self._has_hard_loss():
            remedy = "compile(loss=...), or Distiller(hard_weight=0) where there is to be none"
            raise ValueError(explain_mismatch("a loss for the labels", "compile() was given none", remedy))
        if _has_own_loss(self.student):
            loss = self.student.compute_loss(batch.inputs, batch.label, output, batch.weight, training=training)
        else:
            loss = self._compile_loss(batch.label, output, batch.weight)
        return ops.cast(loss, "float32") * self._replicas()  # Keras has divided it by their number

    def _penalty(self, hard: bool) -> Tensor | int:
        """The regularisers of student and adapters; a student's own `compute_loss` counts the student's itself."""
        own = hard and _has_own_loss(self.student)
        losses = [loss for method in self.methods for loss in method.losses] if own else self.losses
        return sum(ops.sum(ops.cast(loss, "float32")) for loss in losses)

    def _weights(self) -> dict[str, Weight]:
        """The weight of every term by name; a second method of one name is called `<name>_2`."""
        weights: dict[str, Weight] = {"hard": self.hard_weight}
        for method in self.methods:
            names = (f"{method.name}_{number}" if number > 1 else method.name for number in itertools.count(1))
            weights[next(name for name in names if name not in weights)] = method.weight
        return weights

    def _share(self, batch: Batch) -> Any:
        """This replica's part of the global batch, in (0, 1]."""
        if self._replicas() == 1:
            return 1.0
        size = ops.cast(_size(batch), "float32")
        return size / tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, size)

    @staticmethod
    def _replicas() -> int:
        return tf.distribute.get_strategy().num_replicas_in_sync

    # ---- what is logged

    def _log(self, terms: dict[str, Tensor], penalty: Any, teacher: Outputs, batch: Batch, sound: Tensor) -> None:
        size = ops.where(sound, _size(batch), 0)  # a batch that was skipped is not counted
        if not isinstance(penalty, int):
            terms = {**terms, "regularisation": penalty}
        for name, value in terms.items():
            tracker = self._loss_tracker if name == "loss" else self._terms[name]
            tracker.update_state(ops.where(sound, value, 0.0), sample_weight=size)
            self._shown |= {name} - {"loss"}
        if teacher:
            answers = [teacher["logits"]] if "logits" in teacher else tree.flatten(dict(teacher))
            finite = [ops.all(ops.isfinite(answer)) for answer in answers]
            self._teacher_finite.update_state(ops.cast(ops.all(ops.stack(finite)), "float32"))
        label = class_indices(batch.label)
        if "logits" in teacher and label is not None:
            right = ops.equal(ops.cast(ops.argmax(teacher["logits"], axis=-1), "int32"), label)
            self._teacher_accuracy.update_state(ops.cast(right, "float32"))

    def _metrics_of(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        if batch.label is None:
            return self.get_metrics_result()
        return self.compute_metrics(batch.inputs, batch.label, output, sample_weight=batch.weight)

    def get_metrics_result(self) -> dict[str, Tensor]:
        """The logs: in training the total, every term and the compiled metrics; in evaluation no terms."""
        hidden = {"teacher_finite", "teacher_accuracy", *self._terms} - self._shown
        if self._evaluating:
            hidden |= set(self._terms) | (set() if self._has_hard_loss() else {"loss"})
        return {name: value for name, value in super().get_metrics_result().items() if name not in hidden}

    def _has_hard_loss(self) -> bool:
        return self._compile_loss is not None or _has_own_loss(self.student)

    # ---- Keras's entrances

    _evaluating = False

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Keras's `fit`; it counts epochs for the methods and looks at the teacher's first answers."""
        call = inspect.signature(super().fit).bind(*args, **kwargs)
        classes = self._teacher.specs["logits"].shape[-1] if "logits" in self._teacher.specs else None
        own = [keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self._epoch.assign(epoch))]
        if self._teacher.specs:
            own.append(TeacherCheck(self._teacher_finite, self._teacher_accuracy, classes))
        given = call.arguments.get("callbacks") or []
        given = given.callbacks if isinstance(given, keras.callbacks.CallbackList) else tree.flatten(given)
        if not any(isinstance(each, NonFinite) for each in given):
            own.append(NonFinite())
        call.arguments["callbacks"] = [*own, *given]
        return super().fit(*call.args, **call.kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `evaluate` of the student alone: its `loss` is the hard loss, and no variable changes."""
        with self._evaluation():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `test_on_batch` of the student alone."""
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Exports the student alone, as `student.export` does."""
        return self.student.export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "student": keras.saving.serialize_keras_object(self.student),
            "methods": [keras.saving.serialize_keras_object(method) for method in self.methods],
            "hard_weight": serialize_weight(self.hard_weight),
            "teacher": AbsentTeacher(self._teacher.specs).get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> Distiller:
        load = keras.saving.deserialize_keras_object
        return cls(
            name=config["name"],
            student=load(config["student"], custom_objects=custom_objects),
            methods=[load(method, custom_objects=custom_objects) for method in config["methods"]],
            hard_weight=deserialize_weight(config["hard_weight"]),
            teacher=AbsentTeacher.from_config(config["teacher"]),
        )


def _mean(term: Tensor, weight: Any) -> Tensor:
    """The mean over the batch, examples weighted, as Keras's losses reduce; a scalar stays as it is."""
    term = ops.cast(term, "float32")
    if len(term.shape) == 0:
        return term
    if tree.is_nested(weight):
        raise ValueError(explain_mismatch("one sample_weight for an example", "a structure of them", "weigh the hard loss"))
    if weight is not None:
        term = term * ops.reshape(ops.cast(weight, "float32"), (-1,))
    return ops.sum(term) / ops.cast(ops.maximum(ops.shape(term)[0], 1), "float32")


def _gathered(student: Outputs, teacher: Outputs, batch: Batch, method: Method) -> tuple[Outputs, Outputs, Batch]:
    """What a method of the global batch sees: the taps that it wants and the labels of all replicas, differentiably."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return student, teacher, batch
    context = tf.distribute.get_replica_context()

    def gather(structure: Any) -> Any:
        # A copy, on this replica's device: over several workers TensorFlow gathers nothing whose device is open.
        return tree.map_structure(lambda x: context.all_gather(tf.identity(x), axis=0), structure)

    given = {name: value for name in ("label", "weight", "index") if (value := getattr(batch, name)) is not None}
    batch = batch._replace(**{name: gather(value) for name, value in given.items()})
    return (
        Outputs({tap: gather(student[tap]) for tap in method.taps.student}),
        Outputs({tap: gather(teacher[tap]) for tap in method.taps.teacher}),
        batch,
    )


def _size(batch: Batch) -> Tensor:
    return ops.shape(tree.flatten(batch.inputs)[0])[0]


def _with_rows(batch: Batch) -> Batch:
    """The same batch, or a clear error where this replica has no row of it, which layers cannot train on."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return batch
    remedy = "drop_remainder=True, another batch size, or kd_keras.distribute.strategies.batches"
    message = explain_mismatch(f"an example for each of {replicas} replicas in every batch", "none for one of them", remedy)
    with tf.control_dependencies([tf.debugging.assert_positive(_size(batch), message=message)]):
        return batch._replace(inputs=tree.map_structure(tf.identity, batch.inputs))


def _counted(mean: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """A mean over all rows of a batch as one over those of a weight other than 0, and their number, maybe 0: several
    replicas fill up their last batch with rows that weigh nothing, or one of them gets none at all."""
    size = ops.cast(_size(batch), "float32")
    plain = batch.weight is None or tree.is_nested(batch.weight)
    count = size if plain else ops.cast(ops.count_nonzero(batch.weight), "float32")
    return ops.where(count > 0, mean * size / ops.maximum(count, 1), 0.0), count


def _has_own_loss(student: keras.Model) -> bool:
    return type(student).compute_loss is not keras.Model.compute_loss


def _shapes(specs: dict[str, TapSpec | list[TapSpec]]) -> dict[str, Any]:
    def shape(spec: TapSpec | list[TapSpec]) -> Any:
        return [shape(each) for each in spec] if isinstance(spec, list) else spec.shape[1:]

    return {name: shape(spec) for name, spec in specs.items()}
