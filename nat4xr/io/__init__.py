"""Read the files of the release and convert them. Everything in this package is private."""
