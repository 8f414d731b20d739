"""The log: a JSON object on each line of stderr."""

import json
import logging
import sys
import time
import warnings
from pathlib import Path

log = logging.getLogger("patchnet.serve")


class JsonLines(logging.Formatter):
    """One JSON object per line, with what `extra` gives."""

    usual = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of an exception, where it was raised, not what it says."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in self.usual},
        }
        if record.exc_info and record.exc_info[1]:
            line["fault"] = where(record.exc_info[1])
        return json.dumps(line, default=str)


def configure_logging() -> None:
    """Log JSON lines to stderr; other packages' own lines only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(logging.INFO)
    warnings.simplefilter("ignore")


def where(error: BaseException) -> list[str]:
    """Return the type of an error and the last places that it passed."""
    places, trace = [], error.__traceback__
    while trace:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return [type(error).__name__, *places[-5:]]
