"""TensorBoard event files: golden bytes, and a reader for files that the crate wrote.

    python xtask/golden/tensorboard_events.py              # writes tests/golden/tensorboard.json
    python xtask/golden/tensorboard_events.py --read DIR   # prints the scalars of DIR as TensorBoard itself reads them

Needs the `tensorboard` package. The golden file is framed by TensorBoard's own RecordWriter around TensorBoard's own
protobuf messages, with fixed wall times, so that the bytes can be compared one by one.
"""

import argparse
import io
import json
import pathlib

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "tensorboard.json"


def write():
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    values = [Summary.Value(tag="train/reward", simple_value=0.25), Summary.Value(tag="train/kl", simple_value=-1.5e-3)]
    for event in [
        Event(wall_time=1700000000.5, file_version="brain.Event:2"),
        Event(wall_time=1700000001.25, step=300, session_log=SessionLog(status=SessionLog.START)),
        Event(wall_time=1700000002.0, step=300, summary=Summary(value=values)),
    ]:
        writer.write(event.SerializeToString(deterministic=True))
    OUT.write_text(json.dumps({"made_by": {"tensorboard": tensorboard.__version__}, "hex": stream.getvalue().hex()}) + "\n")


def read(folder):
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])}
    print(json.dumps(scalars))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--read", metavar="DIR")
    folder = arguments.parse_args().read
    read(folder) if folder else write()
