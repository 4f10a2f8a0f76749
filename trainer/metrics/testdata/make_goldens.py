"""events.tfevents: an event file as TensorBoard's own package writes it.

    python make_goldens.py            writes events.tfevents beside this file
    python make_goldens.py FOLDER     prints what TensorBoard reads from a folder of event files

Needs tensorboard==2.21.0.
"""

import os
import sys

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = os.path.dirname(os.path.abspath(__file__))
START = 1700000000.25


def scalars(step, **values):
    value = lambda name, v: Summary.Value(tag=name.replace("__", "/"), simple_value=v)
    return Event(wall_time=START + step, step=step, summary=Summary(value=[value(n, v) for n, v in values.items()]))


def main():
    assert tensorboard.__version__ == "2.21.0", tensorboard.__version__
    with open(os.path.join(HERE, "events.tfevents"), "wb") as f:
        w = RecordWriter(f)
        for e in [
            Event(wall_time=START, file_version="brain.Event:2"),
            Event(wall_time=START, session_log=SessionLog(status=SessionLog.START)),
            scalars(1, loss=0.6931471805599453, rewards__chosen=-0.125, grad_norm=0.0),
            scalars(300, loss=1e-30, tokens__s=123456.789),
        ]:
            w.write(e.SerializeToString())
        w.flush()


def show(folder):
    events = EventAccumulator(folder)
    events.Reload()
    for tag in sorted(events.Tags()["scalars"]):
        print(tag, [(e.step, e.value) for e in events.Scalars(tag)])


if __name__ == "__main__":
    show(sys.argv[1]) if len(sys.argv) > 1 else main()
