"""The models: arrays in, scores out. Nothing here knows packets, flows or files of traffic; `sensor` calls it."""
