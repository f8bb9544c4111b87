"""What every later role stands on: packages, locks, logs, time, and the accounts of the servers."""
