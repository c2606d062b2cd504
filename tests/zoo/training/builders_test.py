import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_renorm import statistics
from keras_renorm.layers import BatchRenormalization, SkipInit
from keras_renorm.schedules import LinearRamp
from zoo.data import Dataset
from zoo.data.sources import Streamed
from zoo.errors import UserError
from zoo.training import builders
from zoo.training.config import default_config


def config(**values):
    return default_config().to_dict() | {"model": "mlp"} | values


@pytest.fixture
def dataset(rng):
    images = rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    return Dataset("blocks", "train", images, np.arange(40) % 4, ("a", "b", "c", "d"))


def test_batch_renorm_gets_its_ramps():
    options = builders.norm_options(
        config(r_max=4.0, r_max_ramp="5,9", d_max_ramp="0,0.5", synchronized=True, norm_epsilon=0.1)
    )
    assert options == {
        "momentum": 0.99,
        "epsilon": 0.1,
        "synchronized": True,
        "r_max": LinearRamp(1.0, 4.0, 5, 9),
        "d_max": LinearRamp(0.0, 5.0, 0, 500),
    }


def test_limits_are_the_layers_own_unless_given():
    assert not {"r_max", "d_max"} & builders.norm_options(config()).keys()
    options = builders.norm_options(config(d_max=2.0))
    assert options["d_max"] == 2.0
    assert "r_max" not in options


def test_batch_norm_gets_no_limits_and_none_gets_nothing():
    assert builders.norm_options(config(norm="batch_norm")) == {
        "momentum": 0.99,
        "synchronized": False,
    }
    assert builders.norm_options(config(norm="none")) == {}


@pytest.mark.parametrize(
    ("value", "alpha"), [("zero", 0.0), ("inverse_sqrt_depth", 1 / 3), ("one", 1.0)]
)
def test_skip_init_scales_each_branch_by_the_value_that_was_named(value, alpha):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    dataset = Dataset("blocks", "train", images, np.arange(4), ("a", "b", "c", "d"))
    values = {"model": "resnet20", "norm": "skip_init", "skip_init_value": value}
    model = builders.build_model(config(**values), dataset)
    alphas = [float(layer.alpha) for layer in model.layers if isinstance(layer, SkipInit)]
    assert alphas == pytest.approx([alpha] * 9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "mpl"}, "Did you mean 'mlp'"),
        ({"norm": "skip_init"}, "norm='skip_init' scales residual branches, and this model has"),
        ({"r_max": 0.5}, "`r_max` must be at least 1"),
        ({"d_max": -1.0}, "`d_max` must be at least 0"),
        ({"norm_momentum": 1.5}, "`momentum` must be"),
        ({"norm_epsilon": 0.0}, "`epsilon` must be"),
    ],
)
def test_what_a_model_does_not_take_is_a_users_error(dataset, values, message):
    with pytest.raises(UserError, match=message):
        builders.build_model(config(**values), dataset)


def test_images_too_small_for_the_auxiliary_classifier_can_do_without(rng):
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    data = Dataset("blocks", "train", images, np.arange(3), ("a", "b", "c"))
    with pytest.raises(UserError, match=r"65 pixels .*--config\.auxiliary_weight=0 of zoo\.train"):
        builders.build_model(config(model="inception_bn"), data)
    model = builders.build_model(config(model="inception_bn", auxiliary_weight=0.0), data)
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 41}, "`batch_size` must be at most the number of examples"),
        (
            {"minibatches": "few_labels", "batch_size": 9, "labels_per_batch": 2},
            "`batch_size` must be a multiple of `labels_per_batch`",
        ),
        (
            {"minibatches": "few_labels", "batch_size": 10, "labels_per_batch": 5},
            "`labels_per_batch` must be at most the number of labels",
        ),
    ],
)
def test_minibatches_that_cannot_be_had_are_a_users_error(dataset, values, message):
    with pytest.raises(UserError, match=message):
        builders.build_sampler(config(**values), dataset)


def test_logits_are_the_model_before_its_softmax(rng, dataset):
    model = builders.build_model(config(), dataset)
    logits = builders.logits_of(model)
    images = tf.constant(rng.normal(size=(5, 4, 4, 1)).astype("f4"))
    np.testing.assert_allclose(tf.nn.softmax(logits(images)), model(images), rtol=1e-6)
    assert [v.path for v in logits.variables] == [v.path for v in model.variables]


