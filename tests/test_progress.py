"""The lines that training prints."""

import pytest

from iwae_tf.training import progress

ROW = {"train_iwae_bound": -90.0, "validation_iwae_bound": -91.0}


@pytest.fixture
def clock(monkeypatch):
    """Sets the time."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def _line(shown, epoch, capsys):
    capsys.readouterr()
    shown.after_epoch({"epoch": epoch, **ROW})
    return capsys.readouterr().err


def test_the_time_left_does_not_count_compiling(clock, capsys):
    shown = progress.Progress(0.0, [1] * 4)
    clock.now += 500.0  # The first call compiles.
    shown.within_epoch(0, 0.5, {"iwae_bound": -95.0})
    clock.now += 1.0
    assert _line(shown, 1.0, capsys).endswith("6 s left\n")
    clock.now += 6.0
    assert _line(shown, 4.0, capsys).endswith("0 s left\n")


def test_epochs_with_more_samples_take_longer(clock, capsys):
    shown = progress.Progress(0.0, [1, 1, 13])
    shown.within_epoch(0, 0.5, {"iwae_bound": -95.0})
    clock.now += 1.0
    # Half an epoch has taken a second; one like it and one of four times the work are left.
    assert _line(shown, 1.0, capsys).endswith("10 s left\n")


def test_no_estimate_is_made_of_nothing(capsys):
    shown = progress.Progress(0.0, [1, 1])
    shown.within_epoch(0, 0.5, {"iwae_bound": -95.0})
    shown.within_epoch(0, 0.5, {"iwae_bound": -95.0})
    assert "left" not in capsys.readouterr().err
