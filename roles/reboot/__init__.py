"""The one reboot of a run, for kernel and drivers together, when something on the host wants it."""
