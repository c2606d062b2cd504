import keras
import pytest

from keras_renorm.ops import backends


def test_the_backend_is_keras_own_and_always_the_same():
    backend = backends.current()
    assert backend.name == keras.backend.backend()
    assert backends.current() is backend


@pytest.mark.parametrize("name", ["numpy", "imaginary"])
def test_a_backend_without_a_folder_has_plain_operations(monkeypatch, name):
    monkeypatch.setattr(keras.backend, "backend", lambda: name)
    backend = backends.current()
    assert type(backend) is backends.Backend
    assert (backend.name, backend.title) == (name, name)
    assert backends.current() is backend
