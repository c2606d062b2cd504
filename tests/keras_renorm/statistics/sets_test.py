import errno

import keras
import numpy as np
import pytest

from keras_renorm import layers, schedules
from keras_renorm.statistics import precise, read_sets, save_set, sets, use_set, write_sets


def numpy(value):
    return np.array(keras.ops.convert_to_numpy(value))


def make_model(*norms, channels=4, name="model"):
    return keras.Sequential([keras.Input((channels,)), *norms], name=name)


@pytest.fixture
def model():
    keras_norm = keras.layers.BatchNormalization(renorm=True)
    renorm = layers.BatchRenormalization(r_max=schedules.PAPER_R_MAX)
    return make_model(renorm, keras.layers.Dense(3), keras_norm)


@pytest.fixture
def domains(rng):
    return [rng.normal(mean, mean, (40, 4)).astype("f4") for mean in (1.0, 5.0)]


def test_switching_between_domains(model, domains):
    outputs = {}
    model.layers[0](domains[0], training=True)
    for name, x in zip("ab", domains, strict=True):
        precise(model, x, verbose=0)
        save_set(model, name)
        outputs[name] = numpy(model(x))
    weights = [numpy(w) for w in (*model.trainable_weights, model.layers[0].update_count)]
    for name, x in zip("aba", (*domains, domains[0]), strict=True):
        use_set(model, name)
        np.testing.assert_array_equal(numpy(model(x)), outputs[name])
        mean = np.float64(x).mean(0)
        np.testing.assert_allclose(numpy(model.layers[0].moving_mean), mean, rtol=1e-5)
    for old, new in zip(
        weights, (*model.trainable_weights, model.layers[0].update_count), strict=True
    ):
        np.testing.assert_array_equal(numpy(new), old)
    assert list(sets(model)) == ["a", "b"]


def test_sets_are_copies(model, domains):
    returned = save_set(model, "start")
    for array in (*returned.values(), *sets(model)["start"].values()):
        array[...] = 7.0
    precise(model, domains[1], verbose=0)
    use_set(model, "start")
    np.testing.assert_array_equal(numpy(model.layers[0].moving_variance), np.ones(4))
    use_set(model, returned)
    np.testing.assert_array_equal(numpy(model.layers[0].moving_variance), np.full(4, 7.0))


def test_a_set_holds_every_statistic(model):
    assert [(key.split("/")[0], key.rsplit("/")[-1]) for key in save_set(model, "x")] == [
        ("0", "moving_mean"),
        ("0", "moving_variance"),
        ("1", "moving_mean"),
        ("1", "moving_variance"),
        ("1", "moving_stddev"),
        ("1", "renorm_mean"),
        ("1", "renorm_stddev"),
    ]


def test_sets_go_through_files_to_another_model(model, domains, tmp_path):
    for name, x in zip(("day", "night, cloudy"), domains, strict=True):
        precise(model, x, verbose=0)
        save_set(model, name)
    write_sets(model, tmp_path / "sets.npz")
    other = keras.models.clone_model(model)
    assert read_sets(other, tmp_path / "sets.npz") == ["day", "night, cloudy"]
    use_set(other, "day")
    np.testing.assert_allclose(
        numpy(other.layers[0].moving_mean), np.float64(domains[0]).mean(0), rtol=1e-5
    )
    for name, one in sets(model).items():
        for key, array in one.items():
            np.testing.assert_array_equal(sets(other)[name][key], array)


def test_weights_of_bfloat16_go_through_files(tmp_path):
    norms = [keras.layers.BatchNormalization(dtype=dtype) for dtype in ("float32", "bfloat16")]
    model = make_model(*norms)
    for layer, value in zip(model.layers, (7.0, 3.0), strict=True):
        layer.moving_mean.assign(np.full(4, value))
    save_set(model, "a")
    write_sets(model, tmp_path / "sets.npz")
    other = keras.models.clone_model(model)
    assert read_sets(other, tmp_path / "sets.npz") == ["a"]
    use_set(other, "a")
    means = [numpy(layer.moving_mean).astype("f4") for layer in other.layers]
    np.testing.assert_array_equal(means, np.repeat([[7.0], [3.0]], 4, axis=1))


@pytest.mark.parametrize("dtype", ["V2", "c16", "U1"])
def test_arrays_that_hold_no_real_numbers_change_nothing(model, dtype):
    arrays = save_set(model, "a")
    before = {key: array.copy() for key, array in arrays.items()}
    changed = {key: array + 1 for key, array in arrays.items()}
    last = list(changed)[-1]
    changed[last] = np.zeros(3, dtype)
    with pytest.raises(ValueError, match=r", and no real numbers\. The model is unchanged\."):
        use_set(model, changed)
    for key, array in save_set(model, "b").items():
        np.testing.assert_array_equal(array, before[key])


def test_the_numbers_of_the_keys_are_the_order():
    model = make_model(*[layers.BatchNormalization() for _ in range(12)])
    for number, layer in enumerate(model.layers):
        layer.moving_mean.assign(np.full(4, float(number)))
    arrays = save_set(model, "a")
    use_set(model, dict(sorted(arrays.items())))  # as text, 10 comes before 2
    found = [float(numpy(layer.moving_mean)[0]) for layer in model.layers]
    assert found == list(range(12))


