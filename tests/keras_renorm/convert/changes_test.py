import keras
import pytest

from keras_renorm import convert, layers


def test_a_report_prints_a_line_for_each_layer(capsys):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, name="dense"),
            layers.BatchNormalization(name="folded"),
            keras.layers.ReLU(),
            layers.BatchNormalization(name="affine"),
            keras.layers.LayerNormalization(name="other"),
        ],
        name="net",
    )
    convert.fold(model, report=print)
    assert capsys.readouterr().out.splitlines() == [
        "2 layers replaced, 1 kept",
        "  net/folded  BatchNormalization folded into net/dense",
        "  net/affine  BatchNormalization -> BatchNormalization (affine: follows ReLU)",
        "  net/other   LayerNormalization kept",
    ]


def test_a_model_without_norms_has_an_empty_report():
    reports = []
    convert.from_keras(keras.Sequential([keras.layers.Dense(3)]), report=reports.append)
    assert reports == [convert.Report((), ())]
    assert str(reports[0]) == "0 layers replaced, 0 kept"


@pytest.mark.parametrize("to", [convert.fold, convert.from_keras, convert.to_keras])
def test_a_report_that_cannot_be_called_is_refused(to):
    message = r"`report` must be a function .*, received True of type bool. Write `report=print`"
    with pytest.raises(TypeError, match=message):
        to(keras.Sequential([keras.Input((5,)), layers.SkipInit()]), report=True)
