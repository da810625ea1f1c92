"""The optimizers by name: from which library, which arguments they take, and what sets them apart. No torch."""

from __future__ import annotations

from typing import Literal

OptimizerName = Literal[
    "adamw",
    "adamw8bit",
    "paged-adamw",
    "paged-adamw8bit",
    "paged-adamw32bit",
    "lion",
    "lion8bit",
    "paged-lion8bit",
    "sgd-nesterov",
    "sgd-nesterov8bit",
    "prodigy",
    "dadapt-adam",
    "dadapt-adagrad",
    "dadapt-adan",
    "dadapt-lion",
    "dadapt-sgd",
    "adafactor",
    "came",
    "adamw-schedulefree",
    "radam-schedulefree",
    "sgd-schedulefree",
    "adam",
    "adamax",
    "adagrad",
    "adadelta",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
]