def test_the_limits_are_those_of_the_models_layers(rng, dataset):
    model = builders.build_model(config(r_max_ramp="0,4", d_max_ramp="0,10"), dataset)
    assert builders.current_limits(model) == (1.0, 0.0)
    model(tf.constant(rng.normal(size=(5, 4, 4, 1)).astype("f4")), training=True)
    assert builders.current_limits(model) == pytest.approx((1.5, 0.5))
    count = sum(isinstance(layer, BatchRenormalization) for layer in model.layers)
    assert count == 3
    statistics.freeze(model)
    assert builders.current_limits(model) == (None, None)
    assert builders.current_limits(builders.build_model(config(norm="none"), dataset)) == (
        None,
        None,
    )


def test_a_model_of_the_users_own(dataset, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import zoo\n"
        "def make(**options):\n"
        "    return zoo.create_model('mlp', hidden_units=(7,), **options)\n"
        "def other(**options):\n"
        "    return zoo.create_model('mlp', classifier_activation=None, include_top=False,\n"
        "                            **options)\n"
        "import keras\n"
        "def unbuilt(**options):\n"
        "    return keras.Sequential([keras.layers.Dense(4, name='logits')])\n"
        "class Subclassed(keras.Model):\n"
        "    def __init__(self, **options):\n"
        "        super().__init__()\n"
        "        self.logits = keras.layers.Dense(4, name='logits')\n"
    )
    model = builders.build_model(config(model=f"{path}:make"), dataset)
    assert model.get_layer("hidden1_dense").units == 7
    assert builders.logits_of(model).output_shape == (None, 4)
    with pytest.raises(UserError, match="in which the layer before the softmax is called 'logits'"):
        builders.build_model(config(model=f"{path}:other"), dataset)
    for name in ("unbuilt", "Subclassed"):
        with pytest.raises(UserError, match=r"received the layers logits and no known outputs\.$"):
            builders.build_model(config(model=f"{path}:{name}"), dataset)


ENDS = {
    "softmax": "L.Softmax()(logits)",
    "none": "logits",
    "within": "softmax",
    "sigmoid": "L.Activation('sigmoid')(logits)",
    "scaled": "L.Softmax()(2.0 * logits)",
    "relu": "L.Softmax()(L.ReLU()(logits))",
    "beside": "L.Softmax()(logits + L.Dense(CLASSES)(x))",
    "middle": "L.Dense(CLASSES, 'softmax')(L.Dense(7, name='logits')(x))",
}


