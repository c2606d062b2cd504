import keras
import numpy as np
import pytest

from zoo.evidence import dealing


@pytest.mark.parametrize(("count", "hands"), [(12, 3), (11, 5), (3, 5)])
def test_each_hand_gets_every_kth_row(count, hands, rng):
    x = rng.normal(size=(count, 2)).astype("float32")
    found = dealing.Dealt(hands)(x)
    np.testing.assert_array_equal(found, np.concatenate([x[k::hands] for k in range(hands)]))
    np.testing.assert_array_equal(dealing.Dealt(hands, back=True)(found), x)


def test_ghosts_of_the_model_are_its_hands(rng, tmp_path):
    """Each fifth has the moments of every fifth row, and the rows come back in their order."""
    options = {"momentum": 0.9, "virtual_batch_size": 4}
    model = dealing.fifths(
        num_classes=3, input_shape=(4, 4, 1), norm="batch_norm", norm_options=options
    )
    x = rng.normal(size=(20, 4, 4, 1)).astype("float32")
    found = np.asarray(model(x, training=True))
    for hand in range(5):
        alone = np.asarray(model(x[hand::5], training=True))
        np.testing.assert_allclose(found[hand::5], alone, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
