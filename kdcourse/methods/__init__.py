"""Losses that go beyond the core, one idea a file; pure functions like those of `kdcourse.losses`."""
