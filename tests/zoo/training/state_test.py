import dataclasses
import json

from zoo.training.state import State, Window


def test_a_window_sums():
    window = Window()
    window.add(loss=0.5, correct=3, examples=4, seconds=0.25)
    window.add(loss=1.5, correct=1, examples=4, seconds=0.5)
    assert window == Window(steps=2, examples=8, loss=2.0, correct=4, seconds=0.75)


def test_a_state_survives_json():
    state = State(step=7, seconds=1.5, window=Window(steps=2, examples=8, loss=2.0))
    assert State.from_json(json.loads(json.dumps(dataclasses.asdict(state)))) == state
