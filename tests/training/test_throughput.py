"""Images per second and the time left, with a clock of the test."""

import logging

from kd_keras.training.throughput import ReportThroughput


def messages(caplog, seconds_per_step, every=60.0, steps=4, epochs=3, start=0):
    time = [0.0]
    report = ReportThroughput(40, steps, epochs, every, clock=lambda: time[0])
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="kd_keras"):
        for epoch in range(start, epochs):
            report.on_epoch_begin(epoch)
            for step in range(steps):
                time[0] += seconds_per_step
                report.on_train_batch_end(step)
            report.on_epoch_end(epoch)
    return [record.getMessage() for record in caplog.records]


def test_long_epochs_report_within_them(caplog):
    """10 images in 30 seconds each step; of 12 steps, 2, 4, ... are done at each minute."""
    texts = messages(caplog, 30.0)
    assert texts[0] == "0.5 of 3 epochs, 0 images/s, 5 min 0 s left." and len(texts) == 6
    assert texts[-1].startswith("3.0 of 3 epochs") and texts[-1].endswith("0 s left.")


def test_short_epochs_report_the_last_one_only(caplog):
    assert messages(caplog, 0.5) == ["3.0 of 3 epochs, 20 images/s, 0 s left."]


def test_a_resumed_training_counts_from_where_it_starts(caplog):
    assert messages(caplog, 10.0, every=40.0, start=1)[0] == "2.0 of 3 epochs, 1 images/s, 40 s left."
