"""netseq: a network sensor that reads packets or Zeek's conn.log and alerts on what does not fit the traffic's language.

The path of a packet: a source (`sources`) hands over raw frames without copying them; `decode` writes one PACKET row a
frame; `flows` folds the rows into bidirectional flows and emits those that end; `words` makes a word of each flow;
`conversations` finds the host pair it belongs to; `models.resident` advances that pair's LSTM state on the device and
says how surprising each part of the word was; `detect` turns the verdict into a p-value and, rarely, into an alert with
its reasons; `sinks` write it. `engine` is that path without any I/O, `commands` put files, terminals and clocks round it.
"""

__version__ = "0.1.0"
