"""Runs notebooks of the documentation, and writes their tables and pictures into them.

python tools/run_notebooks.py docs/notebooks/*.ipynb

The site and a public host show these outputs and run nothing. Run this after a change of a
notebook. It needs nbclient and ipykernel, which `pip install -e '.[docs]'` brings.
"""

import os
import pathlib
import sys

import nbclient
import nbformat


def run(path: pathlib.Path) -> None:
    """Runs a notebook from top to bottom, and replaces its file if no cell failed."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, record_timing=False, coalesce_streams=True
    )
    client.execute(cwd=str(path.parent))
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # TensorFlow's log is about this machine.
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    nbformat.write(notebook, path)


def main() -> None:
    """Runs the notebooks that the command line names."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in sys.argv[1:]:
        run(pathlib.Path(name))
        print(f"{name} is written")


if __name__ == "__main__":
    main()
