"""`patchnet serve`: an exported model behind HTTP and gRPC.

| file | |
| --- | --- |
| options.py | how to serve |
| process.py | from the start of a process to its end |
| workers.py | several processes |
| app.py | the routes of HTTP |
| rpc.py | gRPC |
| model.py | what a request of any protocol goes through |
| middleware.py | what is refused before it is read, and what is given up |
| connection.py | sockets |
| security.py | tokens, certificates |
| metrics.py, logs.py | what is counted and said |

Images are never written to disk, and nothing of a request's body is logged.
"""

from ..protocols import Limits
from .options import Options
from .process import serve
from .security import Tls, read_tokens

__all__ = ["Limits", "Options", "Tls", "read_tokens", "serve"]
