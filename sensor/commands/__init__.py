"""One file per console script: arguments, files, clocks and terminals round the engine."""
