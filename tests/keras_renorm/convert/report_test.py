import keras

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
