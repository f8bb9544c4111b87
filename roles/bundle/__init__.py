"""What a host was made from, in one directory: to make others like it where nothing outside can be reached."""
