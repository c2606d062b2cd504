"""Run by packaged_test.py, in a process that has opened nothing before."""

import socket

import numpy as np
import pytest

from zoo.trained.opening import open_trained
from zoo.weights.packaged import PACKAGED


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a checkpoint of the package asks for the network")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.parametrize("record", PACKAGED, ids=lambda record: record.name)
@pytest.mark.usefixtures("no_network")
def test_it_opens(record, monkeypatch, tmp_path):
    """And nothing is written to the cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    trained = open_trained(record.name)
    assert trained.card.class_names == record.class_names
    assert len(record.class_names) == record.num_classes
    x = np.zeros((1, *record.input_shape), "float32")
    assert float(np.sum(trained.classifier(x))) == pytest.approx(1.0, abs=1e-5)
    assert not list(tmp_path.iterdir())
