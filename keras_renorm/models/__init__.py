"""Walks and watches a Keras model: its layers, norms, calls and graph, once.

`members` finds the layers with their names, and the batch norms and kernels among them. `graphs`
finds the calls in the graph of each model. `calls` unfolds the calls of nested models into one
list. `watching` puts functions in the place of the layers' calls. `stepping` finds how many steps a
training has made, and whose steps a callback counts.
"""

from keras_renorm.models.calls import Call, Calls, Value, calls
from keras_renorm.models.graphs import Graph, Use, called_by, graphs_in, is_graph
from keras_renorm.models.members import (
    KERNELS,
    LIMIT_STATES,
    batch_norms,
    is_batch_norm,
    is_linear,
    named_layers,
    require_layer,
    require_model,
)
from keras_renorm.models.stepping import StepCounter, at_step, joins, steps_so_far, steps_with
from keras_renorm.models.watching import Around, LayerCall, draws_kept, unchanged, watched

__all__ = [
    "KERNELS",
    "LIMIT_STATES",
    "Around",
    "Call",
    "Calls",
    "Graph",
    "LayerCall",
    "StepCounter",
    "Use",
    "Value",
    "at_step",
    "batch_norms",
    "called_by",
    "calls",
    "draws_kept",
    "graphs_in",
    "is_batch_norm",
    "is_graph",
    "is_linear",
    "joins",
    "named_layers",
    "require_layer",
    "require_model",
    "steps_so_far",
    "steps_with",
    "unchanged",
    "watched",
]
