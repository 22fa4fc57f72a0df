"""What a job costs on the hot paths, counted instead of timed."""
