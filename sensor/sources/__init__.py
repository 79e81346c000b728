"""Where traffic comes from: capture files and logs. Each source yields blocks of frames or batches of flows."""
