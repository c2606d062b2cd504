import functools
import re

import keras
import numpy as np
import pytest

import zoo
from keras_renorm.layers import BatchNormalization, BatchRenormalization
from zoo.errors import UserError
from zoo.training import fine_tuning


def model(norm="batch_renorm", classes=3, **options):
    return zoo.create_model(
        "mlp", num_classes=classes, input_shape=(4, 4, 1), norm=norm, hidden_units=(5, 6), **options
    )


@pytest.fixture
def stored(tmp_path, rng):
    trained = model()
    trained.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in trained.get_weights()])
    path = tmp_path / "model.keras"
    trained.save(path)
    return path, trained


@pytest.mark.parametrize("norm", ["batch_renorm", "batch_norm"])
def test_weights_of_a_file_are_taken_and_the_head_of_other_classes_is_fresh(stored, norm, rng):
    path, trained = stored
    images = rng.normal(size=(7, 4, 4, 1)).astype(np.float32)
    same = model(norm)
    fine_tuning.load_file(same, str(path))
    np.testing.assert_allclose(same(images), trained(images), rtol=1e-5, atol=1e-6)

    other = model(norm, classes=9)
    fresh = other.get_layer("logits").get_weights()
    fine_tuning.load_file(other, str(path))
    for a, b in zip(other.get_layer("logits").get_weights(), fresh, strict=True):
        np.testing.assert_array_equal(a, b)
    kernel = trained.get_layer("hidden2_dense").get_weights()[0]
    np.testing.assert_array_equal(other.get_layer("hidden2_dense").get_weights()[0], kernel)


def test_a_file_that_does_not_fit_is_refused(stored, tmp_path):
    path, _ = stored
    other = zoo.create_model("mlp", num_classes=3, input_shape=(4, 4, 1), hidden_units=(5, 7))
    with pytest.raises(
        UserError,
        match=r"layer hidden2_dense has weights kernel \(5, 7\) here and kernel \(5, 6\) there\.$",
    ):
        fine_tuning.load_file(other, str(path))
    for name in ("nowhere.keras", "text.keras"):
        (tmp_path / "text.keras").write_text("text")
        with pytest.raises(
            UserError,
            match=rf"{name}(: there is no such| is damaged: it is not a whole \.keras) file\.$",
        ):
            fine_tuning.load_file(other, str(tmp_path / name))


def test_what_only_one_of_the_two_has_is_named(tmp_path, caplog):
    def net(names):
        x = inputs = keras.Input((4,))
        found = {name: keras.layers.Dense(3, name=name)(x) for name in names}
        return keras.Model(inputs, list(found.values()))

    trained = net(["logits", "predictions", "auxiliary_logits"])
    trained.save(tmp_path / "model.keras")
    other = net(["logits", "auxiliary_1", "auxiliary_logits"])
    fine_tuning.load_file(other, str(tmp_path / "model.keras"))
    for name in ("logits", "auxiliary_logits"):
        kernels = (model.get_layer(name).kernel for model in (other, trained))
        np.testing.assert_array_equal(*kernels)
    fresh, unused = (record.getMessage() for record in caplog.records)
    assert fresh.endswith("model.keras: layers get no weights from it: auxiliary_1.")
    assert unused.endswith("model.keras: layers are only in it: predictions.")


def nested(rng=None, units=5, norm=BatchRenormalization):
    """A model whose layers hold layers, some with weights of one name; random ones with `rng`."""
    backbone = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units), norm(), keras.layers.Dense(3), norm()],
        name="backbone",
    )
    inputs = keras.Input((6, 4))
    x = keras.layers.TimeDistributed(backbone, name="each")(inputs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(2), name="both")(x)
    outputs = keras.layers.Dense(3, name="logits")(x)
    model = keras.Model(inputs, outputs)
    if rng is not None:
        model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("norm", [BatchRenormalization, BatchNormalization])
def test_layers_that_hold_layers_get_all_their_weights_and_the_epsilon(tmp_path, rng, norm):
    trained = nested(rng, norm=functools.partial(BatchRenormalization, epsilon=0.5))
    trained.save(tmp_path / "model.keras")
    fresh = nested(norm=norm)
    fine_tuning.load_file(fresh, str(tmp_path / "model.keras"))
    x = rng.normal(size=(2, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(fresh(x), trained(x), rtol=1e-5, atol=1e-6)


def test_a_layer_inside_a_layer_that_does_not_fit_is_refused(tmp_path, rng):
    nested(rng).save(tmp_path / "model.keras")
    with pytest.raises(
        UserError, match=r"layer each has weights .*kernel \(4, 6\), .* here and kernel \(4, 5\), "
    ):
        fine_tuning.load_file(nested(units=6), str(tmp_path / "model.keras"))


def test_a_norm_of_ones_own_does_not_stand_for_a_batch_norm(tmp_path):
    @keras.saving.register_keras_serializable("fine_tuning_test")
    class Own(keras.layers.Layer):
        def build(self, shape):
            for name in ("gamma", "beta", "moving_mean", "moving_variance"):
                self.add_weight(shape=shape[-1:], name=name)

        def call(self, inputs):
            return inputs

    def net(norm):
        head = keras.layers.Dense(3, name="logits")
        return keras.Sequential([keras.Input((4,)), norm, head])

    net(Own(name="norm")).save(tmp_path / "model.keras")
    with pytest.raises(UserError, match=r"layer norm has weights .*, batch norms: 1 here and "):
        fine_tuning.load_file(net(BatchNormalization(name="norm")), str(tmp_path / "model.keras"))


def test_a_home_folder_is_found(tmp_path, monkeypatch, rng):
    monkeypatch.setenv("HOME", str(tmp_path))
    nested(rng).save(tmp_path / "model.keras")
    fine_tuning.load_file(nested(), "~/model.keras")


def test_patterns_freeze_layers_and_never_the_head():
    frozen = model()
    fine_tuning.freeze(frozen, "hidden1*")
    names = {v.path.split("/")[0] for v in frozen.trainable_variables}
    assert names == {"hidden2_dense", "hidden2_norm", "logits"}
    fine_tuning.freeze(frozen, "*")
    assert {v.path.split("/")[0] for v in frozen.trainable_variables} == {"logits"}
    assert {v.path.split("/")[0] for v in keras.models.clone_model(frozen).trainable_variables} == {
        "logits"
    }


@pytest.mark.parametrize("pattern", ["hiden1", "logits", "hidden1*,", ""])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    wrong = pattern.split(",")[-1]
    message = f"^--config.freeze: {re.escape(repr(wrong))} matches no layer"
    with pytest.raises(UserError, match=message) as refused:
        fine_tuning.freeze(model(), pattern)
    told = str(refused.value).removeprefix(f"--config.freeze: {wrong!r}")
    assert "logits" not in told
    assert told.endswith(" The classifier is never frozen.")
