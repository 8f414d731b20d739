"""The page of `patchnet serve`: plain HTML, CSS and JavaScript."""
