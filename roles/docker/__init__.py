"""Docker's engine, for the servers that run in containers: installed, configured, and proven by one that ran."""
