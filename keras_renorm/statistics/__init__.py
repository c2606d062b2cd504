"""Population statistics: which batch a batch norm takes its moments from, and when.

`precise` sets the statistics to the moments over given examples. `freeze` uses them in training.
`batch_statistics` uses the minibatch's moments at inference instead. `save_set` and `use_set` keep
several sets and switch between them. All of these take models with layers of this package and with
Keras's batch norms.
"""

from keras_renorm.statistics.freezing import freeze, is_frozen, unfreeze
from keras_renorm.statistics.minibatch import batch_statistics
from keras_renorm.statistics.population import PreciseReport, precise
from keras_renorm.statistics.sets import read_sets, save_set, sets, use_set, write_sets

__all__ = [
    "PreciseReport",
    "batch_statistics",
    "freeze",
    "is_frozen",
    "precise",
    "read_sets",
    "save_set",
    "sets",
    "unfreeze",
    "use_set",
    "write_sets",
]
