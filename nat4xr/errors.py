"""What can go wrong with the release, in words for its user."""


class ReleaseError(ValueError):
    """A file of the release is broken or is not what the release should hold."""


class DownloadError(OSError):
    """A file of the release could not be downloaded whole."""
