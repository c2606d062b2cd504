import re

import h5py
import keras
import numpy as np
import pytest

from zoo.weights import hdf5
from zoo.weights.errors import WeightsError


@pytest.fixture
def model():
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(4, name="b")]
    )


def names_and_shapes(path):
    with path.open("rb") as file, hdf5.open_weights(file, path) as stored:
        return {
            name: tuple(weight.shape for weight in layer.weights)
            for name, layer in stored.layers.items()
        }


def older(path, write_layer, name="a", **attributes):
    """A file in the older layout with one layer."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode()]
        group = file.create_group(name)
        group.attrs["weight_names"] = [b"a/kernel:0"]
        write_layer(group)
    return path


def refused(path, match):
    with pytest.raises(WeightsError, match=match):
        names_and_shapes(path)


def test_todays_layout(model, tmp_path):
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 3)), np.zeros((2, 4)), verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    assert names_and_shapes(tmp_path / "m.weights.h5") == {
        "a": ((3, 2), (2,)),
        "b": ((2, 4), (4,)),
    }


def test_the_older_layout_with_its_list_of_names_cut_in_parts(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names0"] = [b"a", b"input"]
        file.attrs["layer_names1"] = [b"b"]
        for name, shape in {"a": (3, 2), "b": (2, 4)}.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            group[f"{name}/kernel:0"] = np.ones(shape)
        file.create_group("input").attrs["weight_names"] = np.zeros(0)
    assert names_and_shapes(path) == {"a": ((3, 2),), "b": ((2, 4),)}
    with path.open("rb") as file, hdf5.open_weights(file, path) as stored:
        assert stored.layers["a"].names == ("kernel",)
        assert stored.ordered


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused(model, tmp_path, kept):
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refused(path, f"{re.escape(str(path))} is damaged, or no checkpoint: .*Nothing was loaded")


def test_a_whole_model_or_arrays_are_refused(model, tmp_path):
    model.save(tmp_path / "m.keras")
    refused(tmp_path / "m.keras", r"is a zip archive, such as a whole \.keras model")
    np.savez(tmp_path / "m.npz", np.array([{"pickled": True}], object))
    refused(tmp_path / "m.npz", "is a zip archive")


@pytest.mark.parametrize("contents", [b"", b"<html>", b"\x80\x04\x95pickle"])
def test_what_is_no_hdf5_is_refused(tmp_path, contents):
    (tmp_path / "m.h5").write_bytes(contents)
    refused(tmp_path / "m.h5", f"is no HDF5 file: it begins with {re.escape(repr(contents[:8]))}")


def test_what_is_no_model_is_refused(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["images"] = np.zeros(3)
    refused(tmp_path / "m.h5", "holds no weights of a Keras model, but 'images'")


def test_links_to_other_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.zeros((3, 2))

    def external(group):
        group.create_group("a")["kernel:0"] = h5py.ExternalLink("other.h5", "secret")

    def soft(group):
        group.create_group("a")["kernel:0"] = h5py.SoftLink("/a")

    for link in (external, soft):
        refused(older(tmp_path / "m.h5", link), "a/a/kernel:0 is missing, or a link")


def test_arrays_that_lie_in_other_files_are_refused(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(24))

    def external(group):
        group.create_dataset("a/kernel:0", (3,), "f8", external=[(tmp_path / "raw", 0, 24)])

    def virtual(group):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "raw", "x", (3,))
        group.create_virtual_dataset("a/kernel:0", layout)

    def text(group):
        group["a/kernel:0"] = "words"

    for array in (external, virtual, text):
        refused(older(tmp_path / "m.h5", array), "is no array of numbers in this file")


def test_what_h5py_cannot_read_is_refused(model, tmp_path):
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    data = bytearray(path.read_bytes())
    data[48:56] = (2**63).to_bytes(8, "little")  # The address of the driver information block.
    (tmp_path / "address.h5").write_bytes(data)
    refused(tmp_path / "address.h5", "is damaged, or no checkpoint")
    with h5py.File(path, "r+") as file:
        h5py.h5g.create(file["layers"].id, b"\xff")  # No text.
    refused(path, "is damaged, or no checkpoint")

    def strange(group):
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_ebias(2**20)  # A number that NumPy lacks a type for.
        parent = group.create_group("a")
        h5py.h5d.create(parent.id, b"kernel:0", kind, h5py.h5s.create_simple((3,)))

    def array(group):
        group["a"] = np.zeros(3)

    for layer in (strange, array):
        refused(older(tmp_path / "m.h5", layer), "is damaged, or no checkpoint")


def test_a_weight_that_is_missing_is_named(tmp_path):
    refused(older(tmp_path / "m.h5", lambda group: None), "/a/a is missing")


def test_names_that_were_not_kept_are_needed(model, tmp_path):
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars"].attrs["name"]
    refused(path, "was written by a Keras that does not keep the names of the layers")


def test_models_in_models_are_refused(model, tmp_path):
    path = tmp_path / "m.weights.h5"
    keras.Sequential([keras.Input((3,)), model]).save_weights(path)
    refused(path, "holds the weights of a model with layers in layers: sequential/layers/")


def test_the_state_of_a_dropout_is_no_weight(tmp_path):
    path = tmp_path / "m.weights.h5"
    layers = [keras.layers.Dropout(0.5), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="a")]
    keras.Sequential([keras.Input((3,)), *layers]).save_weights(path)
    assert names_and_shapes(path) == {"a": ((3, 2), (2,))}