@pytest.mark.parametrize("classes", [4, 100])
@pytest.mark.parametrize("end", ENDS)
def test_a_model_of_the_users_own_ends_in_the_softmax_of_its_logits(tmp_path, end, classes):
    path = tmp_path / "mine.py"
    path.write_text(
        "import keras\n"
        f"L, CLASSES = keras.layers, {classes}\n"
        "def make(**options):\n"
        "    images = keras.Input((None, None, 1))\n"
        "    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3)(images))\n"
        + (
            ""
            if end in ("middle", "within")
            else "    logits = L.Dense(CLASSES, name='logits')(x)\n"
        )
        + "    softmax = L.Dense(CLASSES, 'softmax', name='logits')(x)\n" * (end == "within")
        + f"    return keras.Model(images, {ENDS[end]})\n"
    )
    images = np.zeros((classes, 4, 4, 1), np.uint8)
    names = tuple(map(str, range(classes)))
    dataset = Dataset("blocks", "train", images, np.arange(classes), names)
    if end == "softmax":
        builders.build_model(config(model=f"{path}:make"), dataset)
        return
    with pytest.raises(UserError, match="must return a model that ends in the softmax of the lay"):
        builders.build_model(config(model=f"{path}:make"), dataset)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("Scaled(2.0)", "TypeError: Error when deserializing class 'Scaled' using config="),
        ("Forgets(5)", "ValueError: forgets/kernel of shape (16, 5) comes back as (16, 3)."),
        ("Holds(5)", "TypeError: Cannot serialize object "),
        ("Ends(5)", "SystemExit: 3."),
        ("keras.layers.Lambda(lambda x: 2 * x)", "ValueError: Requested the deserialization of a"),
    ],
)
def test_a_model_of_the_users_own_can_be_built_anew(dataset, tmp_path, layer, reason):
    """Else a run would train to its end, and could not write its model."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import keras\n"
        "class Scaled(keras.layers.Layer):\n"
        "    def __init__(self, factor):\n"
        "        super().__init__()\n"
        "        self.factor = factor\n"
        "    def call(self, x):\n"
        "        return x * self.factor\n"
        "class Forgets(keras.layers.Layer):\n"
        "    def __init__(self, units=3, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.units = units\n"
        "    def build(self, shape):\n"
        "        self.kernel = self.add_weight((shape[-1], self.units), name='kernel')\n"
        "    def call(self, x):\n"
        "        return x @ self.kernel\n"
        "    def get_config(self):\n"
        "        return {'name': self.name}\n"
        "class Holds(Forgets):\n"
        "    def get_config(self):\n"
        "        return super().get_config() | {'units': object()}\n"
        "class Ends(Forgets):\n"
        "    def get_config(self):\n"
        "        raise SystemExit(3)\n"
        "def make(**options):\n"
        "    images = keras.Input((4, 4, 1))\n"
        f"    x = {layer}(keras.layers.Flatten()(images))\n"
        "    logits = keras.layers.Dense(4, name='logits')(x)\n"
        "    return keras.Model(images, keras.layers.Softmax()(logits))\n"
    )
    message = f"can build anew from its config, or no file could hold it; received {reason}"
    with pytest.raises(UserError, match=re.escape(message)):
        builders.build_model(config(model=f"{path}:make"), dataset)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((4, 4, 1), True),
        ((4, 4), True),
        ((None, None, 1), True),
        ((4, 5, 1), False),
        ((4, 4, 3), False),
        ((4,), False),
    ],
)
def test_a_model_of_the_users_own_takes_the_images(dataset, shape, fits):
    model = keras.Sequential([keras.Input(shape), keras.layers.Activation("relu")])
    if fits:
        builders.check_takes(config(model="mine.py:make"), model, dataset)
        return
    message = (
        r"must take images of shape \(4, 4, 1\), those of blocks, train; received a model with"
    )
    with pytest.raises(UserError, match=message):
        builders.check_takes(config(model="mine.py:make"), model, dataset)


def test_a_model_of_the_users_own_that_is_frozen_is_refused(dataset, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import zoo\n"
        "def make(**options):\n"
        "    model = zoo.create_model('mlp', **options)\n"
        "    model.trainable = False\n"
        "    return model\n"
    )
    with pytest.raises(UserError, match="with something to train, received one that is frozen"):
        builders.build_model(config(model=f"{path}:make"), dataset)


def test_the_epsilon_is_that_of_a_model_file_unless_another_is_asked_for(dataset, tmp_path):
    path = str(tmp_path / "model.keras")
    builders.build_model(config(norm_epsilon=0.5), dataset).save(path)

    def epsilons(**values):
        model = builders.build_model(config(weights=path, **values), dataset)
        return {layer.epsilon for layer in model.layers if isinstance(layer, BatchRenormalization)}

    assert epsilons() == {0.5}
    assert epsilons(norm_epsilon=0.25) == {0.25}


@pytest.mark.parametrize(
    ("precision", "compute"), [("float32",) * 2, ("bfloat16",) * 2, ("float16",) * 2]
)
def test_layers_compute_in_the_precision(dataset, precision, compute, monkeypatch):
    before = keras.config.floatx(), keras.config.dtype_policy()
    try:
        keras.config.set_floatx("float16")  # keras.json can say so
        model = builders.build_model(config(precision=precision), dataset)
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
    assert model.get_layer("hidden1_dense").compute_dtype == compute
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert model.output.dtype == "float32"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dropout_rate": 0.5},
            r"dropout_rate has no effect with a model of your own, ",
        ),
        (
            {"stochastic_depth_rate": 0.5},
            r"stochastic_depth_rate has no effect with a model of your own, received 0\.5\. Leave",
        ),
        (
            {"auxiliary_weight": 0.1},
            r"auxiliary_weight has no effect with a model of your",
        ),
        (
            {"weights": "a.h5"},
            r"weights of a model of your own must be a \.keras file, ",
        ),
    ],
)
def test_what_a_model_of_the_users_own_cannot_have_is_refused(dataset, values, message):
    with pytest.raises(UserError, match=f"^--config.{message}"):
        builders.build_model(config(model="mine.py:make", **values), dataset)


@pytest.mark.parametrize(
    "values", [{"freeze_statistics_at_step": 2}, {"initial_statistics": "precise"}]
)
def test_statistics_need_a_norm_in_a_model_of_the_users_own(dataset, tmp_path, values):
    path = tmp_path / "mine.py"
    path.write_text(
        "import zoo\n"
        "def plain(norm, norm_options, **options):\n"
        "    return zoo.create_model('mlp', norm='none', **options)\n"
        "def normalized(**options):\n"
        "    return zoo.create_model('mlp', **options)\n"
    )
    ((key, value),) = values.items()
    message = f"^--config.{key}={value} has no effect: the model of --config.model={path}:plain "
    with pytest.raises(UserError, match=f"{message}holds no batch norm. Leave it out.$"):
        builders.build_model(config(model=f"{path}:plain", **values), dataset)
    builders.build_model(config(model=f"{path}:normalized", **values), dataset)


def test_an_auxiliary_weight_needs_such_a_head(dataset):
    with pytest.raises(
        UserError, match=r"^--config\.auxiliary_weight=0\.3 has no effect with model="
    ):
        builders.build_model(config(auxiliary_weight=0.3), dataset)
    assert builders.step_options(config()).auxiliary_weight == 0.4


def test_stochastic_depth_needs_residual_branches(dataset):
    message = (
        r"^--config\.stochastic_depth_rate=0\.3 has no effect with model=mlp, which has no "
        r"residual branches\. Leave it out\.$"
    )
    with pytest.raises(UserError, match=message):
        builders.build_model(config(stochastic_depth_rate=0.3), dataset)
    with pytest.raises(UserError, match="Unknown model 'mpl'"):
        builders.build_model(config(model="mpl", stochastic_depth_rate=0.3), dataset)


def test_stochastic_depth_is_where_it_is_asked_for(dataset):
    model = builders.build_model(config(model="resnet20", stochastic_depth_rate=0.3), dataset)
    assert model.get_layer("stage3_block3_stochastic_depth").rate == 0.3
    assert model.get_layer("stage1_block3_stochastic_depth").rate == pytest.approx(0.1)
    plain = builders.build_model(config(model="resnet20"), dataset)
    assert not [layer for layer in plain.layers if isinstance(layer, keras.layers.Dropout)]


def test_dropout_is_where_it_is_asked_for(dataset):
    model = builders.build_model(config(dropout_rate=0.25), dataset)
    assert model.get_layer("dropout").rate == 0.25


@pytest.mark.parametrize("kind", ["iid", "few_labels"])
def test_minibatches_start_anywhere_and_end_with_the_run(dataset, kind):
    values = config(minibatches=kind, labels_per_batch=2, batch_size=6, num_steps=7, augment=True)
    whole = list(builders.build_batches(values, dataset, 0))
    rest = list(builders.build_batches(values, dataset, 4))
    assert (len(whole), len(rest)) == (7, 3)
    for (images, labels), (resumed_images, resumed_labels) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(images, resumed_images)
        np.testing.assert_array_equal(labels, resumed_labels)
    if kind == "few_labels":
        assert all(len(set(labels.numpy())) == 2 for _, labels in whole)


def test_labels_that_cannot_be_read_are_one_line():
    """Those of a set that is streamed are in its records."""

    def damaged():
        raise tf.errors.DataLossError(None, None, "{{node x}} chunk data hash mismatch\n y")

    source = Streamed("flowers", "train", ("a", "b"), (None, None, 3), 9, None, None, damaged)
    with pytest.raises(UserError, match=r"^An image can no longer be read: chunk data hash mism"):
        builders.build_sampler(config(minibatches="few_labels", labels_per_batch=1), source)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_auxiliary_classifier_is_trained_and_not_evaluated(weight, rng):
    images = rng.integers(0, 256, (3, 65, 65, 1), dtype=np.uint8)
    data = Dataset("blocks", "train", images, np.arange(3), ("a", "b", "c"))
    values = config(model="inception_bn", norm="batch_norm", auxiliary_weight=weight)
    model = builders.build_model(values, data)
    outputs = builders.logits_of(model).output_shape
    assert outputs == ([(None, 3), (None, 3)] if weight else (None, 3))
    assert builders.classifier_of(model).output_shape == (None, 3)
    trained = {path.split("/")[0] for path in (w.path for w in model.trainable_weights)}
    assert ("auxiliary_logits" in trained) == bool(weight)
