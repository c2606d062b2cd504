import numpy as np

from zoo.data.sources import Streamed


def test_a_streamed_set_says_what_it_holds():
    labels = np.array([0, 1, 1])
    names = ("a", "b")
    source = Streamed("s", "train", names, (None, None, 3), 3, None, None, lambda: labels)
    assert (len(source), source.num_classes) == (3, 2)
    assert source.labels is labels
