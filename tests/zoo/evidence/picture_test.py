from zoo.evidence import picture


def test_arms_curves_and_diverged_runs_are_drawn(tmp_path):
    curve = [(10, 0.1), (20, 0.4)]
    document = {
        "arms": {
            "whole": {"accuracy": [0.4, 0.5]},
            "diverged": {"accuracy": [0.1, 0.1]},
            "without": {},
            "partly": {"accuracy": [0.4, None]},
        },
        "percentiles": {"whole": [(10, -1.0, 0.0, 1.0), (20, -2.0, 0.5, 2.0)]},
        "curves": {
            "whole": [curve, curve],
            "diverged": [curve[:1], curve],
            "without": [],
            "partly": [curve, []],
        },
    }
    path = tmp_path / "picture.png"
    picture.draw(document, "accuracy", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["picture.png"]
