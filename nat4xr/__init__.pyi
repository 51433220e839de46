from . import errors as errors
from . import metrics as metrics
from . import preprocess as preprocess
from .errors import DownloadError as DownloadError
from .errors import ReleaseError as ReleaseError
from .registry import fetch as fetch
from .simulate import simulate as simulate
from .store import open_area as open_area

__version__: str
