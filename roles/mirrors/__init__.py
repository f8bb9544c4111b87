"""Where packages come from: apt's archives and the Python index, probed on the host before they are written."""
