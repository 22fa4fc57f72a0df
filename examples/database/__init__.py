"""Looking after an application's database around its jobs: connections, and their errors."""
