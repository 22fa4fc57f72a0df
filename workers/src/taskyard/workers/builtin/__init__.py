"""Ready-made tasks, off unless they are asked for: `http.request` and `shell.run`.

An operator names a module (`taskyard worker taskyard.workers.builtin.http`) and configures it by
settings; a developer puts a task into a queue of the application (`requests.add_to(queue, …)`).
"""
