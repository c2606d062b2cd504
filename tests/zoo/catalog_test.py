import zoo
from zoo.catalog import ENTRIES
from zoo.models.registry import MODELS


def test_the_catalog_is_that_of_the_registry():
    assert sorted(ENTRIES) == zoo.list_models()
    for name, entry in ENTRIES.items():
        assert entry.input_shape == MODELS[name].input_shape
        assert entry.num_classes == MODELS[name].num_classes
