"""The ledger: the history and index of jobs, in SQL.

The coordinator reads the lifecycle feed and writes what it says into the database; commands read
that. Workers and producers know nothing of it and need the broker only.
"""

from __future__ import annotations
