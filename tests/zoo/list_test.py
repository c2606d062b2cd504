import pytest

from zoo.catalog import ENTRIES
from zoo.weights import RECORDS


@pytest.fixture
def list_at(run_python):
    def run(columns, *arguments):
        return run_python(
            f"import sys; from zoo import list\nsys.argv = ['list', *{arguments!r}]\nlist.run()",
            COLUMNS=str(columns),
        )

    return run


@pytest.mark.parametrize("columns", [24, 41, 80, 200])
def test_every_name_stands_whole_and_no_line_is_longer_than_the_terminal(list_at, columns):
    done = list_at(columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(len(line) for line in done.stdout.splitlines() if line[0] in "┃│┏┡└") <= columns
    if columns >= 41:  # the longest name and its frame
        for name in [*ENTRIES, *RECORDS]:
            assert f" {name} " in done.stdout


def test_a_wide_terminal_shows_all_of_it(list_at):
    [row] = [
        line
        for line in list_at(200, "resnet50.*").stdout.splitlines()
        if " resnet50.keras_imagenet " in line
    ]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        "resnet50.keras_imagenet",
        "74.9 %",
        "25.6 M",
        "103",
        "224x224x3",
        "caffe",
        "imagenet2012",
        "published by Keras",
        "keras.applications",
        "MIT (KaimingHe/deep-residual-networks)",
    ]


def test_a_narrow_one_says_what_is_missing(list_at):
    out = list_at(80, "resnet50*").stdout
    assert "A terminal of 170 columns shows pixels, data, top-1 from, origin, licence, too." in out
    assert " resnet50v2 " in out
    assert "resnet101" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet5"], "error: No model and no weights match 'resnet5'. Did you mean 'resnet56'?"),
        (["a", "b"], "error: Give one pattern, received 2: a b. A shell fills in names of files"),
        (["--x"], "error: There is no flag --x."),
    ],
)
def test_a_mistake_is_one_line(list_at, arguments, message):
    done = list_at(80, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_tensorflow_is_not_imported(run_python):
    done = run_python(
        "import sys\nfrom zoo import list\nsys.argv = ['list']\n"
        "try:\n    list.run()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('tensorflow', 'keras', 'jax', 'requests', 'h5py') if m in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
