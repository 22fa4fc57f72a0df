"""The peers, each as its own documentation has it for speed. They run in an environment of their own.

Durable queues, persistent messages, publisher confirms, and an acknowledgement after the run: what
we promise, as far as each can.
"""