def test_files_are_not_overwritten(model, tmp_path):
    path = tmp_path / "sets.npz"
    with pytest.raises(ValueError, match="No set of statistics is kept for the model 'model'"):
        write_sets(model, path)
    save_set(model, "a")
    with pytest.raises(ValueError, match=r"`path` must end in '\.npz', received"):
        write_sets(model, tmp_path / "sets")
    path.write_text("dear diary")
    with pytest.raises(FileExistsError):
        write_sets(model, path)
    assert path.read_text() == "dear diary"


def test_a_file_that_cannot_be_written_whole_is_no_file(model, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "sets.npz"
    save_set(model, "a")
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            write_sets(model, path)
    assert not path.exists()
    write_sets(model, path)
    assert read_sets(model, path) == ["a"]


@pytest.mark.parametrize(("at", "value"), [(8, 99), (6, 1), (42, 255)])
def test_a_damaged_file_is_refused(model, tmp_path, at, value):
    """A field of the archive's directory says: an unknown compression, encrypted, elsewhere."""
    path = tmp_path / "sets.npz"
    save_set(model, "a")
    write_sets(model, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02") + 2
    content[entry + at] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sets\.npz' holds no sets of statistics"):
        read_sets(model, path)


@pytest.mark.parametrize("content", [b"dear diary", b"", b"PK\x03\x04 broken"])
def test_other_files_are_refused(model, tmp_path, content):
    (tmp_path / "sets.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"sets\.npz' holds no sets of statistics"):
        read_sets(model, tmp_path / "sets.npz")
    assert sets(model) == {}


def test_a_single_array_is_refused(model, tmp_path):
    with open(tmp_path / "sets.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"sets\.npz' holds no sets of statistics"):
        read_sets(model, tmp_path / "sets.npz")


def test_a_file_without_arrays_is_refused(model, tmp_path):
    np.savez(tmp_path / "sets.npz")
    with pytest.raises(ValueError, match=r"sets\.npz' holds no sets of statistics: it is empty"):
        read_sets(model, tmp_path / "sets.npz")


@pytest.mark.parametrize("wrong", [None, [1, 2], 3])
def test_what_is_no_set_is_refused(model, wrong):
    with pytest.raises(TypeError, match="`statistics_set` must be the name of a set or a set"):
        use_set(model, wrong)


def test_arrays_of_another_file_are_refused(model, tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="does not fit the model 'model': it holds 1 arrays"):
        read_sets(model, tmp_path / "other.npz")
    assert sets(model) == {}


@pytest.mark.parametrize(
    ("norms", "channels", "message"),
    [
        ([layers.BatchNormalization()], 4, "holds 7 arrays, and the model's batch norms 2"),
        (
            [layers.BatchNormalization(), keras.layers.BatchNormalization(renorm=True)],
            4,
            r"its '1/.*moving_mean' of shape \(3,\) stands where the model has '1/.* shape \(4,\)",
        ),
        (
            [keras.layers.BatchNormalization(renorm=True), layers.BatchNormalization()],
            4,
            r"stands where the model has '0/.*/moving_stddev' of shape \(4,\)",
        ),
    ],
    ids=["number", "shape", "kind"],
)
def test_sets_that_do_not_fit_are_refused(model, tmp_path, norms, channels, message):
    save_set(model, "a")
    write_sets(model, tmp_path / "sets.npz")
    other = make_model(*norms, channels=channels, name="other")
    before = [numpy(w) for w in other.weights]
    with pytest.raises(ValueError, match=message):
        use_set(other, sets(model)["a"])
    with pytest.raises(ValueError, match=message):
        read_sets(other, tmp_path / "sets.npz")
    assert sets(other) == {}
    for old, new in zip(before, other.weights, strict=True):
        np.testing.assert_array_equal(numpy(new), old)


def test_bad_names(model):
    save_set(model, "day")
    with pytest.raises(KeyError, match=r"No set of statistics named 'dya' .* there are \['day'\]"):
        use_set(model, "dya")
    for name in ("", "a/b"):
        message = f"`name` must not be empty nor hold a '/', received {name!r}. Write e.g. 'day'"
        with pytest.raises(ValueError, match=message):
            save_set(model, name)
    with pytest.raises(TypeError, match="`name` must be a string, received 3 of type int"):
        save_set(model, 3)


@pytest.mark.parametrize("wrong", [None, "net", 3])
def test_what_is_no_model_is_refused(wrong, tmp_path):
    message = r"`model` must be a .*, received .* of type"
    for function in (sets, lambda x: write_sets(x, tmp_path / "a.npz")):
        with pytest.raises(TypeError, match=message):
            function(wrong)
    with pytest.raises(TypeError, match=message):
        read_sets(wrong, tmp_path / "a.npz")


def test_what_is_no_path_is_refused(model):
    save_set(model, "a")
    for function in (write_sets, read_sets):
        with pytest.raises(TypeError, match=r"`path` must be the path of a file, received None"):
            function(model, None)
