"""Limits and clipped corrections of Batch Renorm in the history of `fit`."""

from typing import Any

import keras
import numpy as np

from keras_renorm import callers
from keras_renorm.diagnostics.corrections import watch
from keras_renorm.diagnostics.layer_traits import corrects_minibatches
from keras_renorm.diagnostics.tables import listing
from keras_renorm.models import named_layers
from keras_renorm.statistics.trained_with import limits

_SHUT = (1.0, 0.0)


class RenormHistory(keras.callbacks.Callback):
    """Logs the limits of Batch Renormalization after each epoch, and how much they clip.

    The logs get `renorm_r_max` and `renorm_d_max`, the means over the layers. With a minibatch they
    also get `renorm_r_clipped` and `renorm_d_clipped`, the shares of all channels in which r and d
    are clipped. Read them in the history that `fit` returns. To see them in `TensorBoard` or
    `CSVLogger`, give this callback before these. When training ends, a warning names the layers
    whose limits were shut after every epoch: these trained as Batch Normalization.

    Only this callback tells that while `fit` runs, because a layer does not know when training
    ends. Afterwards `keras_renorm.diagnostics.renorm_report` tells it, too.

    Args:
        x: A batch of the model's inputs, of the size that training uses. The clipped shares take a
            forward pass of it. None logs the limits alone.

    Raises:
        ValueError: When training begins, if no Batch Renormalization in the model trains with the
            minibatch's statistics.

    Example:
        >>> history = model.fit(
        ...     dataset, callbacks=[keras_renorm.callbacks.RenormHistory(images[:32])]
        ... )
        >>> history.history["renorm_r_max"]
    """

    def __init__(self, x: Any = None) -> None:
        super().__init__()
        self._x = x
        self._names: dict[Any, str] = {}
        self._shut: set[Any] = set()
        self._epochs = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the layers."""
        model = self.model
        found = {layer: name for name, layer in named_layers(model) if corrects_minibatches(layer)}
        if not found:
            raise ValueError(
                f"RenormHistory found no layer to log in the model {model.name!r}: no "
                "BatchRenormalization trains with the minibatch's statistics. Leave the callback "
                "out."
            )
        self._names, self._shut, self._epochs = found, set(found), 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the limits and shares to the logs."""
        model = self.model  # under JAX this copies the state of training to the variables
        found = {layer: _limits(layer) for layer in self._names}
        self._shut -= {layer for layer, own in found.items() if set(own) != {_SHUT}}
        self._epochs += 1
        if logs is None:
            return
        r_max, d_max = np.mean([limit for own in found.values() for limit in own], axis=0)
        logs |= {"renorm_r_max": float(r_max), "renorm_d_max": float(d_max)}
        if self._x is not None:
            logs |= self._clipped(model)

    def on_train_end(self, logs: Any = None) -> None:
        """Warns of limits that never opened."""
        shut = [name for layer, name in self._names.items() if layer in self._shut]
        if shut and self._epochs:
            callers.warn(
                f"The limits of {listing(shut)} never opened: they were r_max=1 and d_max=0 after "
                "each epoch, and training was that of Batch Normalization. A schedule may be for "
                "more steps: write num_steps=... in its place. Default limits follow from what the "
                "layer sees. They stay shut where minibatches do not deviate from the moving "
                "statistics, or where these lag: then lower the momentum or the learning rate."
            )

    def _clipped(self, model: keras.Model) -> dict[str, float]:
        """The shares of all channels in which r and d are clipped."""
        seen = watch(model, self._x, self._names)
        if not any(seen.values()):
            callers.warn(
                f"RenormHistory logs no clipped shares: the model {model.name!r} calls none of "
                f"{listing(list(self._names.values()))} on `x`. Give a batch as training uses it."
            )
            return {}
        rows = [(layer.moving_mean.shape[-1], row) for layer in seen for row in seen[layer]]
        channels = [size for size, _ in rows]
        return {
            f"renorm_{name}": float(
                np.average([getattr(row, name) for _, row in rows], 0, channels)
            )
            for name in ("r_clipped", "d_clipped")
        }


def _limits(layer: Any) -> list[tuple[float, float]]:
    """The limits of the next minibatch, for each domain."""
    return [limits(layer, domain) for domain in range(getattr(layer, "num_domains", 1))]
