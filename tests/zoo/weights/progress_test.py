import pytest

from zoo.weights.progress import progress_bar


@pytest.mark.parametrize(
    ("wanted", "shown"), [(True, "Downloading resnet20.x from http://host/[a]\n"), (False, "")]
)
def test_without_a_terminal_a_download_is_a_line_if_wanted(capsys, wanted, shown):
    with progress_bar("resnet20.x", "http://host/[a]", wanted) as show:
        show(10, None)
        show(20, 30)
    out, err = capsys.readouterr()
    assert (out, err) == ("", shown)


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("resnet20.x", "http://host/a") as show:
        show(500, 1000)
    assert "0.5/1.0 kB" in capsys.readouterr().err
