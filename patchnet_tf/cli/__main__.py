"""`python -m patchnet_tf.cli`."""

from . import main

main()
