from . import errors as errors
from .errors import DownloadError as DownloadError
from .errors import ReleaseError as ReleaseError

__version__: str
