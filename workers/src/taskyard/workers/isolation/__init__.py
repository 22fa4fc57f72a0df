"""Handlers in child processes: `mode="process"` tasks, and suspects that have killed workers.

The worker (`pool`, `conduct`, `child`) and the program in the child (`__main__`, `host`) talk over a
socket of their own (`messages`). A child that dies takes its job with it and nobody else.
"""
