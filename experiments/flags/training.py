"""Flags of the network to train, and of its training."""

from absl import flags

from kd_keras.runs.recipe import Recipe
from kd_keras.runs.recipe_values import FINE_TUNING_RATES, OPTIMIZERS, SCHEDULES


def define_model(name: str, default: str) -> None:
    """Defines the flags of the network to train."""
    text = "A model of the zoo, with options: 'mlp(hidden=(32,))', 'applications/VGG16'; a run; or a .keras file."
    flags.DEFINE_string(name, default, text)
    text = f"A .keras, .weights.h5 or .h5 file to start --{name} from, as a whole or in part."
    flags.DEFINE_string("weights", None, text)
    define_normalization()


def define_normalization() -> None:
    """Defines the flag of the first layer of networks of the zoo."""
    text = (
        "First layer of a zoo network: 'fit' to the images, 'unit' (0..1), 'symmetric' (-1..1) or '((mean,), (std,))'."
    )
    flags.DEFINE_string("normalization", Recipe.normalization, text)


def define_training() -> None:
    """Defines the flags of the run and of its optimization."""
    flags.DEFINE_string("run", None, "Directory of the run; the same command resumes it.", required=True)
    flags.DEFINE_boolean("overwrite", False, "Delete the run that is in --run first.")
    flags.DEFINE_integer("epochs", Recipe.epochs, "Passes over the training images.", lower_bound=1)
    text = "Number of epochs between tests, each with a checkpoint."
    flags.DEFINE_integer("test_every", Recipe.test_every, text, lower_bound=1)
    flags.DEFINE_enum("optimizer", Recipe.optimizer, OPTIMIZERS, "Optimizer; sgd, lars and dot have momentum 0.9.")
    text = (
        "Of --optimizer=dot: the momentum of the distillation is 0.9 plus this, that of the hard loss 0.9 minus this."
    )
    flags.DEFINE_float("dot_delta", Recipe.dot_delta, text, lower_bound=0.0)
    trained = ", ".join(f"{rate:g} for {optimizer}" for optimizer, rate in FINE_TUNING_RATES.items())
    text = (
        f"Highest learning rate; by default {Recipe.learning_rate:g}, or from trained weights {trained}. lars needs it."
    )
    flags.DEFINE_float("learning_rate", None, text, lower_bound=0.0)
    text = "From trained weights: ratio of the first layer's learning rate to the classifier's; geometric in between."
    flags.DEFINE_float("first_layer_rate", Recipe.first_layer_rate, text, lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_boolean("freeze_backbone", False, "Train only the classifier of a network with trained weights.")
    text = "Schedule of the learning rate; steps: divided by 10 at 5/8, 6/8 and 7/8 of the training."
    flags.DEFINE_enum("schedule", Recipe.schedule, SCHEDULES, text)
    text = "Epochs after which the schedule steps divides the rate by 10 instead, such as 30,60,90."
    flags.DEFINE_list("decay_epochs", None, text)
    flags.DEFINE_float("warmup_epochs", Recipe.warmup_epochs, "Epochs of linear warm-up.", lower_bound=0.0)
    text = "Decoupled weight decay, as Keras's optimizers apply it."
    flags.DEFINE_float("weight_decay", Recipe.weight_decay, text, lower_bound=0.0)
    text = (
        "Weight decay as in published recipes, added to the gradient before the momentum of sgd, of all weights of the "
        "student and adapters. With momentum 0.9 it decays ten times as much as the same --weight_decay. With "
        "lars it is part of the scaled gradient, and only kernels decay."
    )
    flags.DEFINE_float("coupled_weight_decay", Recipe.coupled_weight_decay, text, lower_bound=0.0)
    text = "Highest norm of all gradients together, to which longer ones are scaled down; 0 is off."
    flags.DEFINE_float("clip_norm", Recipe.clip_norm, text, lower_bound=0.0)
    text = "Fraction of a label that is spread evenly over all classes."
    flags.DEFINE_float("label_smoothing", Recipe.label_smoothing, text, lower_bound=0.0)
